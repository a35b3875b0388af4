"""A guess before the measurement: how it is read, judged, kept,
and shown beside what was measured.
"""

import math

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.evaluation.comparison import compare
from course_utils.learn import predict, progress
from course_utils.learn.page import events


def result_of(name, guess, measured, capsys, **more):
    made = predict(name)
    if guess is not None:
        made.give(guess)
    capsys.readouterr()
    made.result(measured, **more)
    return capsys.readouterr().out


def test_without_a_guess_the_result_is_shown_at_once(capsys):
    out = result_of("toy.size", None, 3.5, capsys, shown="as the **table** says")
    assert "Measured: 3.5 GB" in out and "Four bytes each." in out and "as the table says" in out
    assert "Your guess" not in out and not list(events.events())


@pytest.mark.parametrize(
    "guess, measured, right, said",
    [
        ("3 GB", 3.0, True, "good"), (3.7, 3.0, True, "Within 25 %"),
        (3.76, 3.0, False, "a factor of 1.25"), (2.41, 3.0, True, "good"),
        ("2.39", 3.0, False, "a factor of 1.26"), (30, 3.0, False, "a factor of 10"),
        (-3, -3.0, True, "good"), (-3, 3.0, False, "off by 6 GB"), (1, 0.0, False, "off by 1 GB"),
        (0, 0.0, True, "was right"),
    ],
)  # fmt: skip
def test_numbers(guess, measured, right, said, capsys):
    out = result_of("toy.size", guess, measured, capsys)
    assert said in out and "Your guess: " in out and "Measured: " in out
    kept = events.summary().guesses["toy.size"]
    assert kept.right is right
    if kept.log_ratio is not None:
        assert kept.log_ratio == pytest.approx(math.log(float(str(guess).split()[0]) / measured))


def test_an_absolute_tolerance(capsys):
    assert "was right" in result_of("toy.gain", "0.004", -0.002, capsys)
    assert events.summary().guesses["toy.gain"].log_ratio is None


@pytest.mark.parametrize("measured", [torch.tensor(3.5), torch.tensor([3.5]), "3.5"])
def test_a_measured_number_of_any_type(measured, capsys):
    assert "Measured: 3.5 GB" in result_of("toy.size", 3, measured, capsys)


def test_choices(capsys):
    assert "was right" in result_of("toy.which", "A", "rtn", capsys)
    assert "turned out differently" in result_of("toy.which", "AWQ", "rtn", capsys)
    assert "Your guess: GPTQ" in result_of("toy.which", "gptq", "rtn", capsys)
    assert events.summary().guesses["toy.which"].right, (
        "what is guessed after the first look does not count"
    )


def test_orders_and_ties(capsys):
    assert "was right" in result_of(
        "toy.rank", ["none", "gptq", "rtn"], ["none", "gptq", "rtn"], capsys
    )
    assert "differently" in result_of(
        "toy.rank", ["gptq", "none", "rtn"], ["none", "gptq", "rtn"], capsys
    )
    tied = ["none", ("rtn", "gptq")]
    for guess in (["none", "gptq", "rtn"], ["no rounding", "plain rounding", "GPTQ"]):
        out = result_of("toy.rank", guess, tied, capsys)
        assert "was right" in out and "no rounding, plain rounding = GPTQ" in out
    assert "differently" in result_of("toy.rank", ["gptq", "none", "rtn"], tied, capsys)


def test_an_order_from_a_comparison(capsys):
    base = torch.arange(64.0).sin()
    rows = {"none": base, "gptq": base + 0.5, "rtn": base + 0.5 + 0.01 * torch.arange(64.0).cos()}
    table = compare("t", rows, progress=False)
    out = result_of("toy.rank", ["none", "rtn", "gptq"], table, capsys)
    assert "was right" in out and " = " in out
    assert "differently" in result_of("toy.rank", ["rtn", "none", "gptq"], table, capsys)


