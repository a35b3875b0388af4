"""Students that start from what their teacher knows."""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import structured

from .narrow import narrow


def from_layers(
    teacher: PreTrainedModel, layers: Sequence[int], *, hidden: int | None = None,
    mlp: int | None = None, heads: int | None = None, calibration: Tensor | None = None,
) -> PreTrainedModel:  # fmt: skip
    """A copy of `teacher` with only the blocks `layers`, in that order (DistilBERT; Sanh et al.,
    2019).

    Any causal language model. An index may be negative or repeated (a deeper student). With any of
    `hidden`, `mlp` and `heads` the student is narrower too, see `narrow`, which needs
    `calibration`, token ids (n, context).
    Raises CompressionError for blocks that the teacher does not have.
    """
    count = len(walk.blocks(teacher))
    chosen = [i + count if i < 0 else i for i in layers]
    if not chosen or any(not 0 <= i < count for i in chosen):
        raise CompressionError(
            f"layers={list(layers)}: choose at least one block from 0 … {count - 1}."
        )
    student = structured.keep_layers(teacher, chosen)
    if hidden is None and mlp is None and heads is None:
        return student
    return narrow(student, calibration, hidden=hidden, mlp=mlp, heads=heads)


def evenly(teacher: PreTrainedModel, n: int) -> list[int]:
    """`n` of the teacher's blocks, evenly spread, the first and the last among them (n = 1: the
    first).
    """
    count = len(walk.blocks(teacher))
    if not 1 <= n <= count:
        raise CompressionError(f"n={n}: choose 1 … {count}.")
    return [round(i * (count - 1) / max(1, n - 1)) for i in range(n)]


def parameters(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())


SIZES = {
    "quarter": {"hidden": 128, "mlp": 224, "heads": 4},
    "tenth": {"hidden": 80, "mlp": 192, "heads": 4},
}


def bundled(teacher: PreTrainedModel, size: str, calibration: Tensor) -> PreTrainedModel:
    """The two students made for the bundled teacher: about a "quarter" and about a "tenth" of its
    parameters.
    """
    if size not in SIZES:
        raise CompressionError(f"size={size!r}: choose one of {', '.join(SIZES)}.")
    layers = range(len(walk.blocks(teacher))) if size == "quarter" else evenly(teacher, 3)
    return from_layers(teacher, list(layers), calibration=calibration, **SIZES[size])
