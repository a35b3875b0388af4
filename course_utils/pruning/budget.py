"""Hit a size exactly while training: the augmented Lagrangian of one constraint (Hestenes, 1969;
for L0 gates: Wang et al., 2020).

To minimize L under c = 0 (the size that is expected minus the one that is wanted), add λ c + ½ ρ c²
and after each step λ ← λ + ρ c. A fixed λ needs a search for the one that gives the size; this λ
finds it.
"""

from dataclasses import dataclass

from torch import Tensor

from course_utils.errors import CompressionError


@dataclass
class Lagrangian:
    """λ and ρ of one constraint. Raises CompressionError unless ρ > 0."""

    rho: float = 1.0
    multiplier: float = 0.0

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise CompressionError(f"rho={self.rho}: the weight of the constraint is above 0.")

    def penalty(self, excess: Tensor) -> Tensor:
        """λ c + ½ ρ c²."""
        return self.multiplier * excess + 0.5 * self.rho * excess**2

    def update(self, excess: float) -> None:
        """λ ← λ + ρ c."""
        self.multiplier += self.rho * excess


def warmed(step: int, steps: int, start: float, goal: float) -> float:
    """A goal that is moved in equal parts from `start` to `goal` over so many steps, and stays."""
    return goal + (start - goal) * max(0.0, 1 - step / max(1, steps))
