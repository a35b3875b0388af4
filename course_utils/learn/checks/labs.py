"""What a lab needs around the learner's functions: cells that wait for them, and their shape for
`course_utils`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from course_utils.errors import CompressionError

from .. import show, texts
from . import calling
from .checking import check
from .checkpoints import check_checkpoint
from .exercise import find

if TYPE_CHECKING:
    from torch import Tensor

    from course_utils.quantization import LayerResult

__all__ = ["check_checkpoint", "gptq_layer", "layer_result", "ready", "same"]


def ready(functions: Mapping[str, Callable[..., Any]]) -> bool:
    """True when every function passes the exercise it is named by; else show which ones a cell
    waits for.
    """
    words, lines = texts.load("labs")["labs"], []
    for name, function in functions.items():
        verdict = check(name, function, show=False)
        if not verdict:
            state = words["not_right" if verdict.attempted else "not_attempted"]
            lines.append(state.format(title=_title(name)))
    if lines:
        show.message("note", words["waiting"], "\n\n".join([*lines, words["then"]]))
    return not lines


def _title(name: str) -> str:
    exercise = find(name)
    return texts.exercise(name, mistakes=exercise.mistakes, properties=exercise.properties)["title"]


def same(result: Any, want: Any, tolerance: float = 1e-5) -> bool:
    """True when a check would take `result` for `want`, relative to the largest magnitude in each
    tensor or number.
    """
    from .compare import difference

    return difference(result, want, tolerance) is None


def layer_result(codes: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> LayerResult:
    """Codes (out, in) with scale and zero point (out, groups) as the `LayerResult` that
    `course_utils` packs.

    Raises CompressionError if the shapes do not fit each other, a scale is not positive, or a code
    or zero point is not a whole number from 0 to 2^bits − 1.
    """
    import torch

    from course_utils.quantization import Grid, LayerResult, dequantize

    if (
        codes.dim() != 2
        or scale.shape != zero_point.shape
        or scale.dim() != 2
        or len(scale) != len(codes)
    ):
        shapes = [tuple(t.shape) for t in (codes, scale, zero_point)]
        raise CompressionError(
            f"codes, scale, zero_point: shapes {shapes}; they must be (out, in), "
            "(out, groups), (out, groups)."
        )
    columns, groups = codes.shape[1], scale.shape[1]
    if columns % groups:
        raise CompressionError(
            f"scale: {groups} groups do not divide {columns} columns; "
            "give one scale for each group."
        )
    if not (torch.isfinite(scale).all() and (scale > 0).all()):
        raise CompressionError(
            "scale: must be positive and finite; a group of zeros gets the scale 1."
        )
    for name, whole in {"codes": codes, "zero_point": zero_point}.items():
        whole = whole.double()
        if not (
            (whole.round() >= 0)
            & (whole.round() < 2**bits)
            & ((whole - whole.round()).abs() < 1e-4)
        ).all():
            raise CompressionError(
                f"{name}: must be whole numbers from 0 to {2**bits - 1}; round and clamp them."
            )
    index = torch.arange(columns, device=codes.device) // (columns // groups)
    grid = Grid(scale, zero_point.round().to(scale.dtype), index, bits, False)
    codes = codes.round().to(torch.uint8)
    return LayerResult(codes, grid, dequantize(codes, grid))


@contextmanager
def _one_thread(size: int) -> Iterator[None]:
    """One thread for the many small steps of a walk over columns: waiting for a second one takes
    longer than a step.
    """
    import torch

    before = torch.get_num_threads()
    try:
        if size <= 2**21:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def gptq_layer(quantize_layer: Callable[..., Any]) -> Callable[..., LayerResult]:
    """The learner's `quantize_layer(weight, H, bits, group_size)` as a layer function for
    `gptq.quantize`.

    Before it is called, in double precision, H is damped, and the weights of inputs that are always
    zero are set to zero. What it returns, (codes, scale, zero point), becomes a `LayerResult`. With
    `never_worse` (the default), a layer whose output error is larger than that of rounding is
    rounded, as in `gptq.quantize_layer`. Raises CompressionError for settings that the learner's
    function does not have (symmetric grids, act-order, static groups), or as `layer_result` does.
    """

    def layer(
        weight: Tensor, H: Tensor, *, bits: int = 4, group_size: int | None = 64,
        damping: float = 0.01, never_worse: bool = True, **others: Any,
    ) -> LayerResult:  # fmt: skip
        from course_utils.quantization import gptq, rtn
        from course_utils.quantization.grids import check_group_size

        if asked := [
            name for name in ("symmetric", "act_order", "static_groups") if others.get(name)
        ]:
            raise CompressionError(
                f"{', '.join(asked)}: your layer function does not have this; leave it off."
            )
        size = check_group_size(group_size, weight.shape[1])
        # inverting a nearly singular H asks for the precision
        H, used = H.double(), weight.double().clone()
        used[:, H.diagonal() == 0] = 0
        with _one_thread(weight.numel()):
            given = {"weight": used, "H": gptq.damped(H, damping), "bits": bits, "group_size": size}
            codes, scale, zero = calling.call(quantize_layer, given)
        result = layer_result(codes, scale.to(weight.dtype), zero.to(weight.dtype), bits)
        rounded = rtn.quantize_layer(weight, bits=bits, group_size=group_size)
        errors = [gptq.layer_error(weight, way.weight, H) for way in (result, rounded)]
        return rounded if never_worse and errors[0] > errors[1] else result

    return layer
