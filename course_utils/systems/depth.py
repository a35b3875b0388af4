"""Dynamic depth: not every token needs every block.

Early exits and mixtures of depths, on any Hugging Face decoder.

A block that is skipped for a token leaves its state as it is. Everything here is that one
operation:

    early exit         a token that is sure after block k skips all later ones (Schuster et al.,
                       CALM, 2022)
    mixture of depths  in each block a router lets some tokens through and the others pass by
                       (Raposo et al., 2024)
    static depth       a block is skipped for every token: the control of equal cost

Tokens that skip a block still give it keys and values, made from the state they carry: later tokens
can look at them.
These functions measure quality and count blocks. They do not make this model faster: all blocks are
computed, and what a token skips is thrown away.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import gates, walk

Skips = Mapping[int, Tensor]


@contextmanager
def rewritten(
    model: PreTrainedModel, ways: Mapping[int, Callable[[Tensor, Tensor], Tensor]]
) -> Iterator[None]:
    """While this is open, block b gives ways[b](its input, its output), both (windows, tokens,
    width).

    Raises CompressionError for a block that is not there.
    """
    blocks = walk.blocks(model)
    if wrong := [b for b in ways if not 0 <= b < len(blocks)]:
        raise CompressionError(
            f"skips: there is no block {wrong[0]}; the model has blocks 0 to {len(blocks) - 1}."
        )

    def hook(way: Callable[[Tensor, Tensor], Tensor]) -> Callable:
        def rewrite(
            block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
        ) -> Any:
            state, _ = gates.by_name(block, args, kwargs)
            if isinstance(out, tuple):
                return (way(state, out[0]), *out[1:])
            return way(state, out)

        return rewrite

    handles = [
        blocks[b].register_forward_hook(hook(way), with_kwargs=True) for b, way in ways.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def bypassed(model: PreTrainedModel, skips: Skips) -> AbstractContextManager[None]:
    """While this is open, block b does nothing to the tokens where skips[b] (windows, tokens; or
    one value) is True.

    Raises CompressionError for a block that is not there.
    """

    def pass_by(skip: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        def way(state: Tensor, new: Tensor) -> Tensor:
            keep = torch.as_tensor(skip, device=new.device).expand(new.shape[:-1])
            return torch.where(keep[..., None], state, new)

        return way

    return rewritten(model, {b: pass_by(skip) for b, skip in skips.items()})


def skips_of(depths: Tensor, blocks: int) -> dict[int, Tensor]:
    """A token of depth d goes through blocks 0 … d − 1 and skips the others."""
    return {b: depths <= b for b in range(blocks)}


@torch.no_grad()
def predictions(
    model: PreTrainedModel, ids: Tensor, skips: Skips | None = None, batch: int = 16
) -> Tensor:
    """(windows, tokens, vocabulary) log-probabilities of the next token, float32, when tokens skip
    these blocks.
    """
    was, found = model.training, []
    model.eval()
    try:
        for i in range(0, len(ids), batch):
            here = {b: s[i : i + batch] if s.dim() == 2 else s for b, s in (skips or {}).items()}
            with bypassed(model, here):
                found.append(
                    model(input_ids=ids[i : i + batch].long().to(model.device), use_cache=False)
                    .logits.float()
                    .log_softmax(-1)
                    .cpu()
                )
    finally:
        model.train(was)
    return torch.cat(found)


def kl(original: Tensor, changed: Tensor) -> Tensor:
    """(windows,) KL(original ‖ changed) in nats a token,
    from log-probabilities of `predictions`.
    """
    return (original.exp() * (original - changed)).sum(-1, dtype=torch.float64).mean(1)


def exits(model: PreTrainedModel, ids: Tensor, threshold: float, first: int = 1) -> Tensor:
    """(windows, tokens) depths: a token leaves after the first block, from `first` on, where its
    likeliest next token has p > threshold.

    What it would say there is read by the model's own last norm and head (the "logit lens"). All
    blocks where it is never sure.
    Raises CompressionError for a threshold outside 0 … 1 or a first depth that is not there.
    """
    count = len(walk.blocks(model))
    if not 0 <= threshold <= 1 or not 1 <= first <= count:
        raise CompressionError(
            f"threshold={threshold}, first={first}: give a probability, "
            f"and a depth from 1 to {count}."
        )
    depths = torch.full(ids.shape, count)
    for depth in range(first, count):
        now = depths.clamp(max=depth)
        sure = predictions(model, ids, skips_of(now, count)).amax(-1).exp() > threshold
        depths = torch.where((depths == count) & sure, depth, depths)
    return depths


@torch.no_grad()
def changes(model: PreTrainedModel, ids: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """(states that enter each block, ‖what the block adds‖ / ‖state‖): (windows, tokens, width) and
    (windows, tokens), one each.
    """
    states: list[Tensor] = []
    sizes: list[Tensor] = []

    def see(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        state, _ = gates.by_name(block, args, kwargs)
        new = out[0] if isinstance(out, tuple) else out
        states.append(state.float())
        sizes.append(((new - state).norm(dim=-1) / state.norm(dim=-1).clamp(min=1e-12)).float())

    handles = [block.register_forward_hook(see, with_kwargs=True) for block in walk.blocks(model)]
    try:
        model(input_ids=ids.long().to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return states, sizes


def features(state: Tensor) -> Tensor:
    """(tokens, width + 1) double, what a router sees of states (…, width): each over the root
    of its mean square, and a 1.
    """
    x = state.flatten(0, -2).double()
    x = x / x.pow(2).mean(1, keepdim=True).sqrt().clamp(min=1e-12)
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)


def cut(scores: Tensor, capacity: float) -> Tensor:
    """The score above which a share `capacity` of all scores lies, to the nearest whole number of
    them.
    """
    below = min(max(round((1 - capacity) * scores.numel()), 1), scores.numel())
    return scores.flatten().kthvalue(below).values


class Router:
    """A linear guess, from the state that enters a block, of how much the block will change it;
    small changes are skipped.

    Fitted by least squares (with a ridge) to log changes on calibration text. The threshold of each
    block is the quantile that lets `capacity` of the calibration tokens through: a token decides by
    itself, without looking at later ones.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ids: Tensor,
        blocks: tuple[int, ...],
        capacity: float,
        ridge: float = 1e-2,
    ) -> None:
        if not 0 < capacity < 1:
            raise CompressionError(
                f"capacity={capacity}: choose the share of tokens that a block "
                "sees, between 0 and 1."
            )
        states, sizes = changes(model, ids)
        self.blocks, self.capacity = blocks, capacity
        self.weights, self.cuts = {}, {}
        for b in blocks:
            x, y = features(states[b]), sizes[b].flatten().double().clamp(min=1e-9).log()
            A = x.T @ x
            self.weights[b] = torch.linalg.solve(
                A + ridge * A.diagonal().mean() * torch.eye(len(A), dtype=A.dtype), x.T @ y
            )
            self.cuts[b] = float(cut(x @ self.weights[b], capacity))

    def skips(self, model: PreTrainedModel, ids: Tensor) -> dict[int, Tensor]:
        """Who passes by each block, decided block by block, each from the states that the earlier
        decisions have left.
        """
        return self._decide(model, ids, lambda b, _: self.cuts[b])

    def move(self, weights: dict[int, Tensor], model: PreTrainedModel, ids: Tensor) -> None:
        """Take other weights, and the cuts that let `capacity` of these tokens through each block
        of this model.
        """
        self.weights, self.cuts = weights, {}
        self._decide(
            model, ids,
            lambda b, scores: self.cuts.setdefault(b, float(cut(scores, self.capacity))),
        )  # fmt: skip

    def _decide(
        self, model: PreTrainedModel, ids: Tensor, cut_of: Callable[[int, Tensor], float]
    ) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        for b in self.blocks:
            with bypassed(model, found):
                states, _ = changes(model, ids)
            scores = features(states[b]) @ self.weights[b]
            found[b] = (scores <= cut_of(b, scores)).view(ids.shape)
        return found


