"""Lottery tickets: does a sparse network learn as well as the dense one, if it starts where the
dense one started?

Iterative magnitude pruning (Frankle & Carbin, 2019): train, take away the smallest weights, put
those that stay back to their values at initialization, and again. Rewinding (Frankle et al., 2020)
puts them back to an early step k instead. Two controls tell what matters: the ticket's mask from
other initial weights, and a random mask of as many weights in each layer from the same initial
weights.

Going back to step k is done by going there again: training is deterministic, so the dense network
is trained for k steps as the first time, then the mask is put on. The optimizer's state and the
batches are those of step k as well.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_utils.distillation import digits
from course_utils.errors import CompressionError
from course_utils.models import walk

from . import apply, masks, scores

Train = Callable[[nn.Module], object]


@dataclass(frozen=True)
class Ticket:
    """`masks` (True = kept) and the network that was trained with them, at this `sparsity`."""

    sparsity: float
    masks: dict[str, Tensor]
    model: nn.Module


def train_masked(
    model: nn.Module, train: Train, kept: apply.Masks, *, rewind: int = 0
) -> nn.Module:
    """Train a copy of `model` under masks that are put on after step `rewind`, and return it.

    `train(model)` trains in place with an optimizer of torch.optim, the same way at each call.
    Raises CompressionError if it ends before step `rewind`, or takes no step.
    """
    model, last = copy.deepcopy(model), 0
    if rewind == 0:
        apply.apply(model, kept)

    def hold(step: int) -> None:
        nonlocal last
        last = step
        if step >= rewind:
            apply.apply(model, kept)

    with apply.each_step(model, after=hold):
        train(model)
    if last < max(1, rewind):
        raise CompressionError(
            f"rewind={rewind}: train(model) took {last} steps with a torch optimizer; "
            "go back to an earlier step, or train the model that it is given, in place."
        )
    return model


def find(
    model: nn.Module,
    train: Train,
    *,
    rounds: int = 6,
    rate: float = 0.4,
    rewind: int = 0,
    pattern: str | None = None,
) -> list[Ticket]:
    """The dense network and the ticket of each round: `rounds` times, `rate` of the weights that
    are left go.

    `model` holds the initial weights and stays as it is. `rewind`: the step k that the weights go
    back to, 0 for initialization. `pattern`: as in `apply.make_masks`. Raises CompressionError for
    a bad rate, number of rounds or step.
    """
    if not 0 < rate < 1:
        raise CompressionError(
            f"rate={rate}: choose the fraction of the remaining weights that goes, between 0 and 1."
        )
    if rounds < 0 or rewind < 0:
        raise CompressionError(f"rounds={rounds}, rewind={rewind}: neither can be negative.")
    kept = {
        n: torch.ones_like(walk.weight_of(m), dtype=torch.bool)
        for n, m in walk.compressible(model).items()
    }
    found = [Ticket(0.0, kept, train_masked(model, train, kept))]
    for number in range(1, rounds + 1):
        trained = {
            n: scores.magnitude(walk.weight_of(m))
            for n, m in walk.compressible(found[-1].model).items()
        }
        sparsity = 1 - (1 - rate) ** number
        kept = apply.stricter(trained, found[-1].masks, sparsity, pattern)
        found.append(Ticket(sparsity, kept, train_masked(model, train, kept, rewind=rewind)))
    return found


def random_masks(kept: apply.Masks, seed: int = 0) -> dict[str, Tensor]:
    """Masks with as many weights in each layer as `kept`, in places drawn by chance."""
    return {
        name: masks.top(scores.random(mask, seed + i).flatten(), int(mask.sum())).view_as(mask)
        for i, (name, mask) in enumerate(kept.items())
    }


def experiment(
    *, seeds: Sequence[int] = range(3), widths: Sequence[int] = (64, 128, 64, 10), rounds: int = 6,
    rate: float = 0.4, rewind: int = 20, steps: int = 200, peak: float = 1e-2, every: int = 1,
    pattern: str | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Test accuracy on scikit-learn's digits, a row for each seed and sparsity.

    'ticket' starts at initialization, 'rewound' at step `rewind`, 'random mask' and 'reinitialized'
    are the controls of 'ticket'. All of them train for `steps` steps on the same batches. `every`:
    the controls of every so many rounds.
    """
    rows = []
    for seed in seeds:
        data = digits.load(seed)
        start, other = (digits.network(*widths, seed=s) for s in (seed, seed + 1000))

        def train(model: nn.Module, data: digits.Digits = data, seed: int = seed) -> None:
            digits.train(model, data.train_x, data.train_y, steps=steps, peak=peak, seed=seed)

        def accuracy(model: nn.Module, data: digits.Digits = data) -> float:
            return digits.accuracy(model, data.test_x, data.test_y)

        settings = {"rounds": rounds, "rate": rate, "pattern": pattern}
        early, late = (find(start, train, rewind=k, **settings) for k in (0, rewind))
        for number in range(0, rounds + 1, every):
            ticket = early[number]
            rows.append({
                "seed": float(seed), "sparsity": ticket.sparsity, "ticket": accuracy(ticket.model),
                "rewound": accuracy(late[number].model),
                "random mask": accuracy(train_masked(start, train,
                    random_masks(ticket.masks, seed))),
                "reinitialized": accuracy(train_masked(other, train, ticket.masks)),
            })  # fmt: skip
    return rows
