"""The forms in which an answer may come: lists, arrays, scalars of NumPy, any mapping or sequence,
as the type that is asked for.

What is asked for is a tensor, a tuple or list, a dict, a number, a text, True or False, or None.
Only the contents of what comes are taken; an object's own idea of equality, length or order is
never asked where Python's own is at hand.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch

TENSORS = (torch.Tensor, torch.nn.Parameter)
NUMBERS = (bool, int, float, complex)
LARGEST = 1_000_000  # values that are taken out of lists, at most
DEEPEST = 20
# what gives its items only once, and views of a dict
ONCE = (Iterator, KeysView, ValuesView, ItemsView)
SEQUENCES = (list, tuple, range, collections.deque, collections.UserList)


class NotTaken(Exception):
    """This cannot be read as a tensor."""


def simple(value: Any) -> Any:
    """NumPy's scalars, fractions and decimals as Python's numbers, arrays of numbers as tensors;
    anything else as it is.
    """
    if isinstance(value, np.generic):
        return float(value) if isinstance(value, np.longdouble) else value.item()
    if type(value) in (Fraction, Decimal):
        return float(value)
    if type(value) is np.ndarray and value.dtype.kind in "biufc":
        kind, size = value.dtype.kind, value.dtype.itemsize
        wide = (
            np.int64
            if kind == "u" and size > 1
            else np.float64
            if kind == "f" and size > 8
            else value.dtype.newbyteorder("=")
        )
        return torch.from_numpy(np.array(value, dtype=wide))
    return value


def settled(value: Any) -> Any:
    """What gives its items only once (a generator, `zip`, `map`) or is a view of a dict as a list,
    also inside a list or tuple.
    """
    if isinstance(value, ONCE):
        return list(itertools.islice(value, LARGEST))
    if type(value) in (list, tuple) and any(isinstance(item, ONCE) for item in value):
        return type(value)(settled(item) if isinstance(item, ONCE) else item for item in value)
    return value


def items(value: Any) -> list[Any] | None:
    """The items of a list, tuple or another sequence, or of a tensor's first dimension; None if it
    has none.
    """
    if isinstance(value, list):
        return list(list.__iter__(value))
    if isinstance(value, tuple):
        return list(tuple.__iter__(value))
    value = simple(value)
    if type(value) in TENSORS:
        return list(value) if value.dim() else None
    if isinstance(value, SEQUENCES) or (
        isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))
    ):
        return [value[i] for i in range(min(len(value), LARGEST))]
    return None


def mapping(value: Any) -> dict[Any, Any] | None:
    """The keys and values of any mapping; None if it is none."""
    if isinstance(value, dict):
        return dict(dict.items(value))
    if isinstance(value, Mapping):
        return {key: value[key] for key in list(value)[:LARGEST]}
    return None


def tensor(value: Any) -> torch.Tensor:
    """Numbers in lists of lists (or arrays, or tensors in them) as one tensor.

    Raises NotTaken if they have no common shape.
    """
    left = LARGEST

    def stacked(value: Any, depth: int) -> torch.Tensor:
        nonlocal left
        left -= 1
        value = simple(value)
        if type(value) in TENSORS:
            return value
        if type(value) in NUMBERS:
            return (
                torch.tensor(value, dtype=torch.float64)
                if type(value) is float
                else torch.tensor(value)
            )
        inner = items(value)
        if inner is None or depth > DEEPEST or left < len(inner):
            raise NotTaken
        parts = [stacked(item, depth + 1) for item in inner]
        if not parts:
            return torch.zeros(0)
        common = parts[0].dtype
        for part in parts:
            common = torch.promote_types(common, part.dtype)
        if any(part.shape != parts[0].shape for part in parts):
            raise NotTaken
        return torch.stack([part.to(common) for part in parts])

    try:
        return stacked(value, 0)
    except (OverflowError, RuntimeError, RecursionError) as error:
        raise NotTaken from error


def taken(result: Any, want: Any) -> Any:
    """`result`, its outermost layer in the type of `want` where that can be done without losing
    anything.
    """
    result = simple(result)
    if type(want) in TENSORS:
        if want.dim() and type(result) not in TENSORS and items(result) is not None:
            try:
                return tensor(result)
            except NotTaken:
                return result
    elif isinstance(want, (list, tuple)):
        inner = items(result)
        return result if inner is None or isinstance(result, (list, tuple)) else inner
    elif isinstance(want, dict):
        inner_mapping = mapping(result)
        return result if inner_mapping is None else inner_mapping
    return result


def like(result: Any, want: Any) -> Any:
    """`result` in the types of `want`, layer by layer; what does not fit is left as it is."""
    result = taken(result, want)
    if (
        isinstance(want, (list, tuple))
        and isinstance(result, (list, tuple))
        and len(result) == len(want)
    ):
        return type(want)(like(r, w) for r, w in zip(items(result) or [], want, strict=True))
    if isinstance(want, dict) and isinstance(result, dict) and result.keys() == want.keys():
        return {key: like(result[key], want[key]) for key in want}
    return result
