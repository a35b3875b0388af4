"""Where the items of each benchmark are, as published and as on the hub, and the columns that both
become.

A `Source` names the files below the folder that a user gives. Rows of an original file are
converted to the hub's columns, which the tasks of lm-evaluation-harness read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .files import Row

HUB = (
    "{split}-*.parquet",
    "data/{split}-*.parquet",
    "{split}/*.parquet",
    "{split}.parquet",
    "{split}.jsonl",
)
Check = Callable[[Any, Row], str]  # what is expected, '' if the value is that


def text(value: Any, _row: Row) -> str:
    """ "" for a text, else what was expected."""
    return "" if isinstance(value, str) else "text"


def words(value: Any, _row: Row) -> str:
    """ "" for a text with something in it, else what was expected."""
    return "" if isinstance(value, str) and value.strip() else "text that is not empty"


def texts(least: int, most: int | None = None) -> Check:
    """The check of a list of `least` texts, or of `least` to `most`."""
    said = f"a list of {least}" + (" or more texts" if most is None else " texts")

    def check(value: Any, _row: Row) -> str:
        right = (
            isinstance(value, list)
            and least <= len(value) <= (most or len(value))
            and all(isinstance(v, str) for v in value)
        )
        return "" if right else said

    return check


def one_of(*known: str) -> Check:
    """The check of a value among those known."""
    return lambda value, _row: "" if value in known else " or ".join(map(repr, known))


def count(value: Any, _row: Row) -> str:
    """ "" for a whole number from 0 on, else what was expected."""
    return "" if isinstance(value, int) and value >= 0 else "a whole number, at least 0"


def label(classes: int) -> Check:
    """The check of a class from 0 to `classes` - 1; -1 marks a hidden one."""

    def check(value: Any, _row: Row) -> str:
        if value == -1:
            return (
                "a label (-1 hides it: this is a test file for a leaderboard; "
                "take the validation file)"
            )
        return (
            ""
            if isinstance(value, int) and 0 <= value < classes
            else f"a whole number from 0 to {classes - 1}"
        )

    return check


def place_in(column: str) -> Check:
    """The check of a place in the list that another column holds."""

    def check(value: Any, row: Row) -> str:
        return label(len(row[column]))(value, row)

    return check


def number(value: Any) -> Any:
    """A label as a whole number where it is one: '3', True and 3.0 too."""
    try:
        return int(value) if isinstance(value, (bool, int, str)) or value == int(value) else value
    except (TypeError, ValueError, OverflowError):
        return value


@dataclass(frozen=True)
class Source:
    """Where the items of a task stand, which columns they have, and how rows as published become
    rows as on the hub.
    """

    home: str  # folder of its task in lm_eval/tasks
    # folders that a copy may have; the given folder itself is looked at last
    roots: tuple[str, ...]
    columns: Mapping[str, Check]
    split: str = "validation"  # the hub's name of what is asked
    shots: str = "train"  # … and of what examples are taken from
    inner: tuple[str, ...] = (".",)  # folders in a root
    # the hub's name of a split: files as published
    original: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    header: tuple[str, ...] | None = None  # columns of an original table that does not name them
    convert: Callable[[Iterable[Row]], Iterator[Row]] = iter  # original rows → the hub's
    hub: tuple[str, ...] = HUB
    numbers: tuple[str, ...] = ("label",)  # columns that hold whole numbers, in whatever form
    # (column, value) of the rows that belong to it, in a file with others
    only: tuple[str, str] | None = None


def cached(name: str) -> str:
    """The folder of a data set in the hub's cache."""
    return f"datasets--{name.replace('/', '--')}/snapshots/*"


def renamed(
    names: Mapping[str, str], labels: tuple[str, ...] = ()
) -> Callable[[Iterable[Row]], Iterator[Row]]:
    """{the hub's column: the original one}; `labels` are the names of the label's numbers."""

    def convert(found: Iterable[Row]) -> Iterator[Row]:
        rows = list(found)
        for theirs in names.values():
            if not any(theirs in row for row in rows):
                raise KeyError(theirs)
        for row in rows:
            new = {ours: row[theirs] for ours, theirs in names.items() if theirs in row}
            if new.get("label") in labels:
                new["label"] = labels.index(new["label"])
            yield new

    return convert


