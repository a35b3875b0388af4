"""Names in a figure cover neither each other, nor points, nor lines; those far from their point
have a line to it.
"""

import itertools

import matplotlib
import matplotlib.pyplot as plt
import pytest

matplotlib.use("Agg")

from course_utils.learn import plots
from course_utils.learn.plots.names import letters, name_points

CLUSTER = [
    (2.14, 0.645),
    (2.145, 0.646),
    (2.15, 0.6455),
    (2.6, 0.66),
    (2.6, 0.68),
    (6.4, 0.645),
    (1.1, 1.08),
]
NAMES = [
    "RTN 4",
    "GPTQ 4",
    "AWQ 4",
    "channels + RTN 8",
    "channels + distil + RTN 8",
    "original",
    "student + RTN 4",
]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_names_of_crowded_points_are_readable(scale):
    figure, axes = plots.figure(xlabel="MB", ylabel="nats", size=(8, 4.5))
    axes.step([1.1, 2.14], [1.08, 0.645], where="post")
    axes.plot(*zip(*CLUSTER, strict=True), "o")
    axes.set(xlim=(0, 8), yscale=scale)
    axes.axhline(0.75, label="limit")
    axes.legend(loc="upper right")
    written = name_points(axes, CLUSTER, NAMES)
    assert [text.get_text() for text in written] == NAMES
    boxes = [letters(text) for text in written]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    places = axes.transData.transform(CLUSTER)
    assert not any(box.contains(*place) for box in boxes for place in places)
    frame, legend = axes.get_window_extent(), axes.get_legend().get_window_extent()
    assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for box in boxes)
    assert not any(box.overlaps(legend) for box in boxes)
    line = axes.transData.transform((0, 0.75))[1]
    assert not any(box.y0 < line < box.y1 for box in boxes)
    plt.close(figure)


@pytest.mark.parametrize("draw", ["plot", "scatter"])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_points_without_a_name_stay_visible(draw, scale):
    figure, axes = plots.figure(size=(6, 4))
    axes.set(xlim=(0, 10), ylim=(0.1, 1), yscale=scale)
    axes.plot([5], [0.4], "s")
    (alone,) = name_points(axes, [(5, 0.4)], ["4-2-2"])
    box = letters(alone)
    alone.remove()
    middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    hidden = axes.transData.inverted().transform(middle)
    getattr(axes, draw)([hidden[0]], [hidden[1]], marker="o", linestyle="none")
    (moved,) = name_points(axes, [(5, 0.4)], ["4-2-2"])
    assert not letters(moved).contains(*middle)
    plt.close(figure)


def test_a_name_far_from_its_point_has_a_line():
    figure, axes = plots.figure()
    points = [(0.5, 0.5)] * 12
    axes.plot(*zip(*points, strict=True), "o")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    written = name_points(axes, points, [f"point {i}" for i in range(12)])
    assert written[0].arrow_patch is None and written[-1].arrow_patch is not None
    assert not any(letters(a).overlaps(letters(b)) for a, b in itertools.combinations(written, 2))
    plt.close(figure)


def test_where_nothing_is_free_the_name_still_stands():
    figure, axes = plots.figure(size=(1, 1))
    axes.plot([0, 1], [0, 1], "o")
    (text,) = name_points(axes, [(0.5, 0.5)], ["a name that is wider than the whole figure"])
    assert text in axes.texts and len(axes.texts) == 1
    plt.close(figure)
