"""Train the weights that subnets share: the sandwich rule, in-place distillation (Yu & Huang,
2019), progressive shrinking (Cai et al., 2020).

A step runs a few subnets on the same tokens, adds their gradients, and moves the shared weights
once. By the sandwich rule the largest and the smallest are always among them: all others lie
between. In-place distillation: the largest learns from the text, the others from what the largest
answers in this step. Progressive shrinking frees the choices one after the other.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils.errors import CompressionError
from course_utils.models import walk

from . import mask_training
from .subnets import Space, Subnet
from .supernet import Supernet

Stages = Sequence[tuple[Space, int]]


def text_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of the next token, nats a token."""
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def chosen(space: Space, rng: random.Random, count: int, sandwich: bool) -> list[Subnet]:
    """The subnets of one step: by the sandwich rule the largest, the smallest and `count − 2`
    draws; else `count` draws.

    Each once.
    """
    first = [space.largest, space.smallest] if sandwich else []
    return list(dict.fromkeys([*first, *(space.draw(rng) for _ in range(count - len(first)))]))


def progressive(space: Space, steps: int) -> list[tuple[Space, int]]:
    """Width first, then depth, then both: thirds of the steps, the last third with what is left
    over.
    """
    third = steps // 3
    return [
        (space.narrowed("channels", "heads"), third),
        (space.narrowed("blocks"), third),
        (space, steps - 2 * third),
    ]


def train(
    net: Supernet, data: Tensor, stages: Stages, *, batch: int = 4, each: int = 4,
    sandwich: bool = True, distill: bool = True, learning_rate: float = 3e-4, seed: int = 0,
) -> list[float]:  # fmt: skip
    """Train the shared weights in place on token ids (sequences, context); the mean loss of the
    subnets of each step.

    `stages`: (space, steps) one after the other. `each` subnets share a step. `sandwich=False`:
    only draws. `distill=False`: all of them learn from the text. AdamW; the rate falls linearly to
    a tenth over all the stages; gradients are clipped to length 1.
    Raises CompressionError for bad settings or data, distillation without the largest, or a loss
    that is not finite.
    """
    data = walk.check_calibration(data, net.model, whole=True)
    steps = sum(count for _, count in stages)
    mask_training.check_training(steps, batch, learning_rate)
    if each < (2 if sandwich else 1):
        raise CompressionError(f"each={each}: a step of the sandwich rule needs 2 subnets or more.")
    if distill and not sandwich:
        raise CompressionError(
            "distill: the largest teaches, so it must be in each step; "
            "use sandwich=True, or distill=False."
        )
    for subnet in {space.largest for space, _ in stages} | {space.smallest for space, _ in stages}:
        net.config(subnet)  # refuses what the model cannot be
    learned = list(net.model.parameters())
    wanted = [p.requires_grad for p in learned]
    net.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(learned, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    generator, rng, losses = torch.Generator().manual_seed(seed), random.Random(seed), []
    spaces = [space for space, count in stages for _ in range(count)]
    try:
        for step, space in enumerate(tqdm(spaces, desc="supernet", leave=False)):
            ids = (
                data[torch.randint(len(data), (batch,), generator=generator)]
                .to(net.model.device)
                .long()
            )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 - 0.9 * step / steps)
            optimizer.zero_grad(set_to_none=True)
            losses.append(_one_step(net, ids, chosen(space, rng, each, sandwich), distill))
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
    finally:
        net.model.zero_grad(set_to_none=True)
        for parameter, want in zip(learned, wanted, strict=True):
            parameter.requires_grad_(want)
    return losses


def _one_step(net: Supernet, ids: Tensor, among: list[Subnet], distill: bool) -> float:
    """Add up the gradients of these subnets, the teacher first; their mean loss."""
    goal, total = None, 0.0
    with torch.enable_grad():
        for subnet in among:
            logits = net.logits(subnet, ids)
            loss = (
                text_loss(logits, ids) if goal is None else mask_training.divergence(goal, logits)
            )
            if not torch.isfinite(loss):
                raise CompressionError(
                    f"learning_rate: the loss of {subnet} is not finite; use a smaller one."
                )
            (loss / len(among)).backward()
            if distill and goal is None:
                goal = logits.detach()
            total += float(loss.detach()) / len(among)
    return total
