"""Questions answered without a mouse: every wrong answer has its own words."""

import re
import string

import pytest

from course_utils.errors import CompressionError
from course_utils.learn import ask, hint, texts
from course_utils.learn.page import events
from course_utils.learn.questions.question import Question


def test_each_option_has_its_own_message(capsys):
    question = ask("toy.choice")
    shown = capsys.readouterr().out
    assert "Which format takes eight bits?" in shown and "  B. INT8" in shown
    verdicts = [question.answer(letter) for letter in "ABC"]
    assert [v.passed for v in verdicts] == [False, True, False] and all(
        v.attempted for v in verdicts
    )
    assert len({v.message for v in verdicts}) == 3
    assert verdicts[1].message.startswith("Right.") and verdicts[0].message.startswith("Not yet.")
    assert "right" not in (verdicts[0].message + verdicts[2].message).lower()
    assert question.answer("INT8") and question.answer(" b ") and not question.answer("FP32")


@pytest.mark.parametrize("value", ["D", "", 1, None, True, ["A"], object()])
def test_what_is_no_option_is_not_an_attempt(value):
    verdict = ask("toy.choice").answer(value)
    assert not verdict.attempted and not verdict and not list(events.events())


@pytest.mark.parametrize(
    "value",
    [
        28,
        28.0,
        28.5,
        27.5,
        "28",
        "28 GB",
        "28gb",
        " 28,0 ",
        "2.8e1",
        "2.8E+1 GB",
        "56/2",
        "28.",
        "+28",
        "２８",
        "2.8×10^1",
    ],
)
def test_numbers_are_read_as_people_write_them(value):
    verdict = ask("toy.numeric").answer(value)
    assert verdict.passed and verdict.message == "Right.\n\nFour bytes each."


@pytest.mark.parametrize(
    "value, told",
    [
        (14, "That is FP16."),
        ("14 GB", "That is FP16."),
        (224, "Those are bits."),
        (28000, "power of ten"),
        ("0.028", "power of ten"),
        (-28, "sign"),
        ("−28", "sign"),
        (29, "too large"),
        (0, "too small"),
        (1e308, "too large"),
        (1e-308, "too small"),
    ],
)
def test_a_wrong_number_is_explained(value, told):
    verdict = ask("toy.numeric").answer(value)
    assert verdict.attempted and not verdict.passed and told in verdict.message
    assert verdict.message.startswith("Not yet.")


@pytest.mark.parametrize(
    "value, told",
    [
        ("28 MB", "in GB"),
        ("much", "one number"),
        ("", "one number"),
        (None, "one number"),
        (True, "one number"),
    ]
    + [
        ("1/0", "one number"),
        (float("nan"), "one number"),
        (float("inf"), "one number"),
        ("1e999", "one number"),
    ]
    + [("28 28", "in GB"), (10**400, "one number"), ([28], "one number")],
)
def test_what_is_no_number_is_not_an_attempt(value, told):
    verdict = ask("toy.numeric").answer(value)
    assert not verdict.attempted and told in verdict.message


@pytest.mark.parametrize(
    "text, number", [("1,000", 1000), ("1,234,567.5", 1234567.5), ("0,75", 0.75), (".5", 0.5)]
)
def test_commas(text, number):
    assert ask("toy.live", expected=number).answer(text)


def test_a_value_computed_live():
    assert ask("toy.live", expected=123.4).answer("123.45") and not ask(
        "toy.live", expected=123.4
    ).answer("123.6")
    assert ask("toy.live", expected=0).answer("0.0005")
    assert ask("toy.live", expected=0).answer(0) and not ask("toy.live", expected=0).answer(0.5)
    assert (
        ask("toy.live", expected=-2.0).answer("-2")
        and "sign" in ask("toy.live", expected=-2.0).answer(2).message
    )
    assert ask("toy.numeric", expected=5).answer(5), "a live value goes before that of the texts"


@pytest.mark.parametrize("expected", [None, float("nan"), float("inf"), "5", True])
def test_a_numeric_question_needs_a_number(expected):
    with pytest.raises(CompressionError, match="expected.*toy.live"):
        ask("toy.live", expected=expected)


def test_only_a_numeric_question_takes_a_value():
    with pytest.raises(CompressionError, match="only a numeric"):
        ask("toy.choice", expected=1)
    with pytest.raises(CompressionError, match="nothing.*has no texts"):
        ask("toy.nothing")


