"""Losses between two distributions over the vocabulary.

Logits are (..., V); labels and masks have the shape (...) and belong to the same positions.
Half-precision logits are raised to float32. The softened probabilities are P(τ) = softmax(z / τ).
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from course_utils.errors import CompressionError
from course_utils.models.walk import exact

# numbers of logits: beyond it, and there are several positions, a divergence is computed in pieces
# of at most so many
LARGE = 2**27


def counted(x: Tensor, mask: Tensor | None, *features: int) -> Tensor:
    """The positions of x (..., *features) where `mask` (...) is true: (n, *features).

    What is hidden may be NaN.
    """
    if mask is None:
        return x.reshape(-1, *features)
    if mask.shape + features != x.shape:
        raise CompressionError(
            f"mask: has shape {tuple(mask.shape)}, but {tuple(x.shape[: x.dim() - len(features)])} "
            "is needed."
        )
    mask = mask.bool()
    if not mask.any():
        raise CompressionError(
            "mask: hides every position; leave at least one token to learn from."
        )
    return x[mask]


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of `values` (...) where `mask` (...) is true."""
    return counted(values, mask).mean()


def softened(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(log P_S, log P_T) at a temperature, (n, V) for the n counted positions; no gradient reaches
    the teacher.
    """
    if student_logits.shape != teacher_logits.shape:
        raise CompressionError(
            f"teacher_logits: shape {tuple(teacher_logits.shape)} against the student's "
            f"{tuple(student_logits.shape)}; both need the same tokens and the same vocabulary."
        )
    if not temperature > 0 or math.isinf(temperature):
        raise CompressionError(f"temperature={temperature}: choose a positive number.")
    size = student_logits.shape[-1]
    student, teacher = (
        counted(student_logits, mask, size),
        counted(teacher_logits.detach(), mask, size),
    )
    return (exact(student) / temperature).log_softmax(-1), (
        exact(teacher) / temperature
    ).log_softmax(-1)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ p (log p − log q), the mean over positions.

    What p rules out (log p = −∞) adds 0, to the gradient too.
    """
    apart = torch.where(log_p.isneginf(), torch.zeros_like(log_p), log_p - log_q)
    return log_p.exp().mul(apart).sum(-1).mean()


def in_pieces(divergence: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Large logits go through `divergence` a few positions at a time, and again for the gradient:
    probabilities in float32 are never held for all of them.
    """

    @functools.wraps(divergence)
    def of_all(
        student_logits: Tensor,
        teacher_logits: Tensor,
        temperature: float = 1.0,
        mask: Tensor | None = None,
        **more,
    ) -> Tensor:
        size = student_logits.shape[-1]
        if (
            student_logits.numel() <= LARGE
            or student_logits.shape != teacher_logits.shape
            or student_logits.numel() == size
        ):
            return divergence(student_logits, teacher_logits, temperature, mask, **more)
        student, teacher = (
            counted(student_logits, mask, size),
            counted(teacher_logits.detach(), mask, size),
        )
        rows = max(1, LARGE // size)

        def of_few(s: Tensor, t: Tensor) -> Tensor:
            return divergence(s, t, temperature, None, **more) * len(s)

        pieces = zip(student.split(rows), teacher.split(rows), strict=True)
        return torch.stack(
            [checkpoint(of_few, s, t, use_reentrant=False) for s, t in pieces]
        ).sum() / len(student)

    return of_all


@in_pieces
def kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """KL(P_T ‖ P_S) = Σ P_T (log P_T − log P_S), the mean over positions, in nats.

    Gradient in z_S: (P_S − P_T) / τ.
    """
    log_s, log_t = softened(student_logits, teacher_logits, temperature, mask)
    return _divergence(log_t, log_s)


@in_pieces
def reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """KL(P_S ‖ P_T): mode seeking, it punishes mass where the teacher has none (Gu et al., 2024,
    MiniLLM).
    """
    log_s, log_t = softened(student_logits, teacher_logits, temperature, mask)
    return _divergence(log_s, log_t)


@in_pieces
def jensen_shannon(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0,
    mask: Tensor | None = None,
    beta: float = 0.5,
) -> Tensor:  # fmt: skip
    """β KL(P_T ‖ M) + (1 − β) KL(P_S ‖ M) with M = β P_T + (1 − β) P_S, 0 < β < 1 (Agarwal et al.,
    2024, GKD).

    Divided by β it tends to KL(P_T ‖ P_S) for β → 0, divided by 1 − β to KL(P_S ‖ P_T) for β → 1.
    """
    if not 0 < beta < 1:
        raise CompressionError(
            f"beta={beta}: choose a number between 0 and 1; for the ends use kl and reverse_kl."
        )
    log_s, log_t = softened(student_logits, teacher_logits, temperature, mask)
    log_m = torch.logaddexp(log_t + math.log(beta), log_s + math.log1p(-beta))
    return beta * _divergence(log_t, log_m) + (1 - beta) * _divergence(log_s, log_m)


DIVERGENCES = {"forward": kl, "reverse": reverse_kl, "js": jensen_shannon}


def cross_entropy(student_logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """−log P_S(label) at τ = 1, the mean over positions, in nats.

    Labels behind the mask may be anything, such as −100.
    """
    if labels.shape != student_logits.shape[:-1]:
        raise CompressionError(
            f"labels: shape {tuple(labels.shape)}, but {tuple(student_logits.shape[:-1])} "
            "is needed."
        )
    size = student_logits.shape[-1]
    logits, used = counted(student_logits, mask, size), counted(labels, mask)
    if used.numel() and (used.min() < 0 or used.max() >= size):
        raise CompressionError(f"labels: must lie in 0 … {size - 1}; hide the others with mask.")
    return -exact(logits).log_softmax(-1).gather(-1, used.long().unsqueeze(-1)).mean()


def response(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None = None,
    temperature: float = 2.0, alpha: float = 0.5, mask: Tensor | None = None,
    divergence: str = "forward",
) -> Tensor:  # fmt: skip
    """α CE(labels) + (1 − α) τ² KL(P_T(τ) ‖ P_S(τ)) (Hinton et al., 2015).

    The gradient of τ² KL in the student's logits is τ (P_S − P_T): the factor keeps it of the same
    size as τ grows.
    For large τ it tends to (z_S − z_T) / V with logits centred on zero, so the loss tends to
    ‖z_S − z_T‖² / (2 V). `labels` may be left out when α = 0. `divergence`: forward, reverse or js.
    Raises CompressionError for shapes that differ, τ ≤ 0, α outside [0, 1], labels outside the
    vocabulary.
    """
    if not 0 <= alpha <= 1:
        raise CompressionError(f"alpha={alpha}: choose 0 (teacher only) to 1 (labels only).")
    if divergence not in DIVERGENCES:
        raise CompressionError(
            f"divergence={divergence!r}: choose one of {', '.join(DIVERGENCES)}."
        )
    if labels is None and alpha > 0:
        raise CompressionError(
            "labels: needed when alpha > 0; give them, or set alpha=0 to learn "
            "from the teacher alone."
        )
    total = student_logits.new_zeros((), dtype=exact(student_logits).dtype)
    if alpha < 1:
        far = DIVERGENCES[divergence](student_logits, teacher_logits, temperature, mask)
        total = total + (1 - alpha) * temperature**2 * far
    if alpha > 0:
        assert labels is not None
        total = total + alpha * cross_entropy(student_logits, labels, mask)
    return total