def glue(
    folder: str,
    columns: Mapping[str, str],
    classes: tuple[str, ...] | int = 2,
    *,
    file: str = "dev",
    **more: Any,
) -> Source:
    """`columns`: {the hub's: the original's}."""
    names = classes if isinstance(classes, tuple) else ()
    checks = {name: label(len(names) or 2) if name == "label" else text for name in columns}
    return Source(
        home="glue",
        roots=("glue", "GLUE", "glue_data", cached("nyu-mll/glue"), cached("glue")),
        columns=checks,
        inner=(folder, folder.lower().replace("-", "")),
        convert=renamed(columns, names),
        original={more.get("split", "validation"): (f"{file}.tsv",), "train": ("train.tsv",)},
        **more,
    )


def super_glue(
    folder: str,
    columns: Mapping[str, Check],
    convert: Callable[[Iterable[Row]], Iterator[Row]],
    hub: str = "",
) -> Source:
    """A task of SuperGLUE."""
    return Source(
        home="super_glue", roots=("super_glue", "superglue", "SuperGLUE", cached("aps/super_glue"),
                                  cached("super_glue")), columns=columns,
        inner=(folder, hub or folder.lower()), convert=convert,
        original={"validation": ("val.jsonl",), "train": ("train.jsonl",)},
    )  # fmt: skip


def same(*names: str, labels: tuple[str, ...] = ()) -> Callable[[Iterable[Row]], Iterator[Row]]:
    """A conversion that keeps the columns `names`."""
    return renamed({name: name for name in names}, labels)


def multirc(found: Iterable[Row]) -> Iterator[Row]:
    """One row for each answer to each question about each paragraph."""
    for row in found:
        for question in row["passage"]["questions"]:
            for answer in question["answers"]:
                yield {
                    "paragraph": row["passage"]["text"],
                    "question": question["question"],
                    "answer": answer["text"],
                    "label": answer["label"],
                }


def record(found: Iterable[Row]) -> Iterator[Row]:
    """Entities are named by the places of their first and last character."""
    for row in found:
        passage = row["passage"]
        entities = sorted({passage["text"][e["start"] : e["end"] + 1] for e in passage["entities"]})
        for asked in row["qas"]:
            answers = sorted({answer["text"] for answer in asked["answers"]})
            yield {
                "passage": passage["text"],
                "query": asked["query"],
                "entities": entities,
                "answers": answers,
            }


def wsc(found: Iterable[Row]) -> Iterator[Row]:
    """With the corrections of the hub's `wsc.fixed`: a span that does not occur in the text gets
    the case of its first word there, no full stop and no line break.
    """
    for row in found:
        new = {
            "text": row["text"],
            "label": row["label"],
            **{k: row["target"][k] for k in ("span1_text", "span2_text", "span2_index")},
        }
        for name in ("span1", "span2"):
            span = row["target"][f"{name}_text"]
            if span not in row["text"]:
                word = row["text"].split()[row["target"][f"{name}_index"]]
                first = span[0].lower() if word[0].islower() else span[0].upper()
                new[f"{name}_text"] = (first + span[1:]).rstrip(".").replace("\n", " ")
        yield new


def mmlu(subject: str) -> Source:
    """The task of one subject of MMLU."""

    def convert(found: Iterable[Row]) -> Iterator[Row]:
        for row in found:
            letter = row["answer"].strip()
            yield {
                "question": row["question"],
                "choices": [row[c] for c in "ABCD"],
                "answer": "ABCD".find(letter) if len(letter) == 1 else letter,
            }

    return Source(
        home="mmlu/default", roots=("mmlu", "MMLU", cached("cais/mmlu")),
        columns={"question": text, "choices": texts(4, 4), "answer": place_in("choices")},
        split="test", shots="dev", header=("question", "A", "B", "C", "D", "answer"),
        convert=convert, numbers=("answer",),
        original={s: (f"{s}/{subject}_{s}.csv", f"data/{s}/{subject}_{s}.csv") for s in ("test",
            "dev")},
        hub=(f"{subject}/{{split}}-*.parquet", f"{subject}/{{split}}.parquet",
             "all/{split}-*.parquet"), only=("subject", subject),
    )  # fmt: skip


