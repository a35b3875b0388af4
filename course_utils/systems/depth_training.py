"""Mixtures of depths that are trained: the model learns to do without what its tokens skip, and a
router learns which tokens to let through (Raposo et al., 2024).

In training each of the routed blocks lets the share `capacity` of a batch's tokens through, those
of the highest score. The decision is hard, its gradient that of a sigmoid (straight through):

    s = w · (x / rms(x), 1),    keep = [s > cut] + σ(s − cut) − stop(σ(s − cut)),
    x ← x + keep · (block(x) − x).

Raposo et al. multiply what a block adds by the router's score, which suits a model that is trained
so from the start; this one was not, and here a token that passes finds the block as it was.
Afterwards each cut is the quantile of calibration tokens, as in `depth.Router`: a token decides by
itself, without looking at later ones.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.distillation import losses
from course_utils.distillation.fit import fit
from course_utils.errors import CompressionError

from .depth import Choose, Router, by_chance, cut, features, rewritten

Keep = Callable[[Tensor], Tensor]  # a block's input (rows, tokens, width) → (rows, tokens), 0 to 1


def kept(model: PreTrainedModel, keeps: dict[int, Keep]) -> AbstractContextManager[None]:
    """While this is open, block b adds `keeps[b](its input)` times what it adds."""

    def scale(keep: Keep) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda state, new: state + keep(state)[..., None].to(new.dtype) * (new - state)

    return rewritten(model, {b: scale(keep) for b, keep in keeps.items()})


def straight_through(scores: Tensor, capacity: float) -> Tensor:
    """1 for the share `capacity` of the highest scores and 0 for the others, with the gradient of
    σ(score − cut).
    """
    least = cut(scores.detach(), capacity)
    soft = (scores - least).sigmoid()
    return (scores > least).to(soft) + soft - soft.detach()


def train(
    model: PreTrainedModel, ids: Tensor, blocks: tuple[int, ...], capacity: float, *,
    by: str = "router", steps: int = 96, batch: int = 8, peak: float = 3e-4,
    router_rate: float = 10.0, seed: int = 0,
) -> tuple[PreTrainedModel, Choose]:  # fmt: skip
    """A copy of the model, trained on `ids` (windows, context) to predict as the model does while
    each of `blocks` sees a share `capacity` of the tokens, and who skips what in it.

    by: "router", which is trained along, from `depth.Router` on; "fitted", that router as it is;
    "chance", tokens drawn anew in each step (with capacity 0: a block that nobody sees). Loss:
    KL(model ‖ copy) in nats, the mean over tokens; `distillation.fit` with `peak`, of which the
    router's weights get `router_rate` times as much.
    Raises CompressionError for another `by`, and what `depth.Router` and `fit` raise.
    """
    if by not in ("router", "fitted", "chance"):
        raise CompressionError(f"by={by!r}: choose router, fitted or chance.")
    student, rng = copy.deepcopy(model).train(), torch.Generator().manual_seed(seed)
    teacher = model.eval()
    module = nn.ModuleDict({"model": student})
    router = Router(model, ids, blocks, capacity) if by != "chance" else None
    if router is None:

        def draw(x: Tensor) -> Tensor:
            return (torch.rand(x.shape[:-1], generator=rng) < capacity).to(x)

        keeps: dict[int, Keep] = dict.fromkeys(blocks, draw)
    else:
        start = {b: w.float() for b, w in router.weights.items()}
        moves = nn.ParameterDict({str(b): torch.zeros_like(w) for b, w in start.items()})
        if by == "router":
            module["router"] = moves

        def weight(b: int) -> Tensor:
            return start[b] + router_rate * moves[str(b)]

        def by_score(b: int) -> Keep:
            return lambda x: straight_through(
                (features(x).to(start[b]) @ weight(b)).view(x.shape[:-1]), capacity
            )

        keeps = {b: by_score(b) for b in blocks}

    def loss(rows: Tensor) -> tuple[dict[str, Tensor], float]:
        own = ids[rows].long().to(model.device)
        with torch.no_grad():
            goal = teacher(input_ids=own, use_cache=False).logits
        with kept(student, keeps):
            found = student(input_ids=own, use_cache=False).logits
        return {"kl": losses.kl(found, goal)}, float(own.numel())

    fit(
        module, loss, len(ids), steps=steps, batch=batch, peak=peak, seed=seed, keep="last",
        progress=False,
    )  # fmt: skip
    student.eval()
    if router is None:
        return student, by_chance(student, blocks, capacity, seed)
    router.move({b: weight(b).detach().double() for b in blocks}, student, ids)
    return student, router.skips
