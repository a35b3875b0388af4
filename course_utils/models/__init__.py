"""The bundled model, loading any other, and walking through its blocks."""

from .loading import BUNDLED, load, load_tokenizer

__all__ = ["BUNDLED", "load", "load_tokenizer"]
