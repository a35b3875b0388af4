"""Scale the inputs of some layers, and undo it in whatever comes before them: the function stays
the same.

    W x = (W diag(s)) (diag(s)⁻¹ x),
    and  diag(s)⁻¹ x  comes out of the source whose outputs are divided by s.

Sources are norms (their gain and shift are divided) and linear layers with nothing but positively
homogeneous operations between them and their targets (their rows are divided): v → o, up → down,
and fc1 → fc2 with ReLU.
Which they are is found by running each block (`models.readers`), not from a list of architectures,
and checked: the block, and then the model, must compute the same with all scales in place.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError
from course_utils.models import readers, walk
from course_utils.models.experts import fused

SAME = 1e-4  # relative change of a block's output that rounding may cause


@dataclass(frozen=True)
class Fold:
    """`source` gives `targets` their input.

    `rows` (channels,) of the source's outputs are the ones concerned.

    With grouped-query attention each value channel is read by several heads: `copies` (inputs of
    the targets,) names the channel behind each input. `others` read the source too, but are no
    linear layers (routers). A norm's gain is `offset` + weight: 1 with Gemma.
    """

    name: str
    source: Any
    targets: tuple[nn.Module, ...]
    target_names: tuple[str, ...]
    copies: Tensor
    rows: Tensor
    is_norm: bool = False
    others: tuple[nn.Module, ...] = ()
    offset: float = 0.0

    @property
    def channels(self) -> int:
        """How many channels are scaled."""
        return len(self.rows)

    def gather(self, statistic: Tensor) -> Tensor:
        """A statistic of the targets' inputs (in,), as its mean for each source channel
        (channels,).
        """
        total = torch.zeros(self.channels, dtype=statistic.dtype).index_add_(
            0, self.copies, statistic.cpu()
        )
        return total / torch.bincount(self.copies)

    def spread(self, scale: Tensor) -> Tensor:
        """Scales of the source channels (channels,) for each input of the targets (in,)."""
        return scale[self.copies]


@dataclass(frozen=True)
class _Plan:
    """A fold by the names of its modules in the block."""

    source: str
    targets: tuple[str, ...]
    copies: Tensor
    rows: Tensor
    is_norm: bool = False
    others: tuple[str, ...] = ()
    offset: float = 0.0

    def of(self, block: nn.Module) -> Fold:
        targets = tuple(block.get_submodule(name) for name in self.targets)
        others = tuple(block.get_submodule(name) for name in self.others)
        source = block.get_submodule(self.source)
        return Fold(
            self.source,
            source,
            targets,
            self.targets,
            self.copies,
            self.rows,
            self.is_norm,
            others,
            self.offset,
        )


@torch.no_grad()
def folds(model: PreTrainedModel) -> list[list[Fold]]:
    """What can be folded, block by block, in the order in which the targets run.

    `model` is as it was afterwards.

    Raises CompressionError, naming the model, where nothing can be, or where scaling would change
    the function.
    """
    if experts := fused(model):
        raise CompressionError(
            f"{next(iter(experts))}: its experts share tensors; take them apart with "
            "models.experts.listed first."
        )
    walk.check_loaded(model)
    training = model.training
    model.eval()
    near, far = readers.probe_ids(model)
    shared = _shared(model)
    found: list[list[Fold]] = []
    plans: list[_Plan] = []
    try:
        steps = (
            walk.through_blocks(model, ids, "who reads what", batch=readers.TOKENS)
            for ids in (near, far)
        )
        for (block, one), (_, several) in zip(*steps, strict=True):
            if not all(torch.isfinite(hidden).all() for hidden, _ in (*one, *several)):
                raise CompressionError(
                    f"block {len(found)}: what enters it holds NaN or infinity in {model.dtype}; "
                    "load the model in float32."
                )
            probe = readers.Probe(block, one, several)
            if not plans or not _keeps(probe, plans):  # mostly all blocks are built alike
                plans = _plans(probe)
            made = [plan.of(block) for plan in plans]
            found.append(
                [
                    f
                    for f in made
                    if not any(
                        id(p) in shared for m in (f.source, *f.targets) for p in m.parameters()
                    )
                ]
            )
        if not any(found):
            raise CompressionError(
                f"model: in the blocks of {type(model).__name__} ({model.config.model_type}) "
                "no norm or layer was found whose outputs can be scaled without changing what "
                "the model computes; use gptq, which needs no scaling."
            )
        _check_model(model, far, found)
    finally:
        model.train(training)
    return found


def norms_before(model: PreTrainedModel) -> list[Fold]:
    """The folds of `folds` whose source is a norm.

    Raises CompressionError, naming the model, where there is none.
    """
    found = [fold for block in folds(model) for fold in block if fold.is_norm]
    if not found:
        raise CompressionError(
            f"model: no norm stands directly before the layers of a {model.config.model_type!r} "
            "block (norms after them, as in OLMo 2, cannot take up a scale); "
            "use w8a8 without smoothing, or awq."
        )
    return found


def _shared(model: nn.Module) -> set[int]:
    """Parameters that stand in more than one place: a scale for one place would be one for the
    other.
    """
    counts = Counter(
        id(p) for m in _every_module(model) for p in m._parameters.values() if p is not None
    )
    return {number for number, count in counts.items() if count > 1}


def _every_module(model: nn.Module) -> list[nn.Module]:
    return [module for _, module in model.named_modules(remove_duplicate=False)]


def _plans(probe: readers.Probe) -> list[_Plan]:
    """All folds of a block that leave its outputs as they are."""
    found = []
    for norm in probe.norms():
        every = torch.arange(walk.weight_of(probe.layers[norm.readers[0]]).shape[1])
        found.append(
            _Plan(
                norm.name, tuple(norm.readers), every, every, True, tuple(norm.others), norm.offset
            )
        )
    # by the name with numbers of experts left out: those are built alike
    behind: dict[str, dict[str, Tensor]] = {}
    taken: set[str] = set()
    for source in probe.before:
        kind = _kind(source)
        if kind not in behind:
            behind[kind] = {
                target.removeprefix(_prefix(source)): at
                for target, at in probe.carried(source).items()
            }
    for source in probe.layers:
        for short, at in behind.get(_kind(source), {}).items():
            target = _prefix(source) + short
            if target in probe.layers and target not in taken:
                taken.add(target)
                rows, copies = torch.unique(at, return_inverse=True)
                found.append(_Plan(source, (target,), copies, rows))
    order = {name: i for i, name in reversed(list(enumerate([*probe.before, *probe.layers])))}
    found.sort(key=lambda plan: order[plan.targets[0]])
    return [plan for plan in found if _keeps(probe, [plan])]


def _kind(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def _prefix(name: str) -> str:
    """Up to the expert's number, or nothing."""
    found = re.match(r".*\.\d+\.", name)
    return found.group() if found else ""


