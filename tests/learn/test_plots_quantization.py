"""The numbers that the figures of the quantization lessons show, against plain formulas."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.learn.plots import quantization as plots_quantization

X = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def regions(granularity):
    shape = {"per_tensor": (1, 1, 96), "per_channel": (6, 1, 16), "per_group": (6, 4, 4)}[granularity]
    return X.reshape(shape)


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel", "per_group"])
def test_the_maps_show_values_scales_and_errors(granularity):
    figure = plots_quantization.shared_scales(
        X, bits=3, granularity=granularity, group_size=4, rows="output", columns="input"
    )
    values, scale, error = (torch.as_tensor(axes.images[0].get_array().data) for axes in figure.axes[:3])
    cut = regions(granularity)
    step = (cut.amax(-1).clamp(min=0) - cut.amin(-1).clamp(max=0)) / 7
    assert torch.equal(values, X)
    assert torch.allclose(scale, step.repeat_interleave(16 // step.shape[1], 1).expand(6, 16), rtol=1e-3)
    assert (error <= scale * 1.001).all() and error.max() > 0.2 * scale.min()
    count = step.numel()
    assert f"{count} scale" in figure.get_suptitle() and f"{3 + 19 * count / 96:.2f} bits" in figure.get_suptitle()


def test_the_clipping_curve_is_the_sum_of_its_parts_and_its_end_clips_nothing():
    figure = plots_quantization.clipping(X, bits=4, share=0.5, name="numbers")
    left, right = figure.axes
    lines = {line.get_label(): torch.as_tensor(line.get_ydata()) for line in right.lines}
    assert torch.allclose(lines["clipping"] + lines["rounding"], lines["in all"], atol=1e-9)
    step = float(X.abs().max()) / 7
    whole = (X - step * (X / step).round()).square().mean() / X.square().mean()
    assert float(lines["in all"][-1]) == pytest.approx(float(whole), rel=1e-4)
    half = (X.abs() > X.abs().max() / 2).double().mean()
    assert f"{float(half):.2%} clipped" in left.get_title(loc="left")
