"""The bundled model, loading any other, and walking through its blocks."""

from . import calibration
from .loading import BUNDLED, load, load_tokenizer

__all__ = ["BUNDLED", "calibration", "load", "load_tokenizer"]
