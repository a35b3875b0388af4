"""The advisor's answer in words."""

from collections.abc import Sequence

from course_utils.evaluation.advisor import Advice, Step
from course_utils.pipeline import STEPS

from . import show, texts


def in_words(pipeline: Sequence[Step]) -> str:
    """A pipeline as a phrase: 'keep 50 % of the MLP channels, then round to 8 bits'."""
    words = texts.load("advice")
    said = []
    for name, given in pipeline:
        settings = {**(STEPS[name].__kwdefaults__ or {}), **given}
        said.append(
            words["steps"][settings["method"] if name == "quantize" else name].format(**settings)
        )
    return words["show"]["join"].join(said)


def reasons(advice: Advice) -> list[str]:
    """Why, one sentence or two each."""
    words = texts.load("advice")["reasons"]
    return [words[name].format(**values) for name, values in advice.reasons]


def show_advice(advice: Advice) -> None:
    """Show the goal, the pipelines and the reasons."""
    words = texts.load("advice")
    told = [
        words["show"]["first" if i == 0 else "other"].format(steps=in_words(p))
        for i, p in enumerate(advice.pipelines)
    ]
    show.message(
        "note",
        words["show"]["title"].format(goal=words["goals"][advice.goal]),
        "\n\n".join([*told, *reasons(advice)]),
    )
