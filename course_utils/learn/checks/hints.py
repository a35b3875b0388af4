"""The ladder of hints: a nudge, then the formula, then the shape of the code."""

from .. import show, texts
from ..page import events
from .exercise import find

# rungs seen since Python started, so that running a lesson again begins at the first
_climbed: dict[str, int] = {}


def hint(name: str) -> None:
    """Show the next hint of an exercise, with those seen before."""
    exercise = find(name)
    text = texts.exercise(name, mistakes=exercise.mistakes, properties=exercise.properties)
    rung = min(_climbed.get(name, 0) + 1, texts.RUNGS)
    _climbed[name] = rung
    events.record("hint", name, rung=rung)
    parts = [f"**{texts.ui(f'hint_{i + 1}')}** {text['hints'][i]}" for i in range(rung)]
    rest = texts.RUNGS - rung
    parts.append(texts.ui("hint_more", rest=rest) if rest else texts.ui("hint_last"))
    title = texts.ui("hint_title", title=text["title"], rung=rung, rungs=texts.RUNGS)
    show.message("hint", title, "\n\n".join(parts))
