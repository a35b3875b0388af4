"""When to prune: at once, in rounds, or gradually while training.

A schedule says how sparse the model should be after each training step. Whenever it asks for more,
masks are made anew from the weights as they are; after every step they are applied again, because
momentum moves pruned weights.
"""

import copy
from collections.abc import Callable, Container, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.distillation import digits
from course_utils.errors import CompressionError
from course_utils.models import selection, walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization.compressed import Compressed

from . import apply, recovery, scores, statistics
from .anatomy import check_model

SCORES = ("magnitude", "movement")


def cubic(
    step: int, *, start: int = 0, end: int, initial: float = 0.0, final: float = 0.5
) -> float:
    """s_t = s_f + (s_i − s_f) (1 − (t − t₀) / (t₁ − t₀))³ between `start` t₀ and `end` t₁ (Zhu &
    Gupta, 2017, eq. 1).

    s_i before, s_f after. Steep at first, while there is much to spare.
    Raises CompressionError unless start < end.
    """
    if start >= end:
        raise CompressionError(f"end={end}: the schedule must end after its start, {start}.")
    left = 1 - (min(max(step, start), end) - start) / (end - start)
    return final + (initial - final) * left**3


def staircase(step: int, *, steps: int, rounds: int, final: float = 0.5) -> float:
    """Rounds of steps // rounds steps; each keeps the same fraction, so that after k of n rounds 1
    − (1 − s)^(k/n) is gone.

    The first pruning is at step 0; what is left over when the rounds do not divide the steps
    lengthens the last round.
    Raises CompressionError unless 1 ≤ rounds ≤ steps.
    """
    if not 1 <= rounds <= steps:
        raise CompressionError(
            f"rounds={rounds}: choose 1 up to the number of training steps, {steps}."
        )
    done = min(rounds, step // (steps // rounds) + 1)
    return 1 - (1 - final) ** (done / rounds) if done < rounds else final


def train(
    model: PreTrainedModel, ids: Tensor, target: Callable[[int], float], *, steps: int = 100,
    update: int = 5, pattern: str | None = None, score: str = "magnitude", peak: float = 1e-3,
    batch: int = 16, seed: int = 0, validation: Tensor | None = None,
    folder: str | Path | None = None, every: int = 50, progress: bool = True,
    name: str = "schedule", ignore: Patterns = (), per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Train a copy of the model on token ids (n, context) while it is pruned to the sparsity
    `target(step)`.

    target(0) is applied before training; then the target is read every `update` steps and at the
    last. `pattern` as in `apply.make_masks`. `score`: 'magnitude', or 'movement' (from the second
    update on what counts is how the weights moved in this run; needs target(0) = 0). `ignore` and
    `per_layer` (of pattern and of the sparsity at the end, which a layer then approaches as the
    others do theirs) as in `selection.choose`. Training as in `recovery.train`; a killed run with a
    `folder` goes on.
    Raises CompressionError for a target outside 0 … 1 or that shrinks, and what `recovery.train`
    raises.
    """
    check_model(model)
    ids = walk.check_calibration(ids, model, whole=True)
    if score not in SCORES:
        raise CompressionError(f"score={score!r}: choose one of {', '.join(SCORES)}.")
    if score == "movement" and (folder is not None or target(0) > 0):
        raise CompressionError(
            "score='movement': gathers while it trains, so target(0) must be 0 and "
            "no folder can resume it."
        )
    if update < 1:
        raise CompressionError(
            f"update={update}: choose 1 or more steps between two looks at the target."
        )
    path = [target(step) for step in sorted({*range(0, steps + 1, update), steps})]
    for low, high in zip(path, path[1:], strict=False):
        if high < low:
            raise CompressionError(
                f"target: falls from {low:.3f} to {high:.3f}; pruned weights do not come back."
            )
    chosen = selection.choose(model, {"sparsity": path[-1], "pattern": pattern}, ignore, per_layer)

    def own(now: float) -> dict[str, dict[str, Any]]:
        """Sparsity and pattern of each layer when the target is `now`."""
        part = now / path[-1] if path[-1] else 1.0
        share = {
            n: now if each["sparsity"] == path[-1] else each["sparsity"] * part
            for n, each in chosen.own.items()
        }
        return {
            n: {"sparsity": share[n], "pattern": each["pattern"] if share[n] else None}
            for n, each in chosen.own.items()
        }

    # refuses what does not fit, before the training
    apply.masks_of(_magnitudes(model, chosen.own), chosen.own)
    model = copy.deepcopy(model).train()
    apply.apply(model, apply.masks_of(_magnitudes(model, chosen.own), own(path[0])))
    kept: dict[str, Tensor] = {}
    movement = statistics.Movement(model) if score == "movement" else None
    next_token = recovery.next_token(model, ids)

    def losses(rows: Tensor) -> Any:
        # the first step of this process: a resumed run reads its masks from its weights
        if not kept:
            kept.update({n: mask for n, mask in apply.nonzero(model).items() if n in chosen.own})
        return next_token(rows)

    def hold(step: int) -> None:
        apply.apply(model, kept)
        if step % update == 0 or step == steps:
            kept.update(
                _stricter(model, kept, own(target(step)), movement) if target(step) > 0 else {}
            )
            apply.apply(model, kept)

    with movement or apply.each_step(model), apply.each_step(model, after=hold):
        fitted = recovery.run(
            model, losses, ids, steps=steps, peak=peak, batch=batch, seed=seed,
            validation=validation, folder=folder, every=every, progress=progress,
            told={"path": path, "pattern": pattern, "update": update, **chosen.told}, title=name,
        )  # fmt: skip
    settings = {
        "method": name, "score": score, "pattern": pattern or "per_layer", "steps": steps,
        "update": update, "peak": peak, "batch": batch, "seed": seed,
        "tokens": steps * batch * ids.shape[1], "sparsity": apply.sparsity_of(model), **chosen.told,
    }  # fmt: skip
    return Compressed(
        model.eval(),
        settings,
        fitted.seconds,
        {
            "history": fitted.history,
            "sparsity": {n: share for n, share in apply.zeros(model).items() if n in chosen.own},
        },
    )


def _magnitudes(model: nn.Module, chosen: Container[str] | None = None) -> dict[str, Tensor]:
    layers = walk.compressible(model).items()
    return {
        name: scores.magnitude(walk.weight_of(module))
        for name, module in layers
        if chosen is None or name in chosen
    }


def _stricter(
    model: PreTrainedModel, kept: Any, own: dict[str, dict[str, Any]], movement: Any
) -> dict[str, Tensor]:
    if movement is None:
        found = _magnitudes(model, own)
    else:
        weights = {
            name: walk.weight_of(module)
            for name, module in walk.compressible(model).items()
            if name in own
        }
        found = {
            name: scores.movement(weight, movement.total[name]) for name, weight in weights.items()
        }
    return apply.stricter(found, kept, 0.0, own=own)


def one_shot(
    model: PreTrainedModel, ids: Tensor, sparsity: float = 0.5, *, steps: int = 100, **training: Any
) -> Compressed:
    """Prune to `sparsity` at once, then train; keywords as in `train`."""
    return train(model, ids, lambda step: sparsity, steps=steps, name="one_shot", **training)


def iterative(
    model: PreTrainedModel,
    ids: Tensor,
    sparsity: float = 0.5,
    *,
    rounds: int = 4,
    steps: int = 100,
    **training: Any,
) -> Compressed:
    """`rounds` times: prune the same fraction of what is left, then train steps // rounds steps
    (Han et al., 2015).
    """
    update = max(1, steps // max(1, rounds))
    return train(
        model, ids, lambda step: staircase(step, steps=steps, rounds=rounds, final=sparsity),
        steps=steps, update=update, name="iterative", **training,
    )  # fmt: skip


def gradual(
    model: PreTrainedModel,
    ids: Tensor,
    sparsity: float = 0.5,
    *,
    steps: int = 100,
    settle: float = 0.3,
    **training: Any,
) -> Compressed:
    """Sparsity along the cubic schedule from 0 to `sparsity`; the last `settle` of the steps train
    at full sparsity.
    """
    if not 0 <= settle < 1:
        raise CompressionError(
            f"settle={settle}: choose a fraction of the steps from 0 up to (not including) 1."
        )
    end = max(1, round(steps * (1 - settle)))
    return train(
        model,
        ids,
        lambda step: cubic(step, end=end, final=sparsity),
        steps=steps,
        name="gradual",
        **training,
    )


def while_training(
    model: nn.Module, train: Callable[[nn.Module], object], target: Callable[[int], float], *,
    update: int = 5,
    pattern: str | None = None,
) -> nn.Module:  # fmt: skip
    """A copy of any model, pruned by magnitude to `target(step)` while `train(model)` trains it in
    place.

    For networks with a training loop of their own and any optimizer of torch.optim. Raises
    CompressionError for a sparsity or pattern that does not fit, and when no optimizer took a step
    on the copy, so that nothing was pruned on the way.
    """
    model = copy.deepcopy(model)
    kept = apply.make_masks(_magnitudes(model), target(0), pattern)
    apply.apply(model, kept)

    taken: list[int] = []

    def hold(step: int) -> None:
        taken.append(step)
        apply.apply(model, kept)
        if step % update == 0:
            kept.update(apply.stricter(_magnitudes(model), kept, target(step), pattern))
            apply.apply(model, kept)

    with apply.each_step(model, after=hold):
        train(model)
    if not taken:
        raise CompressionError(
            "train: no torch optimizer took a step on the model that it was given; "
            "train that one, in place."
        )
    return model


def experiment(
    *, seeds: Sequence[int] = range(3), sparsities: Sequence[float] = (0.9, 0.95, 0.97, 0.98),
    widths: Sequence[int] = (64, 128, 64, 10), steps: int = 200, settle: float = 0.4,
    peaks: Sequence[float] = (1e-2, 3e-2),
) -> list[dict[str, float]]:  # fmt: skip
    """Test accuracy on scikit-learn's digits of a trained network pruned 'at once' and 'gradually',
    by seed and sparsity.

    One ranking over all layers. Both train for `steps` steps on the same batches, and each counts
    with the better of the peak learning rates `peaks`. The cubic schedule ends before the last
    `settle` of the steps.
    """
    rows = []
    end = max(1, round(steps * (1 - settle)))
    for seed in seeds:
        data = digits.load(seed)
        train = partial(digits.train, x=data.train_x, y=data.train_y, steps=steps, seed=seed)
        dense = train(digits.network(*widths, seed=seed))
        for sparsity in sparsities:
            row = {
                "seed": float(seed),
                "sparsity": sparsity,
                "dense": digits.accuracy(dense, data.test_x, data.test_y),
            }
            for name, initial in (("at once", sparsity), ("gradually", 0.0)):
                target = partial(cubic, end=end, initial=initial, final=sparsity)
                found = [
                    while_training(dense, partial(train, peak=p), target, pattern="global")
                    for p in peaks
                ]
                row[name] = max(digits.accuracy(m, data.test_x, data.test_y) for m in found)
            rows.append(row)
    return rows
