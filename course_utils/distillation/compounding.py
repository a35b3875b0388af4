"""How errors add up along a text: on the teacher's prefixes alone, and on the student's own (Ross
and Bagnell, 2010; Ross et al., 2011).

A walk of T steps. On the path the student errs with probability `on`. An error leaves the path;
there it errs with probability `off`, and a right step leads back. A student that has only seen the
path has `off` = 1 at worst, and errs O(ε T²) times; one that was taught where it goes itself has
`off` = ε, and errs ε T times.
"""

import itertools

import torch
from torch import Tensor

from course_utils.errors import CompressionError


def _check(T: int, on: float, off: float) -> None:
    if T < 1:
        raise CompressionError(f"T={T}: choose at least one step.")
    for name, value in (("on", on), ("off", off)):
        if not 0 <= value <= 1:
            raise CompressionError(f"{name}={value}: a probability lies between 0 and 1.")


def errors_by_step(T: int, on: float, off: float) -> Tensor:
    """(T,) P(step t is wrong): e_1 = on, e_t = (1 − e_{t−1}) on + e_{t−1} off.

    Float64. Raises CompressionError for T < 1.
    """
    _check(T, on, off)
    e = [float(on)]
    for _ in range(T - 1):
        e.append((1 - e[-1]) * on + e[-1] * off)
    return torch.tensor(e, dtype=torch.float64)


def expected_errors(T: int, on: float, off: float) -> float:
    """Σ_t e_t, the expected number of wrong steps of T."""
    return float(errors_by_step(T, on, off).sum())


def by_enumeration(T: int, on: float, off: float) -> float:
    """`expected_errors` by walking all 2ᵀ ways of being right or wrong. For T ≤ 16."""
    _check(T, on, off)
    if T > 16:
        raise CompressionError(f"T={T}: 2**T walks are too many to list; choose 16 or less.")
    total = 0.0
    for walk in itertools.product((0, 1), repeat=T):
        p, lost = 1.0, 0
        for wrong in walk:
            rate = off if lost else on
            p *= rate if wrong else 1 - rate
            lost = wrong
        total += p * sum(walk)
    return total
