"""The gradients of a learner's loss: they are what training uses, and a right value says nothing
about them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import calling


def gradients(result: Any, of: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """∂ result / ∂ each tensor: None for one that `result` does not depend on, or where `result`
    asks for no gradient.
    """
    if not of or not (
        isinstance(result, torch.Tensor) and result.requires_grad and result.grad_fn is not None
    ):
        return [None] * len(of)
    return list(torch.autograd.grad(result.sum(), list(of), allow_unused=True, retain_graph=True))


def called(
    function: Callable[..., Any], given: dict[str, Any], names: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
    """What the function returns, and its gradients with respect to those of the named arguments
    that ask for one.

    A function of another process (in the grader) brings its gradients along: it has a method
    `with_gradients`.
    """
    asked = [name for name in names if given[name].requires_grad]
    remote = getattr(type(function), "with_gradients", None)
    if remote is not None:
        result, found = remote(function, asked, given)
    else:
        with torch.enable_grad():
            result = calling.call(function, given)
            found = gradients(result, [given[name] for name in asked])
    zero = {name: torch.zeros_like(given[name]).detach() for name in asked}
    return result, {
        name: zero[name] if g is None else g.detach().clone()
        for name, g in zip(asked, found, strict=True)
    }
