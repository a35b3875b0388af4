"""Choosing by gradient: the Gumbel-max trick, its soft form, and masks over N:M patterns.

A draw from softmax(ℓ) is argmax(ℓ + g) with g_i = −ln(−ln u_i), u uniform (Gumbel, 1954). The
argmax has no gradient;
softmax((ℓ + g) / τ) has one, and tends to the draw for τ → 0 (Jang et al., 2017; Maddison et al.,
2017).
Over the patterns that keep N of M neighbours it is a mask that can be learned (MaskLLM: Fang et
al., 2024).
"""

import itertools
import math

import torch
from torch import Tensor

from course_utils.errors import CompressionError

MOST = 1000  # patterns of a group


def patterns(n: int, m: int) -> Tensor:
    """All ways to keep n of m, in the order of itertools.combinations: (m choose n, m) of 0 and 1.

    Raises CompressionError unless 0 < n < m, or for more than 1000 patterns.
    """
    if not 0 < n < m:
        raise CompressionError(f"pattern {n}:{m}: a choice needs 0 < N < M.")
    if (count := math.comb(m, n)) > MOST:
        raise CompressionError(
            f"pattern {n}:{m}: {count} patterns a group are too many to hold a logit for each; "
            "choose a smaller M."
        )
    found = torch.zeros(count, m)
    for row, kept in enumerate(itertools.combinations(range(m), n)):
        found[row, list(kept)] = 1
    return found


def noise(
    shape: torch.Size | tuple[int, ...],
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Gumbel noise −ln(−ln u), u uniform in (0, 1): mean .5772, variance π²/6."""
    u = torch.rand(shape, generator=generator, dtype=dtype)
    tiny = torch.finfo(dtype).tiny
    return -(-u.clamp(min=tiny, max=1 - torch.finfo(dtype).eps / 2).log()).log()


def check_temperature(temperature: float) -> float:
    """Raises CompressionError unless it is a positive finite number."""
    if not 0 < temperature < math.inf:
        raise CompressionError(f"temperature={temperature!r}: choose a number above 0.")
    return temperature


def relaxed(logits: Tensor, temperature: float, g: Tensor) -> Tensor:
    """softmax((ℓ + g) / τ) over the last dimension. Raises CompressionError for τ ≤ 0."""
    return ((logits + g) / check_temperature(temperature)).softmax(-1)


def relaxed_spec(logits: Tensor, temperature: float, g: Tensor) -> Tensor:
    """The same by plain loops, for one choice (k,)."""
    powers = [math.exp((float(a) + float(b)) / temperature) for a, b in zip(logits, g, strict=True)]
    return torch.tensor([p / sum(powers) for p in powers], dtype=torch.float64)


def straight_through(soft: Tensor) -> Tensor:
    """One-hot at the largest entry, with the gradient of `soft`."""
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hard + soft - soft.detach()


def as_mask(choice: Tensor, kept: Tensor) -> Tensor:
    """The weights' part in a choice among patterns: (out, groups, k) with `patterns` (k, m) → (out,
    groups · m).
    """
    return (choice @ kept.to(choice)).flatten(1)


def best(logits: Tensor, kept: Tensor) -> Tensor:
    """The mask (out, groups · m) of the pattern with the largest logit of each group; bool, exactly
    n of each m.
    """
    return kept.to(logits.device).bool()[logits.argmax(-1)].flatten(1)


def prior(score: Tensor, kept: Tensor, strength: float) -> Tensor:
    """Logits (out, groups, k) that favour what a score (out, in) favours: strength · the share of Σ
    score² that a pattern keeps.

    Where all scores of a group are 0, all patterns get the same.
    """
    energy = score.square().view(len(score), -1, kept.shape[1])
    share = energy @ kept.T.to(score)
    return strength * share / energy.sum(-1, keepdim=True).clamp(min=torch.finfo(score.dtype).tiny)
