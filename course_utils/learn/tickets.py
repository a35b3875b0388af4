"""Lab 4.2: networks on digits as dicts of weights, trained under masks, with every training counted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from course_utils.distillation import digits
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import lottery

WIDTHS = (64, 128, 64, 10)
STEPS, PEAK = 150, 1e-2


class Task:
    """A division of the digits, a network 64-128-64-10 and a way to train it, all by one seed.

    `start` holds the initial weights (out, in) by name; biases begin alike and are never pruned. `train(masks)` puts
    masks on the initial weights, trains for 150 steps of 64 images and returns the trained weights; `accuracy(masks)` does the
    same and returns the accuracy on 500 test images. `other=True`: from other initial weights. `limit`: so many calls of `train`.
    """

    def __init__(self, seed: int, *, limit: int = 1000) -> None:
        self.seed, self.limit, self.trainings = seed, limit, 0
        self.data = digits.load(seed)
        self.networks = [digits.network(*WIDTHS, seed=s) for s in (seed, seed + 1000)]

    @property
    def start(self) -> dict[str, Tensor]:
        return _weights(self.networks[0])

    def _fit(self, model: nn.Module) -> None:
        digits.train(model, self.data.train_x, self.data.train_y, steps=STEPS, peak=PEAK, seed=self.seed)

    def train(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raises CompressionError after `limit` calls, or if the masks do not fit."""
        self.trainings += 1
        if self.trainings > self.limit:
            raise CompressionError(f"train: {self.limit} trainings are allowed; take more of the weights in each round.")
        return _weights(lottery.train_masked(self.networks[0], self._fit, _checked(masks, self.start)))

    def accuracy(self, masks: Mapping[str, Tensor], *, other: bool = False) -> float:
        model = lottery.train_masked(self.networks[other], self._fit, _checked(masks, self.start))
        return digits.accuracy(model, self.data.test_x, self.data.test_y)

    def all_kept(self) -> dict[str, Tensor]:
        return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.start.items()}


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: walk.weight_of(module).detach().clone() for name, module in walk.compressible(model).items()}


def _checked(masks: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(masks, Mapping) or set(masks) != set(start):
        raise CompressionError(f"masks: expected a dict with the layers {', '.join(start)}.")
    for name, mask in masks.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != start[name].shape:
            raise CompressionError(f"masks[{name!r}]: expected torch.bool of shape {tuple(start[name].shape)}, True = kept.")
    return dict(masks)


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """The share of weights that are gone, over all layers."""
    return 1 - sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


def nested(masks: list[Mapping[str, Tensor]]) -> bool:
    """True when no weight that was gone comes back, from each dict of masks to the next."""
    return all(not bool((later[name] & ~earlier[name]).any()) for earlier, later in zip(masks, masks[1:], strict=False) for name in earlier)


def random_masks(masks: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The control: as many weights in each layer, in places drawn by chance."""
    return lottery.random_masks(masks, seed)
