"""Losses between the geometry of two sets of vectors: row i of both belongs to the same example.

Embeddings are (examples, width); the widths of student and teacher may differ for `distance` and
`angle`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.errors import CompressionError
from course_utils.models.walk import exact


def _pair(student: Tensor, teacher: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if student.dim() != 2 or teacher.dim() != 2 or len(student) != len(teacher):
        raise CompressionError(
            "embeddings: expected two matrices with a row for each example, "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    if len(student) < least:
        raise CompressionError(
            f"embeddings: {len(student)} examples; a relation needs at least {least}."
        )
    return exact(student), exact(teacher.detach())


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over pairs i < j of Huber(d_S − d_T), d = ‖x_i − x_j‖ / mean distance (RKD-D; Park et
    al., 2019, eq. 5).
    """
    student, teacher = _pair(student, teacher, 2)

    def distances(x: Tensor) -> Tensor:
        d = F.pdist(x)
        return d / d.mean().clamp(min=1e-12)

    return F.huber_loss(distances(student), distances(teacher))


def angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over triples of Huber(c_S − c_T), c = cos of the angle at x_j between x_i and x_k
    (RKD-A; Park et al., 2019).

    All three examples differ. Memory grows with the cube of the number of examples; a corner of no
    length counts as a right angle.
    """
    student, teacher = _pair(student, teacher, 3)
    n = len(student)
    i, j, k = (
        index.flatten()
        for index in torch.meshgrid(*[torch.arange(n, device=student.device)] * 3, indexing="ij")
    )
    corner = (i < k) & (i != j) & (j != k)

    def cosines(x: Tensor) -> Tensor:
        away = x[None] - x[:, None]  # away[j, i] = x_i − x_j
        length = away.square().sum(-1, keepdim=True)
        unit = torch.where(length > 0, away * torch.where(length > 0, length, 1.0).rsqrt(), 0.0)
        return (unit @ unit.transpose(-1, -2))[j[corner], i[corner], k[corner]]

    return F.huber_loss(cosines(student), cosines(teacher))


def contrastive(student: Tensor, teacher: Tensor, temperature: float = 0.1) -> Tensor:
    """InfoNCE: −log softmax_j(cos(s_i, t_j) / τ) at j = i, the mean over examples (van den Oord et
    al., 2018).

    Each student vector must find its own teacher vector among all of them, the idea of contrastive
    representation distillation (Tian et al., 2020) with the batch as negatives. Project the student
    to the teacher's width first.
    """
    student, teacher = _pair(student, teacher, 2)
    if student.shape[1] != teacher.shape[1]:
        raise CompressionError(
            f"embeddings: widths {student.shape[1]} and {teacher.shape[1]}; "
            "project the student to the teacher's width."
        )
    if not temperature > 0:
        raise CompressionError(f"temperature={temperature}: choose a positive number.")
    scores = F.normalize(student, dim=-1) @ F.normalize(teacher, dim=-1).T / temperature
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))
