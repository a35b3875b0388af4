"""A pipeline: named steps, one after the other; each works on the model that the one before it
left.
"""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedModel

from course_utils import distillation, pruning, quantization
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization import Compressed
from course_utils.quantization.layer import KINDS

Step = tuple[str, dict[str, Any]]  # a name in STEPS, and its settings


@dataclass(frozen=True)
class Supplies:
    """What steps may use: the original as `teacher`, token ids to calibrate on (n, context), token
    ids to train on.
    """

    teacher: PreTrainedModel
    calibration: Tensor
    data: Tensor
    batch: int = 8
    seed: int = 0


def channels(model: PreTrainedModel, supplies: Supplies, *, keep: int | float = 0.5) -> Compressed:
    """Remove MLP channels; `pruning.structured.prune_mlp`."""
    return pruning.structured.prune_mlp(model, supplies.calibration, keep=keep)


def layers(
    model: PreTrainedModel, supplies: Supplies, *, keep: int | float = 0.5, ignore: Patterns = ()
) -> Compressed:
    """Remove the blocks with the lowest influence; `pruning.structured.prune_layers`."""
    return pruning.structured.prune_layers(model, supplies.calibration, keep=keep, ignore=ignore)


def gradual(
    model: PreTrainedModel, supplies: Supplies, *, sparsity: float = 0.5, steps: int = 40,
    peak: float = 1e-3, ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Set weights to zero little by little while training; `pruning.schedules.gradual`."""
    return pruning.schedules.gradual(
        model, supplies.data, sparsity, steps=steps, update=max(1, steps // 10), peak=peak,
        batch=supplies.batch, seed=supplies.seed, progress=False, ignore=ignore,
        per_layer=per_layer,
    )  # fmt: skip


def student(
    model: PreTrainedModel,
    supplies: Supplies,
    *,
    keep: int | float = 0.5,
    steps: int = 40,
    peak: float = 2e-3,
) -> Compressed:
    """Keep evenly spread blocks (their number, or a fraction), then train as `distil` does."""
    count = pruning.groups.how_many(len(walk.blocks(model)), keep, "blocks")
    smaller = distillation.students.from_layers(model, distillation.students.evenly(model, count))
    return distil(smaller, supplies, steps=steps, peak=peak)


def distil(
    model: PreTrainedModel, supplies: Supplies, *, steps: int = 40, peak: float = 1e-3
) -> Compressed:
    """Train half on the teacher's probabilities (τ = 2), half on the next token;
    the shape stays.
    """
    return distillation.train(
        model, supplies.teacher, supplies.data, steps=steps, batch=supplies.batch, peak=peak,
        seed=supplies.seed,
        progress=False,
    )  # fmt: skip


def quantize(
    model: PreTrainedModel, supplies: Supplies, *, method: str = "rtn", bits: int = 4,
    group_size: int = 64, ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Pack the weights of the blocks: method 'rtn', 'gptq' or 'awq'.

    `ignore` and `per_layer` as in `rtn.quantize`.
    """
    ways = {"rtn": quantization.rtn, "gptq": quantization.gptq, "awq": quantization.awq}
    if method not in ways:
        raise CompressionError(f"method={method!r}: choose 'rtn', 'gptq' or 'awq'.")
    calibrated = () if method == "rtn" else (supplies.calibration,)
    return ways[method].quantize(
        model, *calibrated, bits=bits, group_size=group_size, ignore=ignore, per_layer=per_layer
    )


def half(model: PreTrainedModel, supplies: Supplies) -> Compressed:
    """Every weight in 16 bits.

    A pipeline's result is stored so anyway where it is not packed; this step says it.
    """
    return Compressed(copy.deepcopy(model), {"method": "half"}, 0.0)


STEPS: dict[str, Callable[..., Compressed]] = {
    step.__name__: step for step in (channels, layers, gradual, student, distil, quantize, half)
}


def run(model: PreTrainedModel, steps: Sequence[Step], supplies: Supplies) -> Compressed:
    """Apply the steps in order. Works on a copy; `model` is unchanged.

    Weights that are packed when a step begins are unpacked for it, and what it leaves is packed
    only if it packs: so training after quantization ends in 16 bits again. At the end, weights that
    are not packed are rounded to bfloat16, as the original is stored. `details["stages"]` holds
    name, settings and seconds of each step, and what it did: "pruned" (fewer weights are left),
    "packed", "updates" of training, "updates_after_pruning".
    Raises CompressionError for no steps, an unknown name or setting, and what the steps raise.
    """
    if not steps:
        raise CompressionError(f"steps: none given; choose from {', '.join(STEPS)}.")
    unknown = [name for name, _ in steps if name not in STEPS]
    if unknown:
        raise CompressionError(
            f"steps: {', '.join(map(repr, unknown))} unknown; choose from {', '.join(STEPS)}."
        )
    for name, settings in steps:
        accepted = set(STEPS[name].__kwdefaults__ or {})
        if wrong := set(settings) - accepted:
            raise CompressionError(
                f"{name}: no setting {', '.join(sorted(wrong))}; "
                f"it has {', '.join(sorted(accepted)) or 'none'}."
            )
    stages: list[dict[str, Any]] = []
    now: nn.Module = model
    for name, settings in steps:
        began = time.perf_counter()
        before = unpacked(now)
        with _trained() as did:
            now = STEPS[name](before, supplies, **settings).model
        seconds = time.perf_counter() - began
        packed = any(type(m).__name__ in KINDS for m in now.modules())
        pruned = not packed and _weights(now) < _weights(before)
        stages.append(
            {
                "step": name,
                **settings,
                "seconds": seconds,
                "pruned": pruned,
                "packed": packed,
                **did,
            }
        )
    told = " → ".join(name for name, _ in steps)
    return Compressed(
        stored(now), {"method": told}, sum(s["seconds"] for s in stages), {"stages": stages}
    )


def _weights(model: nn.Module) -> int:
    """The matrices' weights that are not zero."""
    return sum(int(walk.weight_of(m).count_nonzero()) for m in walk.compressible(model).values())


@contextlib.contextmanager
def _trained() -> Iterator[dict[str, int]]:
    """How often an optimizer steps while this is open; and how often since weights were last set to
    zero.
    """
    did = {"updates": 0, "updates_after_pruning": 0}
    left: list[tuple[list[Tensor], int]] = []

    def count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        weights = sum(int(p.count_nonzero()) for p in parameters)
        gone = bool(left) and weights < left[0][1]
        did.update(
            updates=did["updates"] + 1,
            updates_after_pruning=0 if gone else did["updates_after_pruning"] + 1,
        )
        left[:] = [(parameters, weights)]

    hook = register_optimizer_step_post_hook(count)
    try:
        yield did
    finally:
        hook.remove()
    if left and sum(int(p.count_nonzero()) for p in left[0][0]) < left[0][1]:
        did["updates_after_pruning"] = 0


@torch.no_grad()
def unpacked(model: nn.Module) -> nn.Module:
    """The model itself, or a copy in which each packed layer is an ordinary linear layer with the
    same weight Ŵ.

    The weight is in the model's own precision.
    """
    names = [name for name, module in model.named_modules() if type(module).__name__ in KINDS]
    if not names:
        return model
    model = copy.deepcopy(model)
    for name in names:
        packed: Any = model.get_submodule(name)
        dense = nn.Linear(
            packed.in_features, packed.out_features, bias=packed.bias is not None, device="meta"
        )
        dense.weight = nn.Parameter(packed.weight.to(model.dtype).clone())
        if packed.bias is not None:
            dense.bias = nn.Parameter(packed.bias.detach().clone())
        walk.replace(model, name, dense)
    return model.requires_grad_(True)


@torch.no_grad()
def stored(model: nn.Module) -> nn.Module:
    """A copy whose parameters are rounded to bfloat16 (in their old dtype); packed layers stay as
    they are.
    """
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())
    return model
