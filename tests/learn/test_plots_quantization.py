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
    shape = {"per_tensor": (1, 1, 96), "per_channel": (6, 1, 16), "per_group": (6, 4, 4)}[
        granularity
    ]
    return X.reshape(shape)


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel", "per_group"])
def test_the_maps_show_values_scales_and_errors(granularity):
    figure = plots_quantization.shared_scales(
        X, bits=3, granularity=granularity, group_size=4, rows="output", columns="input"
    )
    values, scale, error = (
        torch.as_tensor(axes.images[0].get_array().data) for axes in figure.axes[:3]
    )
    cut = regions(granularity)
    step = cut.abs().amax(-1) / 3
    assert torch.equal(values, X)
    assert torch.allclose(
        scale, step.repeat_interleave(16 // step.shape[1], 1).expand(6, 16), rtol=1e-3
    )
    assert (error <= scale * 1.001).all() and error.max() > 0.2 * scale.min()
    count = step.numel()
    assert (
        f"{count} scale" in figure.get_suptitle()
        and f"{3 + 16 * count / 96:.2f} bits" in figure.get_suptitle()
    )


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


def test_the_ranges_of_tokens_are_sorted_beside_the_static_ones():
    (axes,) = plots_quantization.token_ranges(X, {"static": 1.5}, name="layer").axes
    token, static = axes.lines
    assert torch.equal(torch.as_tensor(token.get_ydata()), X.abs().amax(1).sort().values)
    assert set(static.get_ydata()) == {1.5} and static.get_label() == "static"


def test_loudness_is_relative_to_the_median():
    channel, token = plots_quantization.loudness({"a": X, "b": 3 * X}).axes
    for axes, dim in ((channel, 0), (token, 1)):
        ranges = X.abs().amax(dim).sort(descending=True).values
        for line in axes.lines[:2]:
            assert torch.allclose(torch.as_tensor(line.get_ydata()), ranges / ranges.median())


def test_the_gradient_passes_inside_the_range_only():
    forward, backward = plots_quantization.straight_through(0.5, 1, 2).axes
    w, stairs = (torch.as_tensor(a) for a in forward.lines[1].get_data())
    assert torch.allclose(stairs, 0.5 * ((w / 0.5).round() + 1).clamp(0, 3) - 0.5)
    passed = torch.as_tensor(backward.lines[0].get_ydata())
    assert torch.equal(passed, ((w >= -0.5) & (w <= 1.0)).float())


def test_points_stand_where_their_bytes_and_distance_are():
    points = {"a": (1.0, 0.1), "W8A8 b": (2.0, 0.01), "c": (3.0, 0.001)}
    (axes,) = plots_quantization.bytes_against_distance(
        points, {"one": ["a", "c"], "two": ["W8A8 b"]}
    ).axes
    drawn = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert drawn["one"] == [(1.0, 0.1), (3.0, 0.001)] and drawn["two"] == [(2.0, 0.01)]
    assert {text.get_text() for text in axes.texts} >= {"a", "b", "c"}


def test_errors_stand_over_the_cost_of_each_way():
    ways = {
        "halved": lambda bits: (X / 2, bits + 0.5),
        "kept": lambda bits: (X * (1 + 0.5**bits), float(bits)),
    }
    (axes,) = plots_quantization.errors_by_cost(X, ways, title="t").axes
    lines = {line.get_label(): line.get_data() for line in axes.lines}
    assert list(lines["halved"][0]) == [2.5, 3.5, 4.5, 5.5, 6.5, 8.5] and list(
        lines["halved"][1]
    ) == pytest.approx([0.5] * 6)
    assert list(lines["kept"][1]) == pytest.approx([0.5**b for b in (2, 3, 4, 5, 6, 8)], rel=1e-3)
