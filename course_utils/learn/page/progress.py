"""The learner's progress, as a learner asks for it: `progress.show()`."""

from .events import home, path, summary
from .map import show_page

__all__ = ["home", "path", "show", "summary"]


def show() -> None:
    """The map of the five levels, the 12-day schedule, and what to open next."""
    show_page(summary())
