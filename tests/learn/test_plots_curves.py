"""Curves and intervals show the numbers they are given."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.evaluation.comparison import compare
from course_utils.learn import plots
from course_utils.learn.plots import quantization as plots_quantization
from course_utils.learn.plots import rounding
from course_utils.learn.plots.curves import curves, intervals


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_the_package_gives_the_figures_of_lessons_their_pyplot():
    assert plots.plt is plt


def test_curves_are_drawn_as_given():
    figure = curves([1, 2, 4], {"a": [3, 2, 1], "b": [1, 1, 1]}, title="t", xlabel="x", ylabel="y", logx=True, level=(2, "two"))
    (axes,) = figure.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn["a"] == [3, 2, 1] and drawn["b"] == [1, 1, 1] and drawn["two"] == [2, 2]
    assert axes.get_xscale() == "log" and axes.get_yscale() == "linear"
    with pytest.raises(CompressionError, match="a: 2 values over 3"):
        curves([1, 2, 3], {"a": [1, 2]}, title="", xlabel="", ylabel="")


def test_intervals_stand_at_the_means_of_a_comparison():
    rows = {"one": lambda seed: torch.tensor([1.0, 2.0, 3.0]) + seed, "two": lambda seed: torch.tensor([5.0, 6.0, 9.0])}
    table = compare("t", rows, progress=False)
    figure = intervals({"t": table}, title="t", xlabel="x", log=False)
    (axes,) = figure.axes
    (bar,) = axes.containers
    assert list(bar.lines[0].get_xdata()) == pytest.approx([table.mean("one"), table.mean("two")])
    spans = [segment[:, 0] for segment in bar.lines[2][0].get_segments()]
    assert spans[0] == pytest.approx(table.interval("one")) and spans[1] == pytest.approx(table.interval("two"))


def test_a_row_that_one_table_lacks_is_left_out_of_it():
    both = compare("t", {"one": lambda seed: 1.0 + seed, "two": lambda seed: 2.0 + seed}, progress=False)
    one = compare("t", {"one": lambda seed: 3.0 + seed}, progress=False)
    figure = intervals({"a": both, "b": one}, title="t", xlabel="x")
    assert [len(bar.lines[0].get_xdata()) for bar in figure.axes[0].containers] == [2, 1]


def test_the_costs_of_clipping_against_a_plain_sum():
    x = torch.tensor([-4.0, -1.2, 0.3, 0.9, 2.2])
    clipped, rounded = plots_quantization.clipping_costs(x, torch.tensor([0.5]), bits=3)[0].tolist()
    step = 2.0 / 3
    back = [step * max(-3, min(3, round(float(v) / step))) for v in x]
    squares = [(float(v) - b) ** 2 for v, b in zip(x, back, strict=True)]
    power = sum(float(v) ** 2 for v in x)
    assert clipped == pytest.approx((squares[0] + squares[4]) / power, rel=1e-6)
    assert rounded == pytest.approx(sum(squares[1:4]) / power, rel=1e-6)


def test_the_figures_of_lesson_3_1_draw_what_they_are_given():
    steps = torch.logspace(-1, 1, 9)
    (axes,) = rounding.twelfth(steps, [1.0] * 9, [1.0, 0.9, 0.8]).axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn["200,000 of them, rounded"].get_ydata()) == [1.0, 0.9, 0.8]
    ends = {(8, "min-max"): 3.0, (8, "percentile"): 1.0, (4, "min-max"): 3.0, (4, "percentile"): 2.0}
    figure = rounding.range_ends(torch.linspace(-3, 3, 50), ends | {(b, r): 2.5 for b in (8, 4) for r in ("MSE", "KL")})
    places = [{line.get_label(): line.get_xdata()[0] for line in axes.lines} for axes in figure.axes]
    assert places[0]["percentile"] == 1.0 and places[1]["percentile"] == 2.0
