"""The figures of lesson 1.3: what is drawn inside, what stands at the edge, and what counts as
seen.
"""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.evaluation.comparison import compare
from course_utils.learn.plots import tradeoff

ORIGINAL = torch.linspace(0.2, 1.2, 64, dtype=torch.float64)
NOISE = torch.sin(torch.arange(64, dtype=torch.float64))


@pytest.fixture
def some():
    rows = {
        "original": ORIGINAL,
        "same": ORIGINAL + 0.01 * NOISE,
        "worse": ORIGINAL + 0.05 + 0.01 * NOISE,
        "broken": ORIGINAL + 2 + NOISE,
    }
    table = compare("T", rows, against="original", progress=False)
    kinds = dict(zip(rows, ("original", "quantized", "pruned", "quantized"), strict=True))
    yield tradeoff.versions(table, kinds, dict(zip(rows, (4.0, 2.0, 1.0, 0.5), strict=True)))
    plt.close("all")


def test_a_difference_within_its_interval_counts_as_none(some):
    assert [v.name for v in some] == ["original", "same", "worse", "broken"]
    assert some[0].seen == 0 and some[1].seen == 0 and some[1].loss != 0
    assert (
        some[2].seen == some[2].loss == pytest.approx(0.05, abs=0.005) and 0 < some[2].half < 0.01
    )


def test_what_lies_above_the_axis_stands_at_its_edge_with_its_loss(some):
    axes = tradeoff.size_against_loss(some, front=[3, 2, 1], top=0.3).axes[0]
    marks = {
        tuple(point)
        for line in axes.lines
        if line.get_linestyle() == "None"
        for point in line.get_xydata()
    }
    assert (0.5, 0.3) in marks and (1.0, some[2].loss) in marks
    assert axes.get_ylim()[1] < 0.4
    assert any(text.get_text().startswith("broken: 2.0") for text in axes.texts)


def test_the_limit_and_the_chosen_version_are_drawn(some):
    axes = tradeoff.size_against_loss(some, limit=0.1, chosen=2).axes[0]
    assert (1.0, some[2].loss) in {
        tuple(line.get_xydata()[0]) for line in axes.lines if line.get_markersize() == 20
    }


def test_bars_carry_their_intervals():
    axes = tradeoff.shares(
        {"a": {"x": (0.5, 0.4, 0.7), "y": (1.0, 0.9, 1.0)}}, title="t", ylabel="share"
    ).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.5, 1.0]
    ends = [line.get_segments()[0][:, 1].tolist() for line in axes.collections]
    assert ends == [pytest.approx([0.4, 0.7]), pytest.approx([0.9, 1.0])]
    plt.close("all")
