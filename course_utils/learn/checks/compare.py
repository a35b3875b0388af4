"""Compare a learner's result with the right one, and say the first thing that is different.

Forms that hold the right values are taken (see `forms`); an object with its own idea of equality is
a wrong type.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from ..texts import ui
from . import forms
from .forms import NUMBERS, TENSORS

# what double precision may lose on the way, also where an exercise counts whole numbers
ROUNDING = 1e-9
TO_TYPE = {
    "boolean": "to_boolean",
    "integer": "to_integer",
    "floating": "to_floating",
    "complex": "to_floating",
}


class Difference(NamedTuple):
    """A sentence on what differs, and whether only values do (not type, shape, dtype, NaN)."""

    text: str
    of_value: bool = False


def difference(result: Any, want: Any, tolerance: float, where: str = "") -> Difference | None:
    """The first difference, or None when `result` is `want` within the tolerance.

    The tolerance is relative to the largest magnitude in each tensor or number of `want`.
    """
    want = forms.simple(want)
    result = forms.taken(result, want)
    if isinstance(want, (list, tuple)):
        return _sequence(result, want, tolerance, where)
    if isinstance(want, dict):
        return _mapping(result, want, tolerance, where)
    if type(want) is str or want is None:
        if type(result) is not type(want):
            return Difference(
                ui("wrong_type", where=_here(where), expected=kind(want), got=kind(result))
            )
        return (
            None
            if result == want
            else _value("wrong_value", _here(where), repr(want), repr(result))
        )
    if type(result) not in NUMBERS + TENSORS:
        return Difference(
            ui("wrong_type", where=_here(where), expected=kind(want), got=kind(result))
        )
    if _dim(want) and type(result) not in TENSORS or _dim(result) and type(want) not in TENSORS:
        return Difference(
            ui("wrong_type", where=_here(where), expected=kind(want), got=kind(result))
        )
    return _numbers(result, want, tolerance, where)


def _here(where: str) -> str:
    return where or ui("your_result")


def _dim(value: Any) -> int:
    return value.dim() if type(value) in TENSORS else 0


def _sequence(result: Any, want: Any, tolerance: float, where: str) -> Difference | None:
    if not isinstance(result, (list, tuple)):
        return Difference(
            ui("wrong_type", where=_here(where), expected=kind(want), got=kind(result))
        )
    items = forms.items(result) or []
    if len(items) != len(want):
        return Difference(
            ui("wrong_length", where=_here(where), expected=len(want), got=len(items))
        )
    for i, (item, right) in enumerate(zip(items, want, strict=True)):
        if found := difference(item, right, tolerance, f"{where or 'result'}[{i}]"):
            return found
    return None


def _mapping(result: Any, want: dict[Any, Any], tolerance: float, where: str) -> Difference | None:
    if type(result) is not dict:
        return Difference(
            ui("wrong_type", where=_here(where), expected=kind(want), got=kind(result))
        )
    if set(result) != set(want):
        return Difference(
            ui(
                "wrong_keys",
                where=_here(where),
                expected=", ".join(map(str, want)),
                got=", ".join(map(str, result)),
            )
        )
    found = (difference(result[k], want[k], tolerance, f"{where or 'result'}[{k!r}]") for k in want)
    return next((text for text in found if text), None)


def _numbers(result: Any, want: Any, tolerance: float, where: str) -> Difference | None:
    if _plainly_equal(result, want):
        return None
    if type(result) is int and type(want) is int:  # exactly, however large
        return _value("wrong_value", _here(where), want, result)
    try:
        got, right = _tensor(result), _tensor(want)
    except Exception as error:  # a layout, a device or a size that gives no numbers
        return Difference(
            ui("not_comparable", where=_here(where), error=f"{type(error).__name__}: {error}")
        )
    if got.shape != right.shape:
        return Difference(
            ui("wrong_shape", where=_here(where), expected=tuple(right.shape), got=tuple(got.shape))
        )
    wrong, good = _dtype_class(got), _dtype_class(right)
    # 28 and 28.0 are the same answer
    single = right.dim() == 0 and {wrong, good} == {"integer", "floating"}
    if wrong != good and not single and got.numel():
        wide = got.to(torch.complex128), right.to(torch.complex128)
        equal = not bool(_differs(*wide, tolerance).any())
        if equal and (wrong, good) == ("integer", "floating"):  # and so are [28] and [28.0]
            return None
        text = ui(
            "wrong_dtype",
            where=_here(where),
            expected=ui(good),
            got=ui(wrong),
            dtype=_dtype(result),
        )
        return Difference(text + (" " + ui("only_the_kind", to=ui(TO_TYPE[good])) if equal else ""))
    if bool((bad := torch.isnan(got) & ~torch.isnan(right)).any()):
        return Difference(
            ui("has_nan", where=_element(where, bad), count=int(bad.sum()), total=bad.numel())
        )
    bad = _differs(got, right, max(tolerance, ROUNDING))
    if not bool(bad.any()):
        return None
    values = apart(_at(right, bad), _at(got, bad))
    if right.dim() == 0:
        found = _value("wrong_value", _here(where), *values)
    else:
        found = _value(
            "wrong_element", _element(where, bad), *values, count=int(bad.sum()), total=bad.numel()
        )
    narrow = _dtype(result) in ("torch.float32", "torch.float16", "torch.bfloat16")
    rounded = narrow and not bool(_differs(got, right, torch.finfo(result.dtype).eps * 8).any())
    return (
        found._replace(text=f"{found.text} {ui('narrow_type', dtype=_dtype(result))}")
        if rounded
        else found
    )


def _plainly_equal(one: Any, other: Any) -> bool:
    """True where nothing needs a closer look: two numbers or two tensors of one type, the same to
    the last bit.
    """
    if type(one) is not type(other):
        return False
    if type(one) not in TENSORS:
        return bool(one == other)
    alike = (
        one.dtype == other.dtype
        and one.layout == other.layout == torch.strided
        and one.device == other.device
    )
    return alike and torch.equal(one, other)


def _value(key: str, where: str, expected: object, got: object, **counts: int) -> Difference:
    return Difference(ui(key, where=where, expected=expected, got=got, **counts), of_value=True)


def _tensor(value: Any) -> torch.Tensor:
    """The numbers of a value in the widest type of their class, on the CPU."""
    if type(value) not in TENSORS:
        return (
            torch.tensor(value, dtype=torch.float64)
            if type(value) is float
            else torch.tensor(value)
        )
    value = value.detach().to_dense() if value.layout != torch.strided else value.detach()
    widest = {
        "boolean": torch.bool,
        "complex": torch.complex128,
        "floating": torch.float64,
        "integer": torch.int64,
    }
    return value.cpu().to(widest[_dtype_class(value)])


def _dtype(value: Any) -> str:
    return str(value.dtype) if type(value) in TENSORS else type(value).__name__


def _dtype_class(value: torch.Tensor) -> str:
    if value.dtype == torch.bool:
        return "boolean"
    if value.dtype.is_complex:
        return "complex"
    return "floating" if value.dtype.is_floating_point else "integer"


def _differs(got: torch.Tensor, right: torch.Tensor, tolerance: float) -> torch.Tensor:
    """True where the two differ: integers and truth values exactly, others beyond the tolerance."""
    if {_dtype_class(got), _dtype_class(right)} <= {"boolean", "integer"}:
        return got.ne(right)
    finite = torch.isfinite(right)
    largest = float(right[finite].abs().max()) if bool(finite.any()) else 0.0
    close = (got - right).abs() <= tolerance * (largest or 1.0)
    # infinities, and NaN where NaN is right
    same = (got == right) | (torch.isnan(got) & torch.isnan(right))
    return ~torch.where(finite, close, same)


def _first(bad: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in bad.nonzero()[0])


def _at(value: torch.Tensor, bad: torch.Tensor) -> Any:
    return value[_first(bad)].item()


def _element(where: str, bad: torch.Tensor) -> str:
    index = _first(bad)
    if not index:
        return _here(where)
    return f"{where or 'result'}[{', '.join(map(str, index))}]"


def number(value: Any, digits: int = 6) -> str:
    """A number as a learner reads it: six digits."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.{digits}g}" if math.isfinite(value) else str(value)


def apart(one: Any, other: Any) -> tuple[str, str]:
    """Two different numbers with as many digits as tell them apart."""
    for digits in (6, 9, 12, 17):
        texts = number(one, digits), number(other, digits)
        if texts[0] != texts[1]:
            break
    return texts


def kind(value: Any) -> str:
    """What a value is, in a few words: "a tensor of shape (3, 4)", "a tuple of 2"."""
    if type(value) in TENSORS:
        return ui("a_tensor", shape=tuple(value.shape), dtype=_dtype(value))
    if isinstance(value, (list, tuple)):
        return ui("a_sequence", type=type(value).__name__, length=len(value))
    names = {
        bool: "a_bool",
        int: "a_number",
        float: "a_number",
        str: "a_str",
        dict: "a_dict",
        type(None): "none",
    }
    key = names.get(type(value))
    return ui(key) if key else ui("an_object", type=type(value).__name__)
