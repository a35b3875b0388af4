"""The smallest supernet: a perceptron with one hidden layer, run with only its first hidden units
(Yu et al., 2019).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.distillation.fit import fit
from course_utils.errors import CompressionError

from . import mask_training


def _layers(net: nn.Module, width: int) -> tuple[Any, Any]:
    linear = [m for m in net.modules() if isinstance(m, nn.Linear)]
    if len(linear) != 2 or not isinstance(net, nn.Sequential):
        raise CompressionError(
            "net: expected nn.Sequential with one hidden layer, such as digits.network(64, 64, 10)."
        )
    if not 1 <= width <= linear[0].out_features:
        raise CompressionError(f"width={width}: choose 1 to {linear[0].out_features} hidden units.")
    return linear[0], linear[1]


def logits(net: nn.Module, x: Tensor, width: int) -> Tensor:
    """The answers with the first `width` hidden units alone,
    differentiable in the shared weights.
    """
    first, second = _layers(net, width)
    hidden = nn.functional.linear(x, first.weight[:width], first.bias[:width]).relu()
    return nn.functional.linear(hidden, second.weight[:, :width], second.bias)


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor, width: int) -> float:
    """The share of images that the network of `width` names as `y` does."""
    return float((logits(net, x, width).argmax(-1) == y).float().mean())


def train(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    widths: Sequence[int],
    *,
    distill: bool = True,
    steps: int = 300,
    batch: int = 64,
    peak: float = 1e-2,
    seed: int = 0,
) -> nn.Module:
    """Train these widths together, in place: each step adds their losses.

    The widest learns from the labels.

    `distill`: the others learn from what the widest answers (in-place), else from the labels too.
    One width is ordinary training.
    Raises CompressionError for a width that the network does not have.
    """
    widths = sorted(set(widths), reverse=True)
    if not widths:
        raise CompressionError("widths: give at least one number of hidden units.")
    for width in widths:
        _layers(net, width)

    def step(rows: Tensor) -> tuple[dict[str, Tensor], float]:
        widest = logits(net, x[rows], widths[0])
        losses = [nn.functional.cross_entropy(widest, y[rows])]
        for width in widths[1:]:
            own = logits(net, x[rows], width)
            losses.append(
                mask_training.divergence(widest.detach(), own)
                if distill
                else nn.functional.cross_entropy(own, y[rows])
            )
        return {"loss": torch.stack(losses).mean()}, float(len(rows))

    fit(
        net.train(),
        step,
        len(x),
        steps=steps,
        batch=min(batch, len(x)),
        peak=peak,
        seed=seed,
        every=steps,
        progress=False,
    )
    return net.eval()
