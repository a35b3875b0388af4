"""Curves and intervals show the numbers they are given."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.evaluation.comparison import compare
from course_utils.learn import plots
from course_utils.learn.plots import gptq as plots_gptq
from course_utils.learn.plots import quantization as plots_quantization
from course_utils.learn.plots import rounding, scaling, scores
from course_utils.learn.plots.curves import curves, intervals


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_the_package_gives_the_figures_of_lessons_their_pyplot():
    assert plots.plt is plt


def test_curves_are_drawn_as_given():
    figure = curves(
        [1, 2, 4],
        {"a": [3, 2, 1], "b": [1, 1, 1]},
        title="t",
        xlabel="x",
        ylabel="y",
        logx=True,
        level=(2, "two"),
    )
    (axes,) = figure.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn["a"] == [3, 2, 1] and drawn["b"] == [1, 1, 1] and drawn["two"] == [2, 2]
    assert axes.get_xscale() == "log" and axes.get_yscale() == "linear"
    with pytest.raises(CompressionError, match="a: 2 values over 3"):
        curves([1, 2, 3], {"a": [1, 2]}, title="", xlabel="", ylabel="")


def test_intervals_stand_at_the_means_of_a_comparison():
    rows = {
        "one": lambda seed: torch.tensor([1.0, 2.0, 3.0]) + seed,
        "two": lambda seed: torch.tensor([5.0, 6.0, 9.0]),
    }
    table = compare("t", rows, progress=False)
    figure = intervals({"t": table}, title="t", xlabel="x", log=False)
    (axes,) = figure.axes
    (bar,) = axes.containers
    assert list(bar.lines[0].get_xdata()) == pytest.approx([table.mean("one"), table.mean("two")])
    spans = [segment[:, 0] for segment in bar.lines[2][0].get_segments()]
    assert spans[0] == pytest.approx(table.interval("one")) and spans[1] == pytest.approx(
        table.interval("two")
    )


def test_a_row_that_one_table_lacks_is_left_out_of_it():
    both = compare(
        "t", {"one": lambda seed: 1.0 + seed, "two": lambda seed: 2.0 + seed}, progress=False
    )
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
    ends = {
        (8, "min-max"): 3.0,
        (8, "percentile"): 1.0,
        (4, "min-max"): 3.0,
        (4, "percentile"): 2.0,
    }
    figure = rounding.range_ends(
        torch.linspace(-3, 3, 50), ends | {(b, r): 2.5 for b in (8, 4) for r in ("MSE", "KL")}
    )
    places = [
        {line.get_label(): line.get_xdata()[0] for line in axes.lines} for axes in figure.axes
    ]
    assert places[0]["percentile"] == 1.0 and places[1]["percentile"] == 2.0


def test_two_weights_slide_to_the_bottom_of_their_valley():
    w, H = torch.tensor([0.45, 0.40]), torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    slid, found, best = plots_gptq.slide(w, H)
    assert slid.tolist() == pytest.approx([0, 0.40 + 0.45 * 0.9]) and found.tolist() == [0, 1]
    assert best.tolist() == [1, 0], "0.0665 against 0.0765"
    title = plots_gptq.valley(0.45, 0.40, 0.9).axes[0].get_title(loc="left")
    assert "GPTQ 0.077" in title and "best 0.067" in title


def test_ranks_are_those_of_spearman():
    from scipy.stats import spearmanr

    a = torch.tensor([0.3, 2.0, 2.0, -1.0, 5.0, 0.3])
    b = torch.tensor([1.0, 1.0, 4.0, 2.0, 9.0, 0.0])
    assert scores.rank_correlation(a, b) == pytest.approx(float(spearmanr(a, b).statistic))


def test_the_figures_of_3_2_to_3_4_draw_what_they_are_given():
    figure = plots_gptq.by_tokens([32, 64], {"damping 0.1": [2.0, 0.5]}, inputs=48, title="t")
    assert list(figure.axes[0].lines[0].get_ydata()) == [2.0, 0.5]
    figure = plots_gptq.block_times([1, 8], [4.0, 1.0], title="t")
    assert [bar.get_height() for bar in figure.axes[0].patches] == [1.0, 0.25]
    errors = {4: torch.tensor([[4.0, 2.0], [4.0, 6.0]]), 3: torch.tensor([[2.0, 1.0], [2.0, 1.0]])}
    left, right = scaling.clip_shares(torch.tensor([1.0, 0.9]), errors).axes
    assert list(left.lines[0].get_ydata()) == [1.0, 1.0] and list(right.lines[0].get_ydata()) == [
        0.5,
        0.5,
    ]
    norm, masks = (
        torch.tensor([1.0, 5.0, 2.0]),
        {m: torch.tensor([[1, 0, 1], [1, 1, 1]]).bool() for m in ("a", "b")},
    )
    assert list(scores.kept_by_loudness(norm, masks, name="n").axes[1].lines[0].get_ydata()) == [
        0.5,
        1.0,
        1.0,
    ]
    figure = scores.against_bound(
        {"magnitude": [(2.0, 1.5), (4.0, 2.5)], "Wanda": [(1.0, 1.0), (2.0, 1.0)]}
    )
    assert "mean ratio 2.00" in figure.axes[0].lines[0].get_label()
    true, value = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 3.0, 2.0])
    figure = scores.against_truth(torch.ones(2, 2), value > 1, value, true, name="OBD", cost=0.25)
    assert (
        "0.250 nats; rank correlation 0.50"
        in figure.axes[1].get_title(loc="left") + figure.axes[1].get_title()
    )
