"""How a cost grows with a size: times that can be trusted, and the exponent of a power law with its
uncertainty.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from course_utils.errors import CompressionError


@dataclass(frozen=True)
class PowerLaw:
    """cost ≈ factor · size^exponent.

    `error` is the standard error of the exponent, `n` the number of points.
    """

    exponent: float
    error: float
    factor: float
    n: int

    def __call__(self, size: float) -> float:
        return self.factor * size**self.exponent

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's t interval of the exponent, n − 2 degrees of freedom."""
        from scipy.stats import t

        half = float(t.ppf((1 + level) / 2, self.n - 2)) * self.error
        return self.exponent - half, self.exponent + half

    def __str__(self) -> str:
        return f"exponent {self.exponent:.2f} ± {self.error:.2f}"


def fit(sizes: Sequence[float], costs: Sequence[float]) -> PowerLaw:
    """Least squares of y = log cost on x = log size: exponent Σ (x − x̄)(y − ȳ) / S, error √(Σ r² /
    (n − 2) / S).

    S = Σ (x − x̄)², r the residuals. Raises CompressionError for fewer than three points, sizes
    that are all equal, and numbers that are not positive and finite.
    """
    n = len(sizes)
    if n != len(costs) or n < 3:
        raise CompressionError(
            f"sizes, costs: {n} and {len(costs)} numbers; give as many of both, at least three."
        )
    if not all(math.isfinite(v) and v > 0 for v in (*sizes, *costs)):
        raise CompressionError("sizes, costs: a power law needs positive finite numbers.")
    x, y = [math.log(v) for v in sizes], [math.log(v) for v in costs]
    middle, level = sum(x) / n, sum(y) / n
    spread = sum((v - middle) ** 2 for v in x)
    if spread < 1e-12:
        raise CompressionError("sizes: are all equal; measure at several.")
    slope = sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / spread
    left = sum((b - level - slope * (a - middle)) ** 2 for a, b in zip(x, y, strict=True))
    return PowerLaw(slope, math.sqrt(left / (n - 2) / spread), math.exp(level - slope * middle), n)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, so that its processor time counts work and not waiting for another
    thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(jobs: Sequence[Callable[[], object]], *, repeats: int = 3) -> list[float]:
    """Processor seconds of each job on one thread: the minimum of `repeats`, in turns, after an
    unmeasured run of the first.

    Processor time does not count while other programs have the core, and the minimum leaves out the
    runs that they disturbed in other ways (caches, clock rate).
    """
    if not jobs or repeats < 1:
        raise CompressionError("jobs, repeats: give at least one job and one repeat.")
    found = [math.inf] * len(jobs)
    with one_thread():
        jobs[0]()
        for _ in range(repeats):
            for i, job in enumerate(jobs):
                began = time.process_time()
                job()
                found[i] = min(found[i], time.process_time() - began)
    return found