Choose = Callable[[PreTrainedModel, Tensor], dict[int, Tensor]]  # (model, ids) → skips


def best_block(model: PreTrainedModel, ids: Tensor) -> Choose:
    """Skip, for every token, the block without which the predictions on these ids change least."""
    original = predictions(model, ids)
    costs = [
        float(kl(original, predictions(model, ids, {b: torch.tensor(True)})).mean())
        for b in range(len(walk.blocks(model)))
    ]
    return lambda _, ids: {costs.index(min(costs)): torch.ones(ids.shape, dtype=torch.bool)}


def by_chance(
    model: PreTrainedModel, blocks: tuple[int, ...], capacity: float, seed: int = 0
) -> Choose:
    """Each of these blocks sees a share `capacity` of the tokens, drawn by chance: the control of a
    router.
    """
    rng = torch.Generator().manual_seed(seed)
    return lambda _, ids: {b: torch.rand(ids.shape, generator=rng) >= capacity for b in blocks}


def exit_at_mean(model: PreTrainedModel, ids: Tensor, mean: float, rounds: int = 10) -> Choose:
    """Early exits by the threshold at which tokens of these ids run `mean` blocks on average, found
    by bisection.
    """
    low, high = 0.0, 1.0
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (
            (low, middle)
            if float(exits(model, ids, middle).float().mean()) > mean
            else (middle, high)
        )
    return lambda model, ids: skips_of(exits(model, ids, (low + high) / 2), len(walk.blocks(model)))


def shuffled(choose: Choose, seed: int = 0) -> Choose:
    """The same depths, given to tokens by chance: the control of an early exit, which shows what
    the choice is worth.
    """
    rng = torch.Generator().manual_seed(seed)

    def choose_by_chance(model: PreTrainedModel, ids: Tensor) -> dict[int, Tensor]:
        order = torch.randperm(ids.numel(), generator=rng)
        return {b: skip.flatten()[order].view(ids.shape) for b, skip in choose(model, ids).items()}

    return choose_by_chance
