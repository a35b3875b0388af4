"""Everything a learner reads, by language: text/<language>/<room>/<topic>.yaml, each string falling
back to English.

The language is the environment variable COURSE_LANG ("en", "zh-TW"); it may change while Python
runs.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from course_utils.errors import CompressionError

HERE = Path(__file__).parent
FOLDERS = [HERE / "text"]  # searched in turn; tests add one
BASE = "en"
# libyaml where PyYAML was built with it: ten times as fast
QUICK = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
RUNGS = 3  # hints of every exercise: nudge, formula, code shape


def language() -> str:
    """The language asked for, or English when there is no folder for it."""
    return _folder_of(
        os.environ.get("COURSE_LANG", BASE).replace("_", "-").split(".")[0], tuple(FOLDERS)
    )


@functools.cache
def _folder_of(wanted: str, folders: tuple[Path, ...]) -> str:
    for folder in folders:
        for found in sorted(folder.iterdir()) if folder.is_dir() else ():
            if found.name.lower() == wanted.lower():
                return found.name
    return BASE


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=QUICK)
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CompressionError(
            f"{path.name}: this file of texts cannot be read; repair its YAML ({error})."
        ) from error
    if not isinstance(content, dict):
        raise CompressionError(f"{path.name}: a file of texts holds a mapping at its top.")
    return content


def merge(base: Any, over: Any) -> Any:
    """`base` with the non-empty strings of `over` in their places;
    lists are merged item by item.
    """
    if over is None or over == "":
        return base
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {
            key: merge(base.get(key), over.get(key))
            for key in [*base, *(k for k in over if k not in base)]
        }
    if isinstance(base, list) and isinstance(over, list):
        return (
            [merge(b, o) for b, o in zip(base, over, strict=True)]
            if len(base) == len(over)
            else base
        )
    return over


def _files(folder: Path, topic: str = "*") -> list[Path]:
    """The files of a topic: on top (the engine's own) or in a room named like a folder of
    notebooks.
    """
    return sorted([*folder.glob(f"{topic}.yaml"), *folder.glob(f"*/{topic}.yaml")])


@functools.cache
def _load(topic: str, language: str, folders: tuple[Path, ...]) -> dict[str, Any]:
    content: Any = {}
    for folder in folders:
        for spoken in dict.fromkeys((BASE, language)):
            for path in _files(folder / spoken, topic):
                content = merge(content, _read(path))
    return content


def load(topic: str) -> dict[str, Any]:
    """All texts of one topic in the learner's language."""
    return copy.deepcopy(_load(topic, language(), tuple(FOLDERS)))


def forget() -> None:
    """Read the files again at the next use (for authors who edit them while Python runs)."""
    _folder_of.cache_clear()
    _read.cache_clear()
    _load.cache_clear()


def ui(key: str, **values: Any) -> str:
    """A string of the engine itself, with {fields} filled in."""
    text = _load("ui", language(), tuple(FOLDERS)).get(key)
    if not isinstance(text, str):
        raise CompressionError(
            f"ui.yaml: the string {key!r} is missing; add it to text/{BASE}/ui.yaml."
        )
    return text.format(**values)


def topic_of(name: str) -> str:
    """The topic of an id: "gptq" for "gptq.column_update"."""
    topic, dot, rest = name.partition(".") if isinstance(name, str) else ("", "", "")
    if not (topic.isidentifier() and dot and rest):
        raise CompressionError(
            f"id {name!r}: an id reads topic.name, for example 'gptq.column_update'."
        )
    return topic


def topics() -> list[str]:
    """Every topic that has texts in English."""
    names = {path.stem for folder in FOLDERS for path in _files(folder / BASE)}
    return sorted(names - {"ui", "course", "glossary"})


def _entry(section: str, name: str) -> dict[str, Any]:
    topic = topic_of(name)
    entry = copy.deepcopy((_load(topic, language(), tuple(FOLDERS)).get(section) or {}).get(name))
    if not isinstance(entry, dict):
        raise CompressionError(
            f"{section[:-1]} {name!r} has no texts; write {section}: {name}: "
            f"in text/{BASE}/{topic}.yaml."
        )
    return entry


def exercise(name: str, *, mistakes: object = (), properties: object = ()) -> dict[str, Any]:
    """The texts of an exercise: title, hints, mistakes, properties, reread.

    Raises CompressionError when one is missing.
    """
    entry = _entry("exercises", name)
    entry["mistakes"], entry["properties"] = (
        entry.get("mistakes") or {},
        entry.get("properties") or {},
    )
    for key, names in {"mistakes": mistakes, "properties": properties}.items():
        wanted = set(names)  # type: ignore[call-overload]
        if different := sorted(wanted ^ set(entry[key])):
            raise CompressionError(
                f"exercise {name!r}: {key} of the texts and of the code differ in {different}."
            )
    hints = entry.get("hints")
    if not (isinstance(hints, list) and len(hints) == RUNGS and all(_filled(h) for h in hints)):
        raise CompressionError(
            f"exercise {name!r}: hints must be {RUNGS} texts (nudge, formula, code shape)."
        )
    empty = [key for key in ("title", "reread") if not _filled(entry.get(key))]
    empty += [f"mistakes.{k}" for k, text in entry["mistakes"].items() if not _filled(text)]
    empty += [f"properties.{k}" for k, text in entry["properties"].items() if not _filled(text)]
    if empty:
        raise CompressionError(
            f"exercise {name!r}: these texts are missing or empty: {', '.join(empty)}."
        )
    return entry


def question(name: str) -> dict[str, Any]:
    """The texts of a question, complete for its kind.

    Raises CompressionError when one is missing.
    """
    entry = _entry("questions", name)
    kind, problem = entry.get("kind"), None
    if not _filled(entry.get("prompt")):
        problem = "prompt is missing"
    elif kind == "choice":
        options = entry.get("options") or []
        if (
            not isinstance(options, list)
            or len(options) < 2
            or not all(isinstance(o, dict) for o in options)
        ):
            problem = "options must be at least two {text, why}"
        elif not all(_filled(o.get("text")) and _filled(o.get("why")) for o in options):
            problem = "every option needs text and why"
        elif sum(bool(o.get("right")) for o in options) != 1:
            problem = "exactly one option has right: true"
        elif len({o["text"] for o in options}) != len(options):
            problem = "two options have the same text"
    elif kind == "numeric":
        near = entry.setdefault("near", [])
        if not _filled(entry.get("why")):
            problem = "why is missing"
        elif not all(
            isinstance(n, dict) and _filled(n.get("why")) and ("value" in n) != ("factor" in n)
            for n in near
        ):
            problem = "each entry of near needs why, and either value or factor"
    elif kind == "ordering":
        items = entry.get("items") or []
        if not isinstance(items, list) or len(items) < 2 or not all(_filled(i) for i in items):
            problem = "items must be at least two texts, in the right order"
        elif len(set(items)) != len(items):
            problem = "two items are the same"
        elif not _filled(entry.get("why")):
            problem = "why is missing"
    else:
        problem = f"kind is {kind!r}; it must be choice, numeric or ordering"
    if problem:
        raise CompressionError(f"question {name!r}: {problem}.")
    return entry


def prediction(name: str) -> dict[str, Any]:
    """The texts of a prediction, complete for its kind; `shown` maps the key of each item or option
    to its text.

    Raises CompressionError when one is missing.
    """
    entry = _entry("predictions", name)
    kind, key = (
        entry.get("kind"),
        {"order": "items", "choice": "options"}.get(entry.get("kind", "")),
    )
    given = (entry.get(key) if key else None) or {}
    shown: dict[Any, Any] = {text: text for text in given} if isinstance(given, list) else given
    problem = None
    if kind not in ("number", "order", "choice"):
        problem = f"kind is {kind!r}; it must be number, order or choice"
    elif missing := [part for part in ("prompt", "why") if not _filled(entry.get(part))]:
        problem = f"{' and '.join(missing)} missing"
    elif key and not (
        isinstance(shown, dict) and len(shown) > 1 and all(_filled(text) for text in shown.values())
    ):
        problem = f"{key} must be at least two texts, or a mapping of short names to texts"
    elif key and len(set(shown.values())) != len(shown):
        problem = f"two {key} have the same text"
    if problem:
        raise CompressionError(f"prediction {name!r}: {problem}.")
    return {**entry, "shown": {str(k): text for k, text in shown.items()} if key else {}}


def _filled(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip())
