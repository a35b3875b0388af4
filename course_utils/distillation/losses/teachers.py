"""Teachers that are not one full distribution: the top of one, or several at once."""

import math
from typing import Any

import torch
from torch import Tensor

from course_utils.errors import CompressionError
from course_utils.models.walk import exact

from .logits import counted

TAILS = ("bucket", "renormalize")
WEIGHTINGS = ("uniform", "entropy", "label")


def top_k(
    student_logits: Tensor,
    teacher: Any,
    temperature: float,
    mask: Tensor | None = None,
    tail: str = "bucket",
) -> Tensor:
    """KL(P_T ‖ P_S) at a temperature τ when only the teacher's k largest are known, the mean over
    positions, in nats.

    `teacher` has values (..., k), log P_T at τ = 1; indices (..., k); and rest (...), log Σ exp(log
    P_T / τ) over all other tokens. With tail "bucket" the others are one outcome for both models,
    so that k + 1 probabilities are compared: never more than the full divergence, which it reaches
    at k = V. With "renormalize" both distributions are scaled to sum to 1 over the k tokens: what
    the student puts elsewhere then costs nothing.
    """
    if tail not in TAILS:
        raise CompressionError(f"tail={tail!r}: choose one of {', '.join(TAILS)}.")
    size, k = student_logits.shape[-1], teacher.values.shape[-1]
    scaled = exact(counted(student_logits, mask, size)) / temperature
    values, indices = (
        counted(teacher.values, mask, k) / temperature,
        counted(teacher.indices, mask, k),
    )
    chosen = scaled.gather(-1, indices)
    if tail == "bucket" and k < size:
        others = scaled.scatter(-1, indices, -math.inf).logsumexp(-1, keepdim=True)
        chosen, values = (
            torch.cat([chosen, others], -1),
            torch.cat([values, counted(teacher.rest, mask)[:, None]], -1),
        )
    log_s, log_t = chosen.log_softmax(-1), values.log_softmax(-1)
    p = log_t.exp()
    return torch.where(p > 0, p * (log_t - log_s), 0.0).sum(-1).mean()


def mixture(
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    temperature: float = 1.0,
    weighting: str = "uniform",
) -> Tensor:
    """Log Σ_k w_k P_k(τ) of teachers (K, ..., V): (..., V), without gradient.

    w is, at each position: uniform, 1 / K; entropy, softmax_k(−H(P_k)), a teacher counts by how
    sure it is; label, softmax_k(log P_k(label)), by how right it is (after Zhang et al., 2022).
    Both measured at τ = 1.
    """
    if weighting not in WEIGHTINGS:
        raise CompressionError(f"weighting={weighting!r}: choose one of {', '.join(WEIGHTINGS)}.")
    if weighting == "label" and labels is None:
        raise CompressionError("labels: needed to weight teachers by them.")
    logits = exact(teacher_logits.detach())
    plain = logits.log_softmax(-1)
    if weighting == "entropy":
        score = (plain.exp() * plain).nan_to_num(0.0).sum(-1)
    elif weighting == "label":
        assert labels is not None
        score = plain.gather(-1, labels.long().expand(plain.shape[:-1])[..., None])[..., 0]
    else:
        score = torch.zeros_like(plain[..., 0])
    return torch.logsumexp(
        (logits / temperature).log_softmax(-1) + score.log_softmax(0)[..., None], 0
    )