PAIR = {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}
ENTAILS = ("entailment", "not_entailment")
MNLI = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}
NLI = ("entailment", "neutral", "contradiction")
GLUE = {
    "cola": glue(
        "CoLA",
        {"sentence": "sentence", "label": "label"},
        header=("source", "label", "mark", "sentence"),
    ),
    "mnli": glue("MNLI", MNLI, NLI, file="dev_matched", split="validation_matched"),
    "mnli_mismatch": glue("MNLI", MNLI, NLI, file="dev_mismatched", split="validation_mismatched"),
    "mrpc": glue("MRPC", {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}),
    "qnli": glue(
        "QNLI", {"question": "question", "sentence": "sentence", "label": "label"}, ENTAILS
    ),
    "qqp": glue(
        "QQP", {"question1": "question1", "question2": "question2", "label": "is_duplicate"}
    ),
    "rte": glue("RTE", PAIR, ENTAILS),
    "sst2": glue("SST-2", {"sentence": "sentence", "label": "label"}),
    "wnli": glue("WNLI", PAIR),
}
TWO = label(2)
SUPER_GLUE = {
    "boolq": super_glue("BoolQ", {"passage": text, "question": text, "label": TWO},
                        same("passage", "question", "label")),
    "cb": super_glue(
        "CB", {"premise": text, "hypothesis": text, "label": label(3)},
        same("premise", "hypothesis", "label", labels=("entailment", "contradiction", "neutral")),
    ),
    "copa": super_glue(
        "COPA", {"premise": text, "choice1": words, "choice2": words,
                 "question": one_of("cause", "effect"), "label": TWO},
        same("premise", "choice1", "choice2", "question", "label"),
    ),
    "multirc": super_glue("MultiRC", {"paragraph": text, "question": text, "answer": text,
                                      "label": TWO}, multirc),
    "record": super_glue("ReCoRD", {"passage": text, "query": text, "entities": texts(1),
                                    "answers": texts(1)}, record),
    "sglue_rte": super_glue("RTE", {"premise": text, "hypothesis": text, "label": TWO},
                            same("premise", "hypothesis", "label", labels=ENTAILS)),
    "wic": super_glue(
        "WiC", {"sentence1": text, "sentence2": text, "start1": count, "end1": count, "label": TWO},
        same("sentence1", "sentence2", "start1", "end1", "label"),
    ),
    "wsc": super_glue("WSC", {"text": text, "span1_text": text, "span2_text": text,
                              "span2_index": count, "label": TWO}, wsc, "wsc.fixed"),
}  # fmt: skip
SOURCES = {
    "hellaswag": Source(
        home="hellaswag", roots=("hellaswag", "HellaSwag", cached("Rowan/hellaswag")),
        columns={"activity_label": text, "ctx_a": text, "ctx_b": text, "endings": texts(2),
                 "label": place_in("endings")},
        original={"validation": ("hellaswag_val.jsonl", "data/hellaswag_val.jsonl"),
                  "train": ("hellaswag_train.jsonl", "data/hellaswag_train.jsonl")},
    ),
    **GLUE,
    **SUPER_GLUE,
    "humaneval": Source(
        home="", roots=("humaneval", "HumanEval", "human-eval", cached("openai/openai_humaneval")),
        split="test", columns=dict.fromkeys(("task_id", "prompt", "test", "entry_point"), text),
        inner=(".", "openai_humaneval"),
        original={"test": ("HumanEval.jsonl.gz", "HumanEval.jsonl", "data/HumanEval.jsonl.gz")},
        numbers=(),
    ),
}  # fmt: skip
GROUPS = {"glue": tuple(GLUE), "super_glue": tuple(SUPER_GLUE)}
