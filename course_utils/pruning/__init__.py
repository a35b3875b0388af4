"""Fewer weights: scores, masks, structure, schedules, and what sparsity is worth in bytes and seconds."""

from . import (
    anatomy,
    apply,
    groups,
    magnitude,
    masks,
    recovery,
    schedules,
    scores,
    sparsegpt,
    statistics,
    structured,
    wanda,
)

__all__ = [
    "anatomy", "apply", "groups", "magnitude", "masks", "recovery", "schedules", "scores", "sparsegpt", "statistics",
    "structured", "wanda",
]  # fmt: skip
