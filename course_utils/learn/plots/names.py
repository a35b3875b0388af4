"""Names beside the points of a figure, that cover neither points nor lines nor each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

SIDES = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
NOTHING = ("None", "none", "", " ", None)  # as a marker or a line
NEAR = 9  # points of 1/72 inch between a point and its name


def name_points(
    axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], *, fontsize: float = 10
) -> list[Annotation]:
    """Write each name at the nearest free place around its point; a name that is not near gets a
    thin line to it.

    Call it last, when limits, lines and legend are there. A name without any free place stands
    right of its point.
    """
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    inside = axes.get_window_extent()
    taken = [
        _around(place, 7) for place in axes.transData.transform(np.asarray(points, dtype=float))
    ]
    taken += [_around(place, 2) for line in axes.lines for place in _along(axes, line)]
    taken += [_around(place, 4) for place in _markers(axes)]
    if (legend := axes.get_legend()) is not None:
        taken.append(legend.get_window_extent())
    written = []
    for point, name in zip(points, names, strict=True):
        for distance in (NEAR, 2 * NEAR, 3 * NEAR, 5 * NEAR, 7 * NEAR, 0):
            free = [_name(axes, point, name, side, distance or NEAR, fontsize) for side in SIDES]
            kept = next(
                (n for n in free if distance == 0 or _fits(letters(n), inside, taken)), None
            )
            for other in free:
                if other is not kept:
                    other.remove()
            if kept is not None:
                break
        assert kept is not None
        taken.append(letters(kept))
        written.append(kept)
    return written


def letters(name: Annotation) -> Bbox:
    """Where the letters of a name stand, in pixels, without its line."""
    name.get_window_extent()  # puts it in its place
    return Text.get_window_extent(name)


def _name(
    axes: Axes,
    point: tuple[float, float],
    name: str,
    side: tuple[int, int],
    distance: float,
    fontsize: float,
) -> Annotation:
    horizontal = {1: "left", 0: "center", -1: "right"}[side[0]]
    vertical = {1: "bottom", 0: "center", -1: "top"}[side[1]]
    line = (
        {"arrowstyle": "-", "color": "0.5", "linewidth": 0.8, "shrinkA": 0}
        if distance > NEAR
        else None
    )
    return axes.annotate(
        name, point, xytext=(side[0] * distance, side[1] * distance), textcoords="offset points",
        ha=horizontal, va=vertical, fontsize=fontsize, arrowprops=line,
    )  # fmt: skip


def _fits(box: Bbox, inside: Bbox, taken: list[Bbox]) -> bool:
    free = not any(box.overlaps(other) for other in taken)
    return free and inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1)


def _around(place: Sequence[float] | np.ndarray, half: float) -> Bbox:
    x, y = place
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _markers(axes: Axes) -> list[np.ndarray]:
    """Places in pixels of all points drawn by `plot` or `scatter`."""
    drawn = [
        line.get_transform().transform(line.get_xydata())
        for line in axes.lines
        if line.get_marker() not in NOTHING
    ] + [
        points.get_offset_transform().transform(points.get_offsets())
        for points in axes.collections
        if isinstance(points, PathCollection)
    ]
    return [place for places in drawn for place in places if np.isfinite(place).all()]


def _along(axes: Axes, line: Any) -> np.ndarray:
    """Places (n, 2) in pixels every few pixels along a drawn line; none for bare markers."""
    if line.get_linestyle() in NOTHING:
        return np.empty((0, 2))
    corners = line.get_transform().transform(line.get_path().vertices)
    pieces = [
        np.linspace(a, b, max(2, int(np.abs(b - a).max() / 4)))
        for a, b in zip(corners, corners[1:], strict=False)
    ]
    return np.concatenate(pieces) if pieces else corners
