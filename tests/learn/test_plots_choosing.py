"""The figures of lesson 2.4 and lab 3.4 draw the numbers that they are given."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.evaluation.comparison import compare
from course_utils.learn.plots import choosing, pipelines

BASE = torch.linspace(0.2, 1.2, 64, dtype=torch.float64)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_widths_that_do_not_fit_are_grey():
    bars = choosing.widths({16: 14.0, 4: 3.6}, 4.0, title="t").axes[0].patches
    assert [bar.get_width() for bar in bars] == [14.0, 3.6]
    assert [bar.get_facecolor()[:3] for bar in bars][0] == pytest.approx((0.8, 0.8, 0.8))


def test_advice_above_the_axis_stands_at_its_edge():
    rows = {"original": BASE, "edge: student": BASE + 0.4, "memory: 4 bits": BASE + 0.01}
    size = {"original": 6.0, "edge: student": 1.0, "memory: 4 bits": 2.0}
    table = compare("T", rows, against="original", columns={"MB": size}, progress=False)
    axes = choosing.advice(table, [1, 2], list(rows), top=0.06).axes[0]
    marks = {tuple(point) for line in axes.lines for point in line.get_xydata()}
    assert (1.0, 0.06) in marks and any(x == 2.0 and y == pytest.approx(0.01) for x, y in marks)
    assert any(text.get_text() == "student: 0.40 ↑" for text in axes.texts)


def test_shares_stand_in_the_order_of_size():
    axes = choosing.front_share(
        [0.2, 0.9], ["large", "small"], [1], sizes={"large": 2.0, "small": 1.0}
    ).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.9, 0.2]


def test_each_order_is_a_line_of_its_parts():
    trace = {
        f"order {i}": [("original", 0.6), ("prune", 0.8 + i), ("drop", 1.5), ("closed", 1.6)]
        for i in range(6)
    }
    axes = pipelines.traces(trace).axes
    assert list(axes[3].lines[0].get_ydata()) == [0.6, 3.8, 1.5, 1.6]
    assert [line.get_marker() for line in axes[3].lines[1:5]] == ["o", "o", "o", "X"]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == [
        "original",
        "prune",
        "drop",
        "closed",
    ]
