"""transformers' progress bars, switched off for a while."""

import contextlib
import io
from collections.abc import Iterator

from transformers.utils import logging


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """No progress bars of transformers: reading from this disk is short, and a notebook would keep
    them.
    """
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def no_bars_at_all() -> Iterator[None]:
    """Also without the bar that its GGUF reader writes past its own switch."""
    with no_bars(), contextlib.redirect_stderr(io.StringIO()):
        yield
