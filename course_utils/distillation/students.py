"""Students that start from what their teacher knows."""

import copy
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk


def from_layers(
    teacher: PreTrainedModel, layers: Sequence[int],
) -> PreTrainedModel:  # fmt: skip
    """A copy of `teacher` with only the blocks `layers`, in that order (DistilBERT; Sanh et al., 2019).

    Any causal language model. An index may be negative or repeated (a deeper student). Raises CompressionError for blocks that the
    teacher does not have.
    """
    count = len(walk.blocks(teacher))
    chosen = [i + count if i < 0 else i for i in layers]
    if not chosen or any(not 0 <= i < count for i in chosen):
        raise CompressionError(f"layers={list(layers)}: choose at least one block from 0 … {count - 1}.")
    student = copy.deepcopy(teacher)
    old = walk.blocks(student)
    new = nn.ModuleList(old[i] if chosen.index(i) == place else copy.deepcopy(old[i]) for place, i in enumerate(chosen))
    walk.replace(student, _name_of(student, old), new)
    for place, block in enumerate(new):
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", place)  # noqa: B010
    config = student.config
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == count and name in ("layer_types", "mlp_layer_types"):
            setattr(config, name, [value[i] for i in chosen])
    config.num_hidden_layers = len(chosen)
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student


def evenly(teacher: PreTrainedModel, n: int) -> list[int]:
    """`n` of the teacher's blocks, evenly spread, the first and the last among them (n = 1: the first)."""
    count = len(walk.blocks(teacher))
    if not 1 <= n <= count:
        raise CompressionError(f"n={n}: choose 1 … {count}.")
    return [round(i * (count - 1) / max(1, n - 1)) for i in range(n)]


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def parameters(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())
