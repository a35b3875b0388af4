"""Fewer weights: scores, masks, structure, schedules, and what sparsity is worth in bytes and seconds."""

from . import (
    anatomy,
    apply,
    groups,
    lottery,
    magnitude,
    masks,
    recovery,
    schedules,
    scores,
    semi_structured,
    sequential,
    sparsegpt,
    speed,
    statistics,
    storage,
    structured,
    wanda,
    width,
)

__all__ = [
    "anatomy", "apply", "groups", "lottery", "magnitude", "masks", "recovery", "schedules", "scores", "semi_structured",
    "sequential", "sparsegpt", "speed", "statistics", "storage", "structured", "wanda", "width",
]  # fmt: skip
