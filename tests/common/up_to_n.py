"""Answers that are right up to n: values that are cut off along a dimension, and what a lab's test
gives for an answer.
"""

from dataclasses import replace

import torch

from course_utils.grade import lab
from course_utils.learn.page import catalogue

SIZES = (8, 16, 20, 32, 64, 128)
LABS = sorted(path.name for path in (catalogue.ROOT / "solutions").iterdir() if path.is_dir())
LISTS = ("items", "items of items")  # beside the dimensions 0, 1, … of tensors


def load(name):
    """The lab, without the statistics of the model that lab 4.1 takes for its last exercise, which
    no check needs.
    """
    opened = lab.load(catalogue.ROOT, name)
    return replace(opened, prelude=tuple(cell for cell in opened.prelude if cell[0] != "measured"))


def points(opened, test, **functions):
    """What the other lines of a test give, its checks left out; 0 where they raise,
    whatever it is.
    """
    (found,) = [t for t in opened.tests if t.grade_id == test]
    namespace = {
        **opened.namespace,
        **opened.reference,
        **functions,
        "check": lambda *_, **__: True,
    }
    try:
        return lab.run_test(found.source.replace("verdict.message", "''"), namespace, found.points)
    except Exception:
        return 0


def cut(value, n, dim):
    """A value with nothing beyond n along a dimension (zeros in tensors, an end of lists and
    dicts).
    """
    if isinstance(value, torch.Tensor):
        if dim in LISTS or not -value.dim() <= dim < value.dim() or value.shape[dim] <= n:
            return value
        first = value.narrow(dim, 0, n)
        rest = value.narrow(dim, n, value.shape[dim] - n)
        return torch.cat([first, torch.zeros_like(rest)], dim)
    inner = "items" if dim == "items of items" else None if dim == "items" else dim
    if isinstance(value, (dict, list)):
        kept = list(value.items() if isinstance(value, dict) else enumerate(value))[
            : n if dim == "items" else None
        ]
        found = {name: item if inner is None else cut(item, n, inner) for name, item in kept}
        return found if isinstance(value, dict) else list(found.values())
    return (
        tuple(cut(item, n, dim) for item in value)
        if isinstance(value, tuple)
        else min(value, n)
        if dim == "value"
        else value
    )


def extent(value, dim):
    """The largest extent along a dimension of a value, or of what it holds."""
    if isinstance(value, torch.Tensor):
        return value.shape[dim] if dim not in (*LISTS, "value") and dim < value.dim() else 0
    if isinstance(value, (dict, list)):
        if dim == "items":
            return len(value)
        inner = "items" if dim == "items of items" else dim
        return max(
            [
                0,
                *(
                    extent(item, inner)
                    for item in (value.values() if isinstance(value, dict) else value)
                ),
            ]
        )
    return value if dim == "value" and type(value) is int else 0


def parts(value):
    """The parts of a result that is a tuple, each with its place; else the value alone."""
    return list(enumerate(value)) if isinstance(value, tuple) else [(None, value)]


def part(value, place):
    return value if place is None else value[place]
