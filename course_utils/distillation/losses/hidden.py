"""Losses between what two networks hold inside: hidden states, attention maps, relations between
values.

Hidden states and values are (batch, tokens, width), attention maps (batch, heads, queries, keys),
masks (batch, tokens) with True at real tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.errors import CompressionError
from course_utils.models.walk import exact

from .logits import counted, masked_mean


def _same(student: Tensor, teacher: Tensor, dims: slice, what: str) -> None:
    if student.dim() != teacher.dim() or student.shape[dims] != teacher.shape[dims]:
        raise CompressionError(
            f"{what}: the student's shape is {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}; both must come from the same tokens."
        )


def feature(
    student_hidden: Tensor, teacher_hidden: Tensor,
    projector: Callable[[Tensor], Tensor] | None = None, mask: Tensor | None = None,
    relative: bool = False,
) -> Tensor:  # fmt: skip
    """Mean over tokens and features of (P(h_S) − h_T)² (FitNets; Romero et al., 2015).

    `projector` maps the student's width to the teacher's; without one the widths must agree.
    `relative` divides by the mean of h_T² over the same tokens, so that 1 is what predicting zero
    would cost.
    """
    hidden = exact(student_hidden if projector is None else projector(student_hidden))
    target = exact(teacher_hidden.detach())
    if hidden.shape[-1] != target.shape[-1]:
        raise CompressionError(
            f"projector: the student gives {hidden.shape[-1]} features, the teacher "
            f"{target.shape[-1]}; use a projector such as nn.Linear(student width, teacher width)."
        )
    _same(hidden, target, slice(0, -1), "teacher_hidden")
    hidden, target = (counted(x, mask, x.shape[-1]) for x in (hidden, target))
    error = (hidden - target).square().mean()
    return error / target.square().mean().clamp(min=1e-12) if relative else error


def _row_kl(log_s: Tensor, log_t: Tensor) -> Tensor:
    """KL(T ‖ S) of the last dimension, where an entry the teacher gives no weight counts as 0."""
    p = log_t.exp()
    return torch.where(p > 0, p * (log_t - log_s), 0.0).sum(-1)


def attention_maps(student_map: Tensor, teacher_map: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(A_T ‖ A_S) of each query's attention, the mean over heads and real queries (MiniLM; Wang
    et al., 2020).

    Rows of a map sum to 1. With different numbers of heads, both are averaged over their heads
    first.
    Entries below 1e-12 count as 1e-12 in the logarithms.
    """
    if student_map.dim() != 4 or teacher_map.dim() != 4:
        raise CompressionError(
            "attention_maps: expected maps of shape (batch, heads, queries, keys)."
        )
    _same(student_map[:, 0], teacher_map[:, 0], slice(None), "teacher_map")
    student, teacher = exact(student_map), exact(teacher_map.detach())
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    tiny = 1e-12
    rows = (teacher * (teacher.clamp(min=tiny).log() - student.clamp(min=tiny).log())).sum(-1)
    return masked_mean(rows, None if mask is None else mask[:, None].expand_as(rows))


def value_relations(
    student_values: Tensor,
    teacher_values: Tensor,
    heads: int = 1,
    mask: Tensor | None = None,
    causal: bool = True,
) -> Tensor:
    """KL(R_T ‖ R_S) with R = softmax(V Vᵀ / √d) in each of `heads` equal parts of the width, d
    features each.

    MiniLM's value relations with MiniLMv2's free choice of relation heads (Wang et al., 2020, eq.
    3; 2021), so that the two widths may differ. A token relates to real tokens only, with `causal`
    to those up to itself. Queries, keys and hidden states may be given in place of values.
    """
    _same(student_values, teacher_values, slice(0, -1), "teacher_values")
    batch, tokens, _ = student_values.shape
    allowed = torch.ones(tokens, tokens, dtype=torch.bool, device=student_values.device)
    allowed = allowed.tril() if causal else allowed
    allowed = allowed.expand(batch, 1, tokens, tokens)
    if mask is not None:
        allowed = allowed & mask.bool()[:, None, None, :]
        # rows of padding stay finite; they are not counted
        allowed = allowed | ~mask.bool()[:, None, :, None]

    def log_relations(values: Tensor, name: str) -> Tensor:
        width = values.shape[-1]
        if heads < 1 or width % heads:
            raise CompressionError(f"heads={heads}: does not divide the {name}'s width {width}.")
        parts = exact(values).unflatten(-1, (heads, width // heads)).transpose(1, 2)
        scores = parts @ parts.transpose(-1, -2) / (width // heads) ** 0.5
        return scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).log_softmax(-1)

    rows = _row_kl(
        log_relations(student_values, "student"), log_relations(teacher_values.detach(), "teacher")
    )
    return masked_mean(rows, None if mask is None else mask[:, None].expand_as(rows))
