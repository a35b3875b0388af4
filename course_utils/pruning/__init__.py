"""Fewer weights: scores, masks, structure, schedules, and what sparsity is worth in bytes and
seconds.
"""

from . import (
    anatomy,
    apply,
    budget,
    concrete,
    evolution,
    gated,
    groups,
    gumbel,
    learned_masks,
    lottery,
    magnitude,
    mask_training,
    masks,
    recovery,
    schedules,
    scores,
    semi_structured,
    sequential,
    slimmable,
    sparsegpt,
    speed,
    statistics,
    storage,
    structured,
    subnets,
    supernet,
    supernet_training,
    wanda,
    width,
)

__all__ = [
    "anatomy", "apply", "budget", "concrete", "evolution", "gated", "groups", "gumbel",
    "learned_masks", "lottery", "magnitude", "mask_training", "masks", "recovery", "schedules",
    "scores", "semi_structured", "sequential", "slimmable", "sparsegpt", "speed", "statistics",
    "storage", "structured", "subnets", "supernet", "supernet_training", "wanda",
    "width",
]  # fmt: skip
