"""Every exercise against planted answers: planted/<room>/<topic>.py holds right and wrong ones for
each id.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from course_utils.learn import check, texts
from course_utils.learn.checks import checking, compare, exercise, trials
from course_utils.learn.page import catalogue

PLANTED = Path(__file__).parent / "planted"
EXERCISES = {name: e for topic in exercise.topics() for name, e in exercise.of_topic(topic).items()}
QUESTIONS = sorted(
    name for topic in texts.topics() for name in texts.load(topic).get("questions") or {}
)
RUNGS = ("nudge", "formula", "code shape")
SEEDS = range(3)  # each check draws three inputs


def planted(topic):
    """RIGHT and WRONG of a topic, or empty tables when there is no file."""
    path = next(PLANTED.glob(f"*/{topic}.py"), None)
    if path is None:
        return {}, {}
    spec = importlib.util.spec_from_file_location(f"planted_{topic}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RIGHT, module.WRONG


RIGHT, WRONG = {}, {}
for topic in {texts.topic_of(name) for name in EXERCISES} | {
    path.stem for path in PLANTED.glob("*/*.py")
}:
    right, wrong = planted(topic)
    RIGHT.update(right)
    WRONG.update(wrong)

exercises = pytest.mark.parametrize("name", EXERCISES)


def answered(name, function, seed):
    return check(name, function, seed=seed, show=False)


def test_the_tables_and_the_exercises_are_the_same():
    assert EXERCISES and set(RIGHT) == set(EXERCISES) and set(WRONG) == set(EXERCISES)


@exercises
def test_an_untouched_stub_is_not_attempted(name):
    def stub(**arguments):
        raise NotImplementedError

    for verdict in (answered(name, stub, 0), answered(name, lambda **arguments: None, 0)):
        assert (
            not verdict.attempted and not verdict.passed and "Not attempted yet." in verdict.message
        )


@exercises
def test_the_specification_passes_ten_times(name):
    for seed in range(9):
        assert answered(name, EXERCISES[name].spec, seed), (
            seed,
            answered(name, EXERCISES[name].spec, seed).message,
        )
    assert answered(name, EXERCISES[name].spec, None), "on inputs of no seed"


@exercises
def test_right_answers_pass(name):
    assert len(RIGHT[name]) >= 3, "three right answers besides the specification"
    assert (
        len({getattr(f, "__code__", f) for f in [*RIGHT[name], EXERCISES[name].spec]})
        == len(RIGHT[name]) + 1
    )
    for i, function in enumerate(RIGHT[name]):
        for seed in SEEDS:
            verdict = answered(name, function, seed)
            assert verdict, (i, seed, verdict.message)


@exercises
def test_right_answers_may_print(name, capsys):
    for function in RIGHT[name]:

        def loud(function=function, **arguments):
            print("working on", *arguments)
            print("Warning: what is printed does not count", file=sys.stderr)
            return function(**arguments)

        assert answered(name, loud, 0), function
    assert "working on" in capsys.readouterr().out


@exercises
def test_wrong_answers_fail_and_mistakes_are_named(name):
    assert len(WRONG[name]) >= 5, "five wrong answers"
    for i, (function, mistake) in enumerate(WRONG[name]):
        for seed in SEEDS:
            verdict = answered(name, function, seed)
            assert verdict.attempted and not verdict.passed, (i, seed, "passes")
            assert verdict.mistake == mistake, (i, seed, verdict.mistake, verdict.message)


@exercises
def test_every_mistake_and_property_is_planted(name):
    known = set(EXERCISES[name].mistakes) | set(EXERCISES[name].properties)
    assert {mistake for _, mistake in WRONG[name] if mistake} >= known, (
        "a planted answer for each name"
    )


@exercises
def test_every_mistake_is_wrong_and_named_by_its_own_name(name):
    for key, function in EXERCISES[name].mistakes.items():
        for seed in SEEDS:
            verdict = answered(name, function, seed)
            assert verdict.attempted and not verdict.passed and verdict.mistake == key, (
                key,
                seed,
                verdict.message,
            )


@exercises
def test_a_remembered_answer_fails(name):
    item = EXERCISES[name]
    for seed in SEEDS:
        remembered = item.spec(**trials.draw(item, seed))
        assert not answered(name, lambda remembered=remembered, **arguments: remembered, seed), seed
    wants = [
        checking._remembered(item.spec, item.inputs, item.gradients, item.refuses, seed).result
        for seed in range(item.trials)
    ]
    assert any(compare.difference(wants[0], want, item.tolerance) for want in wants[1:])


@exercises
def test_texts_are_complete(name):
    item = EXERCISES[name]
    text = texts.exercise(name, mistakes=item.mistakes, properties=item.properties)
    assert len(set(text["hints"])) == len(RUNGS) and all(
        len(hint.strip()) >= 8 for hint in text["hints"]
    )
    assert len(set(text["mistakes"].values())) == len(text["mistakes"])
    assert item.lesson in {"start", *catalogue.lessons(), *catalogue.labs()}


@exercises
def test_the_specification_leaves_its_inputs_alone_and_inputs_are_repeatable(name):
    item = EXERCISES[name]
    for seed in SEEDS:
        given, kept = trials.draw(item, seed), trials.draw(item, seed)
        assert trials.same(given, kept), "inputs must come from the generator alone"
        state = torch.random.get_rng_state()
        item.spec(**given)
        assert trials.same(given, kept) and torch.equal(state, torch.random.get_rng_state())


def test_every_exercise_with_texts_has_code():
    written = {
        name for topic in texts.topics() for name in texts.load(topic).get("exercises") or {}
    }
    assert written - {"toy.rows", "toy.pair"} == set(EXERCISES)


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_are_complete_and_answerable(name):
    from course_utils.learn.questions import Question

    text = texts.question(name)
    live = text["kind"] == "numeric" and "expected" not in text
    question = Question(name, 12.5 if live else None)
    if text["kind"] == "choice":
        verdicts = {
            option["text"]: question.answer(option["text"], show=False)
            for option in text["options"]
        }
        assert [o for o, v in verdicts.items() if v.passed] == [
            o["text"] for o in text["options"] if o.get("right")
        ]
        assert len({verdict.message for verdict in verdicts.values()}) == len(verdicts), (
            "each option its own message"
        )
    elif text["kind"] == "numeric":
        assert question.answer(question.expected, show=False)
        for near in text["near"]:
            value = near["value"] if "value" in near else near["factor"] * question.expected
            verdict = question.answer(value, show=False)
            assert not verdict.passed and near["why"] in verdict.message, near
    else:
        assert question.answer(text["items"], show=False) and not question.answer(
            text["items"][::-1], show=False
        )


def test_what_notebooks_check_and_ask_exists():
    """Ids in notebooks, solutions and labs are those of exercises and questions."""
    root = catalogue.ROOT
    for path in [
        *root.glob("notebooks/**/*.ipynb"),
        *root.glob("solutions/*/*.ipynb"),
        *root.glob("labs/*/*.ipynb"),
    ]:
        for verb, name in catalogue.CALL.findall(path.read_text(encoding="utf-8")):
            assert name in (EXERCISES if verb == "check" else QUESTIONS), (
                f"{path.name}: {verb}({name!r})"
            )


def test_no_ratio_of_a_sweep_comes_twice():
    """Of two equal ratios one may break and the other not:
    then the breaking point is not defined.
    """
    for seed in range(3000):
        ratios = trials.draw(EXERCISES["pitfalls.breaking_point"], seed)["ratios"]
        assert len(set(ratios)) == len(ratios), seed
