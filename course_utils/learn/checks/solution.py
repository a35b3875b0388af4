"""The worked solution of an exercise, behind a deliberate act: after an attempt, or when asked for
twice.
"""

import re

from .. import show, texts
from ..page import events
from ..texts import ui
from .exercise import find

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
_asked: set[str] = set()  # asked for once since Python started


def solution(name: str) -> None:
    """Show the worked solution, and keep in the progress that it was shown.

    Raises CompressionError for an unknown exercise.

    Without an attempt the first call only says so; the second one shows the solution.
    """
    find(name)
    entry = texts.load(texts.topic_of(name))["exercises"][name]
    text = entry.get("solution")
    if not text:
        show.message("note", entry["title"], ui("solution_missing", name=name))
        return
    if name not in events.summary().tried and name not in _asked:
        _asked.add(name)
        show.message("note", entry["title"], ui("solution_ask_again", name=name))
        return
    events.record("solution", name)
    show.message(
        "hint", ui("solution_title", title=entry["title"]), f"{text}\n\n{ui('solution_counts')}"
    )


def code_of(text: str) -> list[str]:
    """The fenced python blocks of a solution."""
    return PYTHON.findall(text)
