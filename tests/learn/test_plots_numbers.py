"""The figures of lesson 1.2 show the numbers of `formats` and of the grid."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.learn.plots import numbers
from course_utils.quantization import formats


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "name", ["FP8 E4M3", "FP8 E5M2", "INT8", "INT4", "NF4", "FP4 E2M1", "FP16", "BF16"]
)
def test_a_pattern_is_read_as_the_format_reads_it(name):
    f = formats.find(name)
    for byte in range(3, 256, 36):
        boxes = [bool(byte >> (7 - i) & 1) for i in range(8)]
        code = byte << (f.bits - 8) if f.bits > 8 else byte % 2**f.bits
        title = numbers.pattern(boxes, name).axes[0].get_title(loc="left")
        value = float(formats.decode(code, f))
        said = "not a number" if value != value else f"{value:g}".replace("inf", "infinity")
        assert title == f"{name}: pattern {code:0{f.bits}b} is {said}"
        plt.close("all")


def test_the_lines_of_the_grid_lie_one_step_apart():
    group = torch.linspace(-0.3, 0.5, 64)[None]
    above, below = numbers.grid_and_error(group, 3).axes
    lines = sorted(
        line.get_ydata()[0]
        for line in above.lines
        if line.get_linestyle() == "-" and len(line.get_ydata()) == 2
    )
    assert len(lines) == 8
    assert torch.allclose(torch.tensor(lines).diff(), torch.full((7,), 0.8 / 7), rtol=1e-3)
    assert max(abs(bar.get_height()) for bar in below.patches[1:]) <= 0.8 / 14 * 1.001


def test_names_and_values_of_the_other_figures():
    assert len(numbers.layouts(list(formats.FORMATS)).axes[0].get_yticks()) == len(formats.FORMATS)
    texts = [t.get_text() for t in numbers.reach(["BF16", "FP16"]).axes[0].texts]
    assert texts == ["relative step at most 1/128", "relative step at most 1/1,024"]
    axes = numbers.values_under(torch.rand(4, 64) * 2 - 1, {"NF4": formats.values("NF4")}).axes[0]
    assert [s[0][0] for s in axes.collections[0].get_segments()] == pytest.approx(
        formats.values("NF4").tolist()
    )
    axes = numbers.bytes_against_error({"a": [("x", 0.5, 0.1)]}).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[0.5, 0.1]] and axes.texts[0].get_text() == "x"
    axes = numbers.outlier(lambda name, k: k / 100, ["INT4"], 12).axes[0]
    assert axes.lines[1].get_xydata().tolist() == [[12, 0.12]]
