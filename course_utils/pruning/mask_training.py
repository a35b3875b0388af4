"""What methods that learn masks share: masked weights in the place of a model's own, and steps
towards the original's answers.

The model stays as it is. Its weights are given as M ⊙ W to one forward pass at a time, so that
gradients reach what M is made of.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from tqdm.auto import tqdm
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError
from course_utils.models import walk

Weights = Callable[[int], dict[str, Tensor]]  # of a step: the weights (out, in) by layer


def check_training(steps: int, batch: int, learning_rate: float) -> None:
    """Raises CompressionError for a training that cannot be."""
    if (
        not isinstance(steps, int)
        or not isinstance(batch, int)
        or steps < 1
        or batch < 1
        or not learning_rate > 0
    ):
        raise CompressionError(
            f"steps={steps}, batch={batch}, learning_rate={learning_rate}: "
            "choose whole numbers from 1 on, and a rate above 0."
        )


def logits_with(model: nn.Module, weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """The logits of the model with these weights (out, in) in the place of its own; differentiable
    in them.
    """
    layers = walk.compressible(model)
    turned = {
        f"{name}.weight": w.T if isinstance(layers[name], Conv1D) else w
        for name, w in weights.items()
    }
    answer: Any = functional_call(
        model, turned, (), {"input_ids": ids, "use_cache": False}, tie_weights=False
    )
    return answer.logits


def divergence(goal: Tensor, logits: Tensor) -> Tensor:
    """The mean over tokens of KL(p ‖ q) in nats, p and q the softmax of `goal` and of `logits`."""
    p, q = (x.flatten(0, -2).float().log_softmax(-1) for x in (goal, logits))
    return nn.functional.kl_div(q, p, log_target=True, reduction="batchmean")


def descend(
    model: Any, weights: Weights, learned: Iterable[Tensor], data: Tensor, *, steps: int,
    batch: int, learning_rate: float, seed: int, title: str,
    penalty: Callable[[int], Tensor] | None = None, after: Callable[[int], None] | None = None,
) -> list[float]:  # fmt: skip
    """Adam on the tensors `learned`, so that the model with `weights(step)` answers as it does with
    its own; the loss of each step.

    `penalty(step)` is added to the divergence; `after(step)` runs behind each step. The learning
    rate falls linearly to a tenth.
    Raises CompressionError when the loss is not finite.
    """
    learned = list(learned)
    optimizer = torch.optim.Adam(learned, lr=learning_rate)
    generator, losses = torch.Generator().manual_seed(seed), []
    for step in tqdm(range(steps), desc=title, leave=False):
        ids = data[torch.randint(len(data), (batch,), generator=generator)].to(model.device).long()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - 0.9 * step / steps)
        with torch.no_grad():
            goal = model(input_ids=ids, use_cache=False).logits
        with torch.enable_grad():
            loss = divergence(goal, logits_with(model, weights(step), ids))
            total = loss if penalty is None else loss + penalty(step)
            if not torch.isfinite(total):
                raise CompressionError(
                    f"learning_rate={learning_rate}: the loss is not finite at step {step}; "
                    "use a smaller one."
                )
            for tensor, gradient in zip(learned, torch.autograd.grad(total, learned), strict=True):
                # only of what is learned: the model's own parameters get none
                tensor.grad = gradient
        optimizer.step()
        losses.append(float(loss.detach()))
        if after is not None:
            after(step)
    return losses


def starting_scores(
    model: Any, data: Tensor, names: Iterable[str], start: str
) -> dict[str, Tensor]:
    """The scores (out, in) that a learned mask begins with: 'magnitude', or 'wanda' with the inputs
    of the dense model.
    """
    layers = walk.compressible(model)
    chosen = {name: walk.exact(walk.weight_of(layers[name])).abs() for name in names}
    if start == "magnitude":
        return chosen
    if start != "wanda":
        raise CompressionError(f"start={start!r}: choose 'wanda' or 'magnitude'.")
    squares: dict[str, Tensor] = {}

    def see(name: str) -> Callable:
        def hook(_: Any, args: tuple) -> None:
            x = args[0].detach().reshape(-1, args[0].shape[-1])
            squares[name] = squares.get(name, 0) + x.square().sum(0, dtype=torch.float64)

        return hook

    handles = [layers[name].register_forward_pre_hook(see(name)) for name in chosen]
    try:
        with torch.no_grad():
            for part in data.split(8):
                model(input_ids=part.to(model.device).long(), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    # experts without tokens: magnitude
    return {
        name: w * squares[name].sqrt().to(w) if name in squares else w for name, w in chosen.items()
    }