RIGHT = ["INT4", "INT8", "FP16", "FP32"]


def test_ordering():
    question = ask("toy.ordering")
    assert sorted(question.shown) == sorted(RIGHT) and question.shown != RIGHT
    assert question.shown == ask("toy.ordering").shown, (
        "the order on the page does not change between runs"
    )
    letters = ["ABCD"[question.shown.index(item)] for item in RIGHT]
    assert (
        question.answer(RIGHT) and question.answer(letters) and question.answer(", ".join(letters))
    )
    assert "place 3" in question.answer(["INT4", "INT8", "FP32", "FP16"]).message
    assert "first place" in question.answer(RIGHT[::-1]).message


@pytest.mark.parametrize(
    "value", [RIGHT[:3], [*RIGHT[:3], "INT4"], "A B C", None, 3, [1, 2, 3, 4], [[]], ""]
)
def test_an_incomplete_order_is_not_an_attempt(value):
    verdict = ask("toy.ordering").answer(value)
    assert not verdict.attempted and "once" in verdict.message


def test_hints_climb_three_rungs_and_stay(capsys):
    shown = []
    for _ in range(4):
        hint("toy.rows")
        shown.append(capsys.readouterr().out)
    assert "Look at one row." in shown[0] and "s = max" not in shown[0] and "2 to go" in shown[0]
    assert "s = max |w| / 7" in shown[1] and "w / s" not in shown[1]
    assert "w / s" in shown[2] and "last hint" in shown[2] and shown[3] == shown[2]
    with pytest.raises(CompressionError, match="does not exist"):
        hint("toy.nothing")


@pytest.mark.parametrize(
    "letter", ["B", "b", "Ｂ", "ｂ", " B ", "Ｂ、", "(B)", "B.", "Ｂ．", "INT8", "ＩＮＴ８"]
)
def test_a_letter_is_understood_in_every_width(letter):
    assert Question("toy.choice").answer(letter, show=False)


def test_an_order_may_come_with_any_separator():
    question = Question("toy.ordering")
    letters = [
        string.ascii_uppercase[question.shown.index(item)] for item in question.text["items"]
    ]
    wide = [chr(ord(letter) + 0xFEE0) for letter in letters]
    for text in (
        ",".join(letters),
        "、".join(letters),
        "，".join(wide),
        "; ".join(letters),
        " > ".join(letters),
        "　".join(wide),
    ):
        assert question.answer(text, show=False), text
    assert question.answer(tuple(wide), show=False) and not question.answer(
        "、".join(letters[::-1]), show=False
    )


@pytest.mark.parametrize("text", ["28", "２８", "２８ GB", "２８ＧＢ", "28．0", "2８e０", "＋28"])
def test_a_number_is_understood_in_every_width(text):
    assert Question("toy.numeric").answer(text, show=False)


def choices():
    names = [
        n
        for t in texts.topics()
        for n, q in (texts.load(t).get("questions") or {}).items()
        if q["kind"] == "choice"
    ]
    return {name: texts.question(name)["options"] for name in names if not name.startswith("toy.")}


def test_the_right_option_is_not_known_by_its_form():
    """Neither by its length, nor by its end, nor by a word that only wrong options have."""
    found = choices()
    lengths = {
        n: (
            len(next(o["text"] for o in options if o.get("right"))),
            [len(o["text"]) for o in options],
        )
        for n, options in found.items()
    }
    longest = [n for n, (right, all_) in lengths.items() if right == max(all_)]
    assert len(found) > 50 and len(longest) <= 0.4 * len(found), longest
    shortest = [n for n, (right, all_) in lengths.items() if right == min(all_)]
    assert len(shortest) <= 0.4 * len(found), shortest
    far = [
        n
        for n, (right, all_) in lengths.items()
        if len(all_) > 2 and right > 1.3 * sorted(all_)[-2] + 10
    ]
    assert not far, "much longer than all others"
    for name, options in found.items():
        ends = {o["text"].rstrip()[-1] in ".!?" for o in options}
        assert len(ends) == 1, f"{name}: all options end with a full stop, or none does"
        for option in options:
            giveaway = ABSOLUTE.search(option["text"])
            assert not giveaway, (
                f"{name}: {giveaway and giveaway.group()!r} rules an option out by its form"
            )


ABSOLUTE = re.compile(
    r"\b(always|never|all of the above|none of the above|both of the above)\b", re.IGNORECASE
)
