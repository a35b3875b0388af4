"""Prune by gates that are trained: hard concrete gates on weights or inputs, under a size (L0
regularization: Louizos et al., 2018).

Each weight, or each input of a layer, is multiplied by a gate z. Training moves the gates' α
towards the original's answers, while `budget.Lagrangian` holds the expected share of open gates at
the target. At the end exactly the wanted number of weights stays, those with the largest α.
"""

import time

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import experts, selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization.compressed import Compressed

from . import apply, concrete, mask_training, masks
from .anatomy import check_model, set_weight
from .budget import Lagrangian

UNITS = ("weight", "input")
GATES = ("hard", "soft")


def start_alpha(score: Tensor, sparsity: float, spread: float) -> Tensor:
    """α in the order of a score within its row, as Wanda compares: `spread` · (ln score − c) /
    deviation, with `sparsity` of each row below 0.
    """
    logs = score.clamp(min=1e-12).log()
    order = logs.sort(dim=1).values
    gone = min(max(1, masks.removed(logs.shape[1], sparsity)), logs.shape[1] - 1)
    border = order[:, gone - 1 : gone + 1].mean(1, keepdim=True)
    return spread * (logs - border) / logs.std().clamp(min=1e-6)


def prune(
    model: PreTrainedModel, data: Tensor, sparsity: float = 0.5, *, unit: str = "weight",
    gates: str = "hard", steps: int = 160, batch: int = 4, learning_rate: float = 0.1,
    start: str = "wanda", spread: float = 12.0, rho: float = 10.0, fold: bool = False,
    seed: int = 0, ignore: Patterns = (), per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Train a gate for each weight ('weight') or each input of a layer ('input'); the weights stay.

    Works on a copy.

    `sparsity`: the share of gated weights that are 0 at the end, all layers ranked together;
    exactly so many gates close. `gates`: 'hard', or 'soft' (binary concrete), which is never 0
    while it trains. `start`: gates begin in the order of this score. The loss is KL(original ‖
    gated) + the Lagrangian of the expected share. `fold`: multiply what stays by its gate without
    noise; by default it keeps its value. `data`: token ids (sequences, context).
    `ignore`, `per_layer` (of sparsity) as in `apply.prune`: layers of one sparsity are ranked
    together.
    `details`: the loss, the expected sparsity and λ of each step, and `soft`, the share of trained
    gates strictly between 0 and 1.
    Raises CompressionError for bad settings, empty data, or a loss that is not finite.
    """
    began = time.perf_counter()
    check_model(model)
    data = walk.check_calibration(data, model, whole=True)
    mask_training.check_training(steps, batch, learning_rate)
    if unit not in UNITS or gates not in GATES:
        raise CompressionError(f"unit={unit!r}, gates={gates!r}: choose from {UNITS} and {GATES}.")
    original, work = model, sharing.structure(model).eval()
    told = selection.choose(work, {"sparsity": sparsity}, ignore, per_layer)
    chosen, goals = (
        told.layers,
        {name: _between(each["sparsity"]) for name, each in told.own.items()},
    )
    scores = mask_training.starting_scores(work, data, chosen, start)
    if unit == "input":
        scores = {
            name: score.square().mean(0, keepdim=True).sqrt() for name, score in scores.items()
        }
    alpha = {
        name: start_alpha(score, goals[name], spread).requires_grad_()
        for name, score in scores.items()
    }
    frozen = {name: walk.weight_of(module).detach() for name, module in chosen.items()}
    # weights behind one gate
    rows = {name: w.numel() // alpha[name].numel() for name, w in frozen.items()}
    total = sum(w.numel() for w in frozen.values())
    goal = sum(goals[name] * w.numel() for name, w in frozen.items()) / total
    generator, lagrangian = torch.Generator().manual_seed(seed + 1), Lagrangian(rho)
    history: dict[str, list[float]] = {"expected": [], "multiplier": []}

    def gated(step: int) -> dict[str, Tensor]:
        made = {}
        for name, a in alpha.items():
            noise = concrete.logistic_noise(a.shape, generator).to(a)
            z = concrete.hard(a, noise) if gates == "hard" else concrete.binary(a, noise)
            made[name] = frozen[name] * z.to(frozen[name])
        return made

    def excess() -> Tensor:
        """The share of weights whose gates are expected to be open,
        minus the share that may stay.
        """
        shares = [
            rows[n] * (concrete.open_probability(a) if gates == "hard" else torch.sigmoid(a)).sum()
            for n, a in alpha.items()
        ]
        return torch.stack(shares).sum() / total - (1 - goal)

    def after(_: int) -> None:
        with torch.no_grad():
            found = float(excess())
        lagrangian.update(found)
        history["expected"].append(goal - found)
        history["multiplier"].append(lagrangian.multiplier)

    losses = mask_training.descend(
        work, gated, alpha.values(), data, steps=steps, batch=batch, learning_rate=learning_rate,
        seed=seed, title="gates", penalty=lambda _: lagrangian.penalty(excess()), after=after,
    )  # fmt: skip
    settled = {
        n: (concrete.settled(a) if gates == "hard" else torch.sigmoid(a)).detach()
        for n, a in alpha.items()
    }
    between = sum(int(((z > 0) & (z < 1)).sum()) for z in settled.values()) / sum(
        z.numel() for z in settled.values()
    )
    kept: dict[str, Tensor] = {}
    for share in sorted(set(goals.values())):
        those = {name: a.detach() for name, a in alpha.items() if goals[name] == share}
        kept |= masks.across(those, share) if unit == "weight" else _inputs(those, rows, share)
    for name, module in chosen.items():
        set_weight(
            module,
            torch.where(
                kept[name],
                frozen[name] * (settled[name].to(frozen[name]) if fold else 1),
                torch.zeros_like(frozen[name]),
            ),
        )
    settings = {
        "method": "gated", "unit": unit, "gates": gates, "sparsity": apply.sparsity_of(work),
        "steps": steps, "batch": batch, "learning_rate": learning_rate, "start": start,
        "spread": spread, "rho": rho, "fold": fold, "seed": seed, "data": list(data.shape),
        **told.told,
    }  # fmt: skip
    zeros = {name: value for name, value in apply.zeros(work).items() if name in alpha}
    details = {"sparsity": zeros, "loss": losses, "soft": between, **history}
    return Compressed(
        sharing.own(experts.fuse(work), original), settings, time.perf_counter() - began, details
    )


def _inputs(alpha: dict[str, Tensor], rows: dict[str, int], sparsity: float) -> dict[str, Tensor]:
    """Whole inputs close, the smallest α first, until `sparsity` of the weights are behind closed
    gates (to the nearest input).
    """
    flat = torch.cat([a.detach().flatten() for a in alpha.values()])
    sizes = torch.cat([torch.full((a.numel(),), float(rows[n])) for n, a in alpha.items()])
    order = flat.argsort(stable=True)
    gone = sizes[order].cumsum(0) - sizes[order] / 2 <= sparsity * sizes.sum()
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[order[gone]] = False
    parts = kept.split([a.numel() for a in alpha.values()])
    return {
        name: part.view(1, -1).expand(rows[name], -1)
        for (name, _), part in zip(alpha.items(), parts, strict=True)
    }


def _between(sparsity: float) -> float:
    masks.removed(1, sparsity)
    if not 0 < sparsity < 1:
        raise CompressionError(f"sparsity={sparsity}: gates need one between 0 and 1.")
    return sparsity