def _keeps(probe: readers.Probe, plans: Sequence[_Plan]) -> bool:
    """Whether the block computes the same with random scales in all these folds.

    The probe's block is as it was afterwards.
    """
    try:
        made = [plan.of(probe.block) for plan in plans]
    except AttributeError:
        return False
    if any(walk.weight_of(t).shape[1] != len(f.copies) for f in made for t in f.targets):
        return False
    before = probe.run(probe.far)
    after = _with_scales(made, lambda: probe.run(probe.far))
    return all(bool((a - b).norm() <= SAME * b.norm()) for a, b in zip(after, before, strict=True))


def _with_scales(made: Sequence[Fold], work: Any) -> Any:
    """work() while powers of two (exact in any precision) are folded in; then the weights are put
    back.
    """
    draws = torch.Generator().manual_seed(2)
    scales = [2.0 ** torch.randint(-1, 2, (fold.channels,), generator=draws) for fold in made]
    gains = [fold.source.weight.clone() if fold.is_norm else None for fold in made]
    for fold, scale in zip(made, scales, strict=True):
        apply(fold, scale)
    try:
        return work()
    finally:
        for fold, scale, gain in zip(made, scales, gains, strict=True):
            apply(fold, 1 / scale)
            if gain is not None:
                fold.source.weight.copy_(gain)


def _scaled_in_passing(made: Sequence[Fold], work: Any) -> Any:
    """work() while powers of two divide the sources' outputs and multiply the targets' inputs: no
    weight is touched.
    """
    draws, handles = torch.Generator().manual_seed(2), []

    def divided(out: Tensor, by: Tensor) -> Tensor:
        return out / by.to(out)

    def multiplied(args: tuple, kwargs: dict, by: Tensor) -> tuple[tuple, dict]:
        if args:
            return (args[0] * by.to(args[0]), *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: kwargs[first] * by.to(kwargs[first])}

    for fold in made:
        scale = 2.0 ** torch.randint(-1, 2, (fold.channels,), generator=draws)
        weight: Any = fold.source.weight
        outputs = torch.ones(weight.shape[1] if isinstance(fold.source, Conv1D) else len(weight))
        outputs[fold.rows.cpu()] = scale
        handles.append(
            fold.source.register_forward_hook(lambda _, args, out, by=outputs: divided(out, by))
        )
        for target in (*fold.targets, *fold.others):
            spread = fold.spread(scale)
            handles.append(
                target.register_forward_pre_hook(
                    lambda _, args, kwargs, by=spread: multiplied(args, kwargs, by),
                    with_kwargs=True,
                )
            )
    try:
        return work()
    finally:
        for handle in handles:
            handle.remove()


def _check_model(model: PreTrainedModel, ids: Tensor, found: Sequence[Sequence[Fold]]) -> None:
    """Blocks may use each other's parts (shared keys and values): the whole model must compute the
    same too.
    """
    options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    run = lambda: model(input_ids=ids.to(model.device), **options)[0].float()  # noqa: E731
    before = run()
    after = _scaled_in_passing([fold for block in found for fold in block], run)
    near = SAME if model.dtype in (torch.float32, torch.float64) else 0.05
    if not (after - before).norm() <= near * before.norm():
        raise CompressionError(
            f"model: scaling inside the blocks of {type(model).__name__} "
            f"({model.config.model_type}) changes what it computes, since its blocks use each "
            "other's parts; use gptq, which needs no scaling."
        )


@torch.no_grad()
def apply(fold: Fold, scale: Tensor) -> None:
    """Divide the source's outputs by `scale` (channels,) and multiply the targets' inputs by it, in
    place.

    Raises CompressionError unless every scale is positive and finite.
    """
    if scale.shape != (fold.channels,) or not torch.isfinite(scale).all() or not (scale > 0).all():
        raise CompressionError(f"{fold.name}: expected {fold.channels} positive scales.")
    weight, bias = fold.source.weight, getattr(fold.source, "bias", None)
    s, rows = scale.to(weight), fold.rows.to(weight.device)
    if isinstance(fold.source, Conv1D):
        weight[:, rows] /= s
    elif weight.dim() > 1:
        weight[rows] /= s[:, None]
    elif fold.offset:
        weight[rows] = (weight[rows] + fold.offset) / s - fold.offset
    else:
        weight[rows] /= s
    if isinstance(bias, Tensor):
        bias[rows] /= s
    for target in (*fold.targets, *fold.others):
        matrix: Any = target.weight
        spread = fold.spread(scale.cpu()).to(matrix)
        matrix *= spread[:, None] if isinstance(target, Conv1D) else spread
