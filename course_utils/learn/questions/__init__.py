"""Questions: choice, numeric, ordering. Predictions: a guess before the measurement."""

from .ask import ask
from .prediction import predict
from .question import Question

__all__ = ["Question", "ask", "predict"]
