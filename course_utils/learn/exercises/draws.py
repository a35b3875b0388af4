"""Draws that the inputs of several exercises share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def pick(rng: torch.Generator, *values):
    """One of the values."""
    return values[int(torch.randint(len(values), (), generator=rng))]


def turn(rng: torch.Generator, *values, every: int = 1):
    """The value whose turn it is: trials that follow each other (`every` of them at a time) take
    one after the other.
    """
    return values[rng.initial_seed() // every % len(values)]


def until(
    rng: torch.Generator, make: Callable[[torch.Generator], Any], good: Callable[[Any], bool]
) -> Any:
    """The first draw that is good; after a hundred, the last one."""
    for _ in range(100):
        made = make(rng)
        if good(made):
            break
    return made


def with_ties(rng: torch.Generator, score: Tensor) -> Tensor:
    """The numbers moved to 7 sizes, so that many are equal in magnitude; signs stay."""
    sizes = torch.arange(1, 8, dtype=score.dtype) / 4
    return sizes[torch.randint(7, score.shape, generator=rng)] * torch.where(score < 0, -1, 1)


def kept(score: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """What of a mask counts where scores are equal: the scores that stay, sorted, 0 for those that
    go.
    """
    return torch.where(mask, score, 0.0).sort(dim=dim).values


def asks(rng: torch.Generator, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Even seeds: the student's tensor wants gradients. Odd seeds: the teacher's."""
    student_turn = rng.initial_seed() % 2 == 0
    return student.requires_grad_(student_turn), teacher.requires_grad_(not student_turn)


def flows(student: str, teacher: str) -> dict:
    """The two properties of gradients, for arguments of these names."""

    def to_teacher(given: dict, result: Tensor) -> bool:
        return given[student].requires_grad or not getattr(result, "requires_grad", False)

    def to_student(given: dict, result: Tensor) -> bool:
        return given[teacher].requires_grad or getattr(result, "requires_grad", False)

    return {"teacher_gradient": to_teacher, "student_gradient": to_student}
