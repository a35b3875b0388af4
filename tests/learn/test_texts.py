"""Texts fall back string by string; what is missing or malformed is told with its id."""

import pytest
import yaml

from course_utils.errors import CompressionError
from course_utils.learn import check, texts

from .conftest import TOY


@pytest.fixture
def other(toy):
    """Write a file of another language."""

    def write(language, topic, content):
        (toy / language).mkdir(exist_ok=True)
        (toy / language / f"{topic}.yaml").write_text(
            yaml.safe_dump(content, allow_unicode=True), encoding="utf-8"
        )
        texts.forget()

    return write


def test_english_is_the_fallback_of_each_string(other, monkeypatch):
    other(
        "zh-TW",
        "toy",
        {"exercises": {"toy.rows": {"title": "縮放每一列", "mistakes": {"per_tensor": ""}}}},
    )
    other("zh-TW", "ui", {"not_yet": "還沒。{title}"})
    monkeypatch.setenv("COURSE_LANG", "zh_TW")
    verdict = check("toy.rows", lambda w: 7 * w / w.abs().max(), show=False)
    assert (
        verdict.message.startswith("還沒。縮放每一列")
        and "One scale for the whole tensor." in verdict.message
    )
    monkeypatch.setenv("COURSE_LANG", "en")
    assert check("toy.rows", lambda w: w, show=False).message.startswith("Not yet. Scale each row")


def test_options_are_merged_in_their_places(other, monkeypatch):
    options = [{"text": "半精度"}, {"why": "名字就是。"}, {}]
    other("zh-TW", "toy", {"questions": {"toy.choice": {"options": options}}})
    monkeypatch.setenv("COURSE_LANG", "zh-TW")
    merged = texts.question("toy.choice")["options"]
    assert merged[0] == {"text": "半精度", "why": "It takes 16."}
    assert (
        merged[1] == {"text": "INT8", "right": True, "why": "名字就是。"}
        and merged[2]["text"] == "FP32"
    )


@pytest.mark.parametrize("chosen", ["xx", "../en", "", "zh-TW"])
def test_a_language_that_is_not_there_is_english(chosen, monkeypatch):
    monkeypatch.setenv("COURSE_LANG", chosen)
    assert texts.language() in {"en", "zh-TW"} and texts.ui("question_right")


def test_lists_of_another_length_are_not_mixed():
    assert texts.merge(["a", "b"], ["c"]) == ["a", "b"] and texts.merge({"a": 1}, None) == {"a": 1}
    assert texts.merge({"a": {"b": 1}}, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}


def test_what_load_returns_is_a_copy():
    texts.load("toy")["exercises"]["toy.rows"]["title"] = "changed"
    assert texts.load("toy")["exercises"]["toy.rows"]["title"] == "Scale each row"


def change(toy, section, name, **values):
    content = yaml.safe_load(TOY)
    entry = content[section][name]
    for key, value in values.items():
        if value is None:
            del entry[key]
        else:
            entry[key] = value
    (toy / "en" / "toy.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    texts.forget()


@pytest.mark.parametrize(
    "values, told",
    [
        ({"title": None}, "title"),
        ({"title": " "}, "title"),
        ({"reread": None}, "reread"),
        ({"hints": ["a", "b"]}, "hints"),
        ({"hints": ["a", "b", ""]}, "hints"),
        ({"hints": None}, "hints"),
        ({"mistakes": None}, "per_tensor"),
        ({"mistakes": {"per_tensor": "a", "upside_down": ""}}, "upside_down"),
        ({"mistakes": {"per_tensor": "a", "upside_down": "b", "third": "c"}}, "third"),
        ({"properties": {}}, "small"),
    ],
)
def test_an_incomplete_exercise_is_told(toy, values, told):
    change(toy, "exercises", "toy.rows", **values)
    with pytest.raises(CompressionError, match=f"toy.rows.*{told}"):
        check("toy.rows", lambda w: w, show=False)


RIGHT, WRONG = {"text": "a", "why": "b", "right": True}, {"text": "c", "why": "d"}


@pytest.mark.parametrize(
    "name, values, told",
    [
        ("toy.choice", {"prompt": None}, "prompt"),
        ("toy.choice", {"kind": "essay"}, "kind"),
        ("toy.choice", {"options": [RIGHT]}, "at least two"),
        ("toy.choice", {"options": [WRONG, {**WRONG, "text": "e"}]}, "exactly one"),
        ("toy.choice", {"options": [RIGHT, {**RIGHT, "text": "e"}]}, "exactly one"),
        ("toy.choice", {"options": [RIGHT, {"text": "c"}]}, "why"),
        ("toy.choice", {"options": [RIGHT, {**WRONG, "text": "a"}]}, "same text"),
        ("toy.numeric", {"why": None}, "why"),
        ("toy.numeric", {"near": [{"value": 3}]}, "near"),
        ("toy.numeric", {"near": [{"why": "x"}]}, "near"),
        ("toy.ordering", {"items": ["a"]}, "items"),
        ("toy.ordering", {"items": ["a", "a"]}, "same"),
        ("toy.ordering", {"items": ["a", 4]}, "items"),
        ("toy.ordering", {"why": None}, "why"),
    ],
)
def test_an_incomplete_question_is_told(toy, name, values, told):
    change(toy, "questions", name, **values)
    with pytest.raises(CompressionError, match=f"{name}.*{told}"):
        texts.question(name)


def test_a_broken_file_is_told(toy):
    for content in ("a: [", "- a\n- b", "\x00"):
        (toy / "en" / "toy.yaml").write_text(content)
        texts.forget()
        with pytest.raises(CompressionError, match="toy.yaml"):
            texts.question("toy.choice")


def test_a_missing_string_of_the_engine_is_told():
    with pytest.raises(CompressionError, match="no_such_string"):
        texts.ui("no_such_string")