def test_the_first_line_of_a_result_which_a_folded_output_shows_does_not_hold_it():
    made = predict("toy.size")
    for guess in (None, 3):
        if guess:
            made.give(guess)
        for kind, text in made._beside(3.5, 3.5).items():
            first, _, rest = text.partition("\n")
            assert first == "The result, beside your guess" and "3.5" in rest, kind


def test_the_items_are_not_shown_in_the_order_of_the_file():
    assert (
        predict("toy.rank").shown
        == predict("toy.rank").shown
        != ["GPTQ", "plain rounding", "no rounding"]
    )


@pytest.mark.parametrize(
    "name, value",
    [
        ("toy.size", "much"), ("toy.size", None), ("toy.size", "3 MB"), ("toy.which", "D"),
        ("toy.which", 1), ("toy.rank", ["rtn"]), ("toy.rank", ["rtn", "rtn", "none"]),
        ("toy.rank", 3), ("toy.rank", "A B"),
    ],
)  # fmt: skip
def test_what_is_no_guess_is_not_kept(name, value):
    made = predict(name)
    made.give(value)
    assert made.guess is None and not list(events.events())


@pytest.mark.parametrize(
    "name, measured, said",
    [
        ("toy.size", "much", "asks for a number"),
        ("toy.size", math.nan, "asks for a number"),
        ("toy.size", None, "number"),
        ("toy.which", "AWQ", "is no option"),
        ("toy.rank", ["rtn", "gptq"], "asks for the order"),
        ("toy.rank", ["rtn", "gptq", "gptq"], "asks for the order"),
    ],
)
def test_a_measurement_that_does_not_fit_is_refused(name, measured, said):
    with pytest.raises(CompressionError, match=said):
        predict(name).result(measured)


def test_a_guess_is_kept_over_sessions_and_a_stale_one_is_forgotten():
    predict("toy.which").give("B")
    assert predict("toy.which").guess == "gptq"
    events.record("prediction", "toy.which", guess="an option of an older edition")
    assert predict("toy.which").guess is None


def test_the_last_guess_before_the_first_look_counts(capsys):
    made = predict("toy.size")
    made.give(1)
    made.give(2)
    for measured in (2.0, 2.0):
        made.result(measured)
    made.give(100)
    made.result(2.0)
    kept = events.summary().guesses["toy.size"]
    assert kept.right and kept.value == 2 and kept.log_ratio == 0
    assert sum(event["kind"] == "measurement" for event in events.events()) == 1


def test_the_progress_page_tells_how_good_guesses_are(capsys):
    progress.show()
    assert "Your intuition" not in capsys.readouterr().out
    predict("toy.which").give("A")
    progress.show()
    assert "Your intuition" not in capsys.readouterr().out, (
        "nothing is known before the measurement"
    )
    result_of("toy.which", "A", "rtn", capsys)
    result_of("toy.size", 6, 3.0, capsys)
    progress.show()
    out = capsys.readouterr().out
    assert "1 of 2 guesses were right." in out and "a factor of 2 in the mean (1 numbers)" in out
    assert "What came differently: toy.size" in out


def test_texts_of_a_prediction_are_complete(toy):
    from course_utils.learn import texts

    with pytest.raises(CompressionError, match="'toy.nothing' has no texts; write predictions:"):
        predict("toy.nothing")
    for broken, said in {
        "toy.a: {kind: sum, prompt: p, why: w}": "must be number, order or choice",
        "toy.a: {kind: number, prompt: p}": "why missing",
        "toy.a: {kind: choice, prompt: p, why: w, options: [one]}": "at least two texts",
        (
            "toy.a: {kind: order, prompt: p, why: w, items: {a: same, b: same}}"
        ): "two items have the same text",
    }.items():
        (toy / "en" / "toy.yaml").write_text(f"predictions:\n  {broken}\n", encoding="utf-8")
        texts.forget()
        with pytest.raises(CompressionError, match=said):
            predict("toy.a")
    texts.forget()
