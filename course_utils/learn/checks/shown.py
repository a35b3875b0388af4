"""The inputs of a trial as a learner reads them: small ones whole, larger ones by their shape and
first values.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch

from .compare import number
from .forms import TENSORS

WHOLE = 24  # numbers of a tensor or a list that are shown whole
FIRST = 6  # of a larger one, so many
ROWS = 8
TEXT = 900  # characters in all


def inputs(given: dict[str, Any]) -> str:
    """A block of lines `name = value`, or nothing where there are no inputs."""
    lines = "\n".join(f"{name} = {value(v)}" for name, v in given.items())
    return lines if len(lines) <= TEXT else lines[:TEXT].rsplit("\n", 1)[0] + "\n…"


def value(v: Any, whole: int = WHOLE) -> str:
    """A value in one or a few lines."""
    if type(v) in TENSORS:
        return _tensor(v, whole)
    if isinstance(v, dict):
        return (
            "{"
            + ", ".join(f"{k!r}: {value(x, whole // 2)}" for k, x in list(v.items())[:ROWS])
            + _more(len(v))
            + "}"
        )
    if isinstance(v, (list, tuple)):
        count = WHOLE if all(isinstance(x, (int, float, str)) for x in v) else ROWS
        inner = ", ".join(value(x, whole // 2) for x in v[:count]) + (_more(len(v), count))
        return f"[{inner}]" if isinstance(v, list) else f"({inner})"
    if isinstance(v, float):
        return number(v, 12) if math.isfinite(v) else str(v)
    if isinstance(v, torch.nn.Module):
        return f"{type(v).__name__} ({sum(p.numel() for p in v.parameters())} parameters)"
    if inspect.isroutine(v):
        return "a function"
    return repr(v)[:80]


def _more(length: int, count: int = ROWS) -> str:
    return f", … ({length} in all)" if length > count else ""


def _tensor(v: torch.Tensor, whole: int) -> str:
    v = v.detach().cpu()
    if v.numel() <= whole:
        return _nested(v.tolist())
    first = ", ".join(number(x, 5) for x in v.flatten()[:FIRST].tolist())
    return f"tensor of shape {tuple(v.shape)}: {first}, …"


def _nested(v: Any) -> str:
    if isinstance(v, list):
        return "[" + ", ".join(map(_nested, v)) + "]"
    return number(v, 6)
