"""N:M masks learned by gradient descent while the weights stay as they are (MaskLLM: Fang et al.,
2024).

Each group of M inputs of a row has a logit for each of its (M choose N) patterns. A step draws a
soft pattern for each group by `gumbel.relaxed`, runs the model with M ⊙ W, and moves the logits
towards the original's answers. τ falls from soft to nearly hard. At the end each group takes its
best pattern: exactly N of each M, and no weight has moved.
"""

import time

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import experts, selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization.compressed import Compressed

from . import apply, gumbel, mask_training, masks
from .anatomy import check_model


def falling(step: int, steps: int, ends: tuple[float, float]) -> float:
    """τ at a step: from the first end to the second, by the same factor at each step."""
    first, last = ends
    return first * (last / first) ** (step / max(1, steps - 1))


def prune(
    model: PreTrainedModel, data: Tensor, *, pattern: str = "2:4", steps: int = 160, batch: int = 4,
    learning_rate: float = 0.04, temperature: tuple[float, float] = (0.6, 0.05),
    start: str | None = "wanda", strength: float = 60.0, noise: float = 1.0, seed: int = 0,
    ignore: Patterns = (), per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Learn the mask of every linear layer in the blocks of a causal language model.

    Works on a copy; kept weights keep their values.

    `data`: token ids (sequences, context); each step takes `batch` of them by chance. The loss is
    KL(original ‖ masked).
    `start`: the logits begin with `strength` times the share of a group's energy that a pattern
    keeps, by this score; None: all equal.
    `noise` multiplies the Gumbel noise; 0 is the control, a softmax that never tries another
    pattern than it prefers.
    `details`: the loss of each step, and how many groups changed their pattern. `ignore`,
    `per_layer` (of pattern) as in `apply.prune`.
    Raises CompressionError for a pattern that does not fit, bad settings, empty data or a loss that
    is not finite.
    """
    began = time.perf_counter()
    check_model(model)
    data = walk.check_calibration(data, model, whole=True)
    mask_training.check_training(steps, batch, learning_rate)
    ends = tuple(gumbel.check_temperature(t) for t in temperature)
    if len(ends) != 2:
        raise CompressionError(f"temperature={temperature!r}: give the first and the last.")
    original, work = model, sharing.structure(model).eval()
    told = selection.choose(work, {"pattern": pattern}, ignore, per_layer)
    chosen = told.layers
    kept = {
        name: _patterns(told.own[name]["pattern"], name, walk.weight_of(module).shape[1])
        for name, module in chosen.items()
    }
    scores = mask_training.starting_scores(work, data, chosen, start or "magnitude")
    logits = {
        name: gumbel.prior(score, kept[name], strength if start else 0.0).requires_grad_()
        for name, score in scores.items()
    }
    before = {name: value.detach().argmax(-1) for name, value in logits.items()}
    frozen = {name: walk.weight_of(module).detach() for name, module in chosen.items()}
    generator = torch.Generator().manual_seed(seed + 1)

    def masked(step: int) -> dict[str, Tensor]:
        tau, made = falling(step, steps, ends), {}
        for name, value in logits.items():
            g = noise * gumbel.noise(value.shape, generator).to(value)
            made[name] = frozen[name] * gumbel.as_mask(
                gumbel.relaxed(value, tau, g), kept[name]
            ).to(frozen[name])
        return made

    losses = mask_training.descend(
        work,
        masked,
        logits.values(),
        data,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        title="learned masks",
    )
    changed = sum(int((v.detach().argmax(-1) != before[n]).sum()) for n, v in logits.items()) / sum(
        v.numel() for v in before.values()
    )
    for name, value in logits.items():
        apply.zero_outside(chosen[name], gumbel.best(value.detach(), kept[name]))
    settings = {
        "method": "learned_masks", "pattern": pattern, "sparsity": apply.sparsity_of(work),
        "steps": steps, "batch": batch, "learning_rate": learning_rate, "temperature": list(ends),
        "start": start, "strength": strength, "noise": noise, "seed": seed,
        "data": list(data.shape), **told.told,
    }  # fmt: skip
    share = {name: value for name, value in apply.zeros(work).items() if name in logits}
    details = {"sparsity": share, "loss": losses, "changed": changed}
    return Compressed(
        sharing.own(experts.fuse(work), original), settings, time.perf_counter() - began, details
    )


def _patterns(pattern: object, name: str, columns: int) -> Tensor:
    """The choices of 'N:M' for a layer with so many inputs.

    Raises CompressionError for another pattern, or an M that does not fit.
    """
    pair = masks.parse(pattern, ":") if isinstance(pattern, str) else None
    if pair is None:
        raise CompressionError(
            f"pattern={pattern!r}: learned are choices of N of M weights; "
            "write 'N:M', such as '2:4'."
        )
    kept = gumbel.patterns(*pair)
    if columns % pair[1]:
        raise CompressionError(
            f"pattern {pattern}: {pair[1]} does not divide the {columns} inputs of {name}; "
            "name it in `ignore`."
        )
    return kept
