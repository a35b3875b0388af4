"""Lab 4.2: networks on digits as dicts of weights, trained under masks, with every training
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from course_utils.distillation import digits
from course_utils.errors import CompressionError
from course_utils.learn import coded
from course_utils.models import walk
from course_utils.pruning import lottery

WIDTHS = (64, 128, 64, 10)
STEPS, PEAK = 150, 1e-2


class Task:
    """A division of the digits, a network 64-128-64-10 and a way to train it, all by one seed.

    `start` holds the initial weights (out, in) by name; biases begin alike and are never pruned.
    `train(weights, masks)` puts the masks on the weights, trains for 150 steps of 64 images and
    returns the trained weights, and counts: at most `limit` times. `accuracy(masks)` does the same
    from `start` and returns the share of right answers to 500 test images;
    with `other=True` it starts from other initial weights.
    """

    def __init__(self, seed: int, *, limit: int = 1000) -> None:
        self.seed, self.limit, self.trainings, self.rewound = seed, limit, 0, True
        self.data = digits.load(seed)
        self.networks = [digits.network(*WIDTHS, seed=s) for s in (seed, seed + 1000)]

    @property
    def start(self) -> dict[str, Tensor]:
        """A copy: what is done to it changes nothing here."""
        return _weights(self.networks[0])

    def train(
        self, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The trained weights; `rewound` becomes False if the kept ones did not begin at `start`.

        Raises CompressionError after `limit` calls, or if weights or masks do not fit.
        """
        self.trainings += 1
        if self.trainings > self.limit:
            raise CompressionError(
                f"train: {self.limit} trainings are allowed; take more of the "
                "weights in each round."
            )
        start, masks = self.start, _checked(masks, self.start, torch.bool)
        weights = _checked(weights, start, torch.float32)
        self.rewound &= all(
            torch.equal(weights[name][masks[name]], w[masks[name]]) for name, w in start.items()
        )
        return _weights(self._trained(coded.with_weights(self.networks[0], weights), masks))

    def accuracy(self, masks: Mapping[str, Tensor], *, other: bool = False) -> float:
        """Train what the masks keep from the task's start, and its share of right answers on the
        test images.
        """
        model = self._trained(self.networks[other], _checked(masks, self.start, torch.bool))
        return digits.accuracy(model, self.data.test_x, self.data.test_y)

    def _trained(self, model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
        data = self.data

        def train(model: nn.Module) -> None:
            digits.train(model, data.train_x, data.train_y, steps=STEPS, peak=PEAK, seed=self.seed)

        return lottery.train_masked(model, train, masks)

    def all_kept(self) -> dict[str, Tensor]:
        """Masks that keep every weight."""
        return {
            name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.start.items()
        }


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: walk.weight_of(module).detach().clone()
        for name, module in walk.compressible(model).items()
    }


def _checked(
    given: Mapping[str, Tensor], start: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    if not isinstance(given, Mapping) or set(given) != set(start):
        raise CompressionError(f"expected a dict with the layers {', '.join(start)}.")
    for name, one in given.items():
        if not isinstance(one, Tensor) or one.dtype != dtype or one.shape != start[name].shape:
            raise CompressionError(
                f"layer {name!r}: expected {dtype} of shape {tuple(start[name].shape)}; "
                "masks are True = kept."
            )
    return dict(given)


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """The share of weights that are gone, over all layers."""
    return 1 - sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


def nested(masks: Sequence[Mapping[str, Tensor]]) -> bool:
    """True when no weight that was gone comes back, from each dict of masks to the next."""
    return all(
        not bool((later[name] & ~earlier[name]).any())
        for earlier, later in zip(masks, masks[1:], strict=False)
        for name in earlier
    )


def judged(find: Callable, seed: int, limit: int = 10) -> tuple[float, float]:
    """(accuracy of the ticket, of a random mask) for `find(start, train)`, retrained here on the
    division of this seed.

    `find` gives masks from all weights to the last, a dict for each round. Raises CompressionError
    that says which rule is broken:
    more than `limit` trainings, other initial weights, weights that come back, less than 95 %
    pruned.
    """
    task = Task(seed, limit=limit)
    found = [_checked(masks, task.start, torch.bool) for masks in find(task.start, task.train)]
    if len(found) < 2 or not all(bool(mask.all()) for mask in found[0].values()):
        raise CompressionError(
            "masks: the first ones keep everything, and at least one round follows."
        )
    if not nested(found):
        raise CompressionError("masks: a weight that was pruned came back in a later round.")
    if not task.rewound:
        raise CompressionError(
            "weights: a training began elsewhere than at the initial weights; they never change."
        )
    if sparsity(found[-1]) < 0.95:
        raise CompressionError(
            f"masks: {sparsity(found[-1]):.2%} of the weights are gone at the end; "
            "at least 95 % must be."
        )
    return task.accuracy(found[-1]), task.accuracy(lottery.random_masks(found[-1], seed))
