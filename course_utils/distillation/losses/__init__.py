"""Distillation losses.

The student's tensor comes first, the teacher's second and without gradient.
"""

from .hidden import attention_maps, feature, value_relations
from .logits import cross_entropy, jensen_shannon, kl, masked_mean, response, reverse_kl
from .relation import angle, contrastive, distance
from .teachers import mixture, top_k

__all__ = [
    "angle", "attention_maps", "contrastive", "cross_entropy", "distance", "feature",
    "jensen_shannon", "kl", "masked_mean", "mixture", "response", "reverse_kl", "top_k",
    "value_relations",
]  # fmt: skip
