"""Questions: choice, numeric, ordering."""

from .ask import ask
from .question import Question

__all__ = ["Question", "ask"]
