"""Show a question: with controls where somebody can move them, as a page elsewhere."""

from .. import show
from .question import Question, as_html, as_text


def ask(name: str, expected: float | None = None) -> Question:
    """Show a question; `expected` gives the value of a numeric one where it is computed live.

    Raises CompressionError when the question or one of its texts is missing.
    """
    question = Question(name, expected)
    if show.live():
        from .widgets import show_question

        show_question(question)
    else:
        show.emit(as_html(question), as_text(question))
    return question
