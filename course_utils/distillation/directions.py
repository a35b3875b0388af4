"""Which way a divergence points, on distributions small enough to write down: gradients in closed
form, by autograd and by sampling.
"""

from typing import Literal

import torch
from torch import Tensor

from course_utils.errors import CompressionError

Direction = Literal["forward", "reverse"]


def divergence(log_p: Tensor, log_q: Tensor, direction: str = "forward") -> Tensor:
    """KL(p ‖ q) for "forward", KL(q ‖ p) for "reverse", over the last dimension; p is the teacher,
    q the student.
    """
    if direction not in ("forward", "reverse"):
        raise CompressionError(f"direction={direction!r}: choose 'forward' or 'reverse'.")
    one, other = (log_p, log_q) if direction == "forward" else (log_q, log_p)
    return (one.exp() * (one - other)).sum(-1)


def gradient(logits: Tensor, log_p: Tensor, direction: str = "forward") -> Tensor:
    """∂ divergence / ∂ logits of q = softmax(logits), (V,): forward q − p, reverse q_k (ln q_k − ln
    p_k − KL(q ‖ p)).
    """
    log_q = logits.log_softmax(-1)
    if direction == "forward":
        return log_q.exp() - log_p.exp()
    far = divergence(log_p, log_q, direction)
    return log_q.exp() * (log_q - log_p - far)


def score_function(logits: Tensor, log_p: Tensor, drawn: Tensor, baseline: float = 0.0) -> Tensor:
    """One estimate of the reverse gradient for each drawn token y ~ q: (ln q_y − ln p_y − b) (e_y −
    q), (draws, V).

    Their mean is the gradient for every b (Williams, 1992); b near KL(q ‖ p) makes it less noisy.
    `drawn`: (draws,) tokens.
    """
    log_q = logits.log_softmax(-1)
    pull = torch.nn.functional.one_hot(drawn, len(logits)).to(logits.dtype) - log_q.exp()
    return (log_q - log_p - baseline)[drawn, None] * pull


def log_normal(grid: Tensor, mean: float | Tensor, sd: float | Tensor) -> Tensor:
    """Ln of a normal density on the points of `grid`, normalized there."""
    return (-0.5 * ((grid - mean) / sd) ** 2).log_softmax(-1)


def log_mixture(grid: Tensor, weights: list[float], means: list[float], sds: list[float]) -> Tensor:
    """Ln of a mixture of normals on the points of `grid`; the weights are normalized."""
    w = torch.tensor(weights, dtype=grid.dtype)
    parts = torch.stack([log_normal(grid, m, s) for m, s in zip(means, sds, strict=True)])
    return (parts + (w / w.sum()).log()[:, None]).logsumexp(0)


def fit_normal(
    log_p: Tensor,
    grid: Tensor,
    direction: str,
    *,
    mean: float,
    sd: float,
    steps: int = 400,
    rate: float = 0.05,
) -> tuple[float, float, float]:
    """The normal on `grid` that Adam finds from (mean, sd): (mean, sd, divergence).

    Reverse KL has several minima; start in each.
    """
    if not sd > 0:
        raise CompressionError(f"sd={sd}: choose a positive width to start from.")
    at = torch.tensor(
        [float(mean), float(torch.tensor(sd).log())], dtype=grid.dtype, requires_grad=True
    )
    adam = torch.optim.Adam([at], lr=rate)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * (1 - step / steps)
        loss = divergence(log_p, log_normal(grid, at[0], at[1].exp()), direction)
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        far = divergence(log_p, log_normal(grid, at[0], at[1].exp()), direction)
    return float(at[0].detach()), float(at[1].detach().exp()), float(far)


def kept_after(
    probabilities: Tensor,
    draws: int,
    generations: int,
    *,
    fresh: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """How many words are left in each generation, (generations + 1,): each is estimated by counting
    `draws` texts of the one before.

    `fresh`: the share of each generation's texts that comes from the original `probabilities`
    instead.
    A word whose share is p survives one generation with probability 1 − (1 − p)ⁿ; what has gone
    never comes back without fresh text.
    """
    if draws < 1 or not 0 <= fresh <= 1:
        raise CompressionError(
            f"draws={draws}, fresh={fresh}: at least one draw, and a share between 0 and 1."
        )
    p = probabilities / probabilities.sum()
    now, left = p, [int((p > 0).sum())]
    for _ in range(generations):
        mixed = (1 - fresh) * now + fresh * p
        now = (
            torch.bincount(
                torch.multinomial(mixed, draws, True, generator=generator), minlength=len(p)
            ).to(p.dtype)
            / draws
        )
        left.append(int((now > 0).sum()))
    return torch.tensor(left)
