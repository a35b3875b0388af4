"""A few items of our own making for each benchmark, written as published (`original`) and as on the
hub (`hub`).
"""

import csv
import gzip
import json
from pathlib import Path

NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eva"]
NLI = ["entailment", "neutral", "contradiction"]
ENTAILS = ["entailment", "not_entailment"]

HELLASWAG = [
    {
        "ind": i, "activity_label": "Baking bread",
        "ctx_a": f"{name} puts flour in a bowl [step] and adds water.", "ctx_b": "then",
        "ctx": f"{name} puts flour in a bowl [step] and adds water. then",
        "endings": [f"{name} kneads the dough.", "the bowl sings [title] to the moon for a very "
                    "long time.", "flies.", f"{name} eats the table, and later the door."],
        "label": i % 4, "split": "val", "split_type": "indomain", "source_id": f"made~{i}",
    }
    for i, name in enumerate(NAMES)
]  # fmt: skip
MMLU = {
    "anatomy": [
        (
            f'How many hands has {name}, "in all"?',
            "one",
            "two",
            "three, or more",
            "four",
            "ABCD"[i % 4],
        )
        for i, name in enumerate(NAMES)
    ],
    "astronomy": [
        (f"What does {name} see at night?\nLook up.", "Stars", "The sun", "1", "Noon", "A")
        for name in NAMES[:3]
    ],
}
# name: (header of the original, rows of it, rows on the hub)
GLUE = {
    "CoLA": (None, [("made", 1 - i % 2, "*", f'{n} "sleeps" well.') for i, n in enumerate(NAMES)],
             [{"sentence": f'{n} "sleeps" well.', "label": 1 - i % 2,
               "idx": i} for i, n in enumerate(NAMES)]),
    "MRPC": (("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
             [(i % 2, i, i, f"{n} runs.", f"{n} is running.") for i, n in enumerate(NAMES)],
             [{"sentence1": f"{n} runs.", "sentence2": f"{n} is running.", "label": i % 2,
               "idx": i} for i, n in enumerate(NAMES)]),
    "QNLI": (("index", "question", "sentence", "label"),
             [(i, f"Who is {n}?", f"{n} is a baker.", ENTAILS[i % 2]) for i, n in enumerate(NAMES)],
             [{"question": f"Who is {n}?", "sentence": f"{n} is a baker.", "label": i % 2,
               "idx": i} for i, n in enumerate(NAMES)]),
    "QQP": (("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
            [(i, 0, 1, f"Is {n} in?", f"Is {n} here?", i % 2) for i, n in enumerate(NAMES)],
            [{"question1": f"Is {n} in?", "question2": f"Is {n} here?", "label": i % 2,
              "idx": i} for i, n in enumerate(NAMES)]),
    "RTE": (("index", "sentence1", "sentence2", "label"),
            [(i, f"{n} has a cat.", f"{n} has a pet.",
              ENTAILS[i % 2]) for i, n in enumerate(NAMES)],
            [{"sentence1": f"{n} has a cat.", "sentence2": f"{n} has a pet.", "label": i % 2,
              "idx": i} for i, n in enumerate(NAMES)]),
    "SST-2": (("sentence", "label"), [(f"a fine film by {n} ", i % 2) for i, n in enumerate(NAMES)],
              [{"sentence": f"a fine film by {n} ", "label": i % 2,
                "idx": i} for i, n in enumerate(NAMES)]),
    "WNLI": (("index", "sentence1", "sentence2", "label"),
             [(i, f"{n} saw it.", f"{n} saw the cup.", i % 2) for i, n in enumerate(NAMES)],
             [{"sentence1": f"{n} saw it.", "sentence2": f"{n} saw the cup.", "label": i % 2,
               "idx": i} for i, n in enumerate(NAMES)]),
}  # fmt: skip
MNLI = [
    {"premise": f"{n} has a cat", "hypothesis": f"{n} has a pet", "label": i % 3, "idx": i}
    for i, n in enumerate(NAMES)
]
# name: (original items, the hub's rows)
SUPER_GLUE = {
    "BoolQ": ([{"question": f"is {n} in", "passage": f"{n} is at home.", "idx": i,
                "label": i % 2 == 0} for i, n in enumerate(NAMES)],
              [{"question": f"is {n} in", "passage": f"{n} is at home.", "idx": i,
                "label": int(i % 2 == 0)} for i, n in enumerate(NAMES)]),
    "CB": ([{"premise": f"{n} has a cat.", "hypothesis": f"{n} has a pet",
             "label": ["entailment", "contradiction", "neutral"][i % 3],
             "idx": i} for i, n in enumerate(NAMES)],
           [{"premise": f"{n} has a cat.", "hypothesis": f"{n} has a pet", "label": i % 3,
             "idx": i} for i, n in enumerate(NAMES)]),
    "COPA": ([{"premise": f"{n} fell.", "choice1": "The floor was wet.", "choice2": "It was noon.",
               "question": ["cause", "effect"][i % 2], "label": i % 2,
               "idx": i} for i, n in enumerate(NAMES)],) * 2,
    "MultiRC": ([{"idx": 0, "version": 1.1, "passage": {"text": "Ada sat. Ben ran.", "questions": [
                    {"question": "Who ran?", "idx": 0,
                     "answers": [{"text": n, "idx": i,
                                  "label": int(n == "Ben")} for i, n in enumerate(NAMES[:3])]},
                    {"question": "Who sat?", "idx": 1,
                     "answers": [{"text": "Ada", "idx": 3, "label": 1}]}]}}],
                [{"paragraph": "Ada sat. Ben ran.", "question": q, "answer": n, "label": label,
                  "idx": {"paragraph": 0, "question": j, "answer": i}}
                 for q, n, label, j, i in [("Who ran?", "Ada", 0, 0, 0),
                                           ("Who ran?", "Ben", 1, 0, 1),
                                           ("Who ran?", "Cleo", 0, 0, 2),
                                           ("Who sat?", "Ada", 1, 1, 3)]]),
    "ReCoRD": ([{"source": "made", "idx": 0,
                 "passage": {"text": "Ada met Ben. Ada left.\n@highlight\nBen stayed",
                             "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 10},
                                          {"start": 13, "end": 15}]},
                 "qas": [{"query": "@placeholder left.", "idx": 0,
                          "answers": [{"start": 0, "end": 2, "text": "Ada"},
                                      {"start": 13, "end": 15, "text": "Ada"}]},
                         {"query": "@placeholder stayed.", "idx": 1,
                          "answers": [{"start": 8, "end": 10, "text": "Ben"}]}]}],
               [{"passage": "Ada met Ben. Ada left.\n@highlight\nBen stayed",
                 "query": f"@placeholder {verb}.", "entities": ["Ben", "Ada"], "answers": [who],
                 "idx": {"passage": 0, "query": i}}
                for i, (verb, who) in enumerate([("left", "Ada"), ("stayed", "Ben")])]),
    "RTE": ([{"premise": f"{n} has a cat.", "hypothesis": f"{n} has a pet.",
              "label": ENTAILS[i % 2], "idx": i} for i, n in enumerate(NAMES)],
            [{"premise": f"{n} has a cat.", "hypothesis": f"{n} has a pet.", "label": i % 2,
              "idx": i} for i, n in enumerate(NAMES)]),
    "WiC": ([{"word": "bank", "sentence1": f"{n} left the bank.",
              "sentence2": "The bank lent money.", "idx": i, "label": i % 2 == 1,
              "start1": len(n) + 10, "end1": len(n) + 14, "start2": 4, "end2": 8,
              "version": 1.1} for i, n in enumerate(NAMES)],
            [{"word": "bank", "sentence1": f"{n} left the bank.",
              "sentence2": "The bank lent money.", "idx": i, "label": i % 2, "start1": len(n) + 10,
              "end1": len(n) + 14, "start2": 4, "end2": 8} for i, n in enumerate(NAMES)]),
    "WSC": ([{"text": f"{n} thanked the cook because he was kind.", "idx": i, "label": i % 2 == 0,
              "target": {"span1_index": 2, "span1_text": "The cook.", "span2_index": 5,
                         "span2_text": "he"}} for i, n in enumerate(NAMES)],
            [{"text": f"{n} thanked the cook because he was kind.", "idx": i,
              "label": int(i % 2 == 0), "span1_index": 2, "span1_text": "the cook",
              "span2_index": 5, "span2_text": "he"} for i, n in enumerate(NAMES)]),
}  # fmt: skip
HUMANEVAL = [
    {
        "task_id": f"Made/{i}",
        "prompt": f'def add{i}(x: int) -> int:\n    """The number {i} more than x."""\n',
        "entry_point": f"add{i}",
        "canonical_solution": f"    return x + {i}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {1 + i}\n",
    }
    for i in range(3)
]


def lines(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w")  # noqa: SIM115
    with opened as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def tabs(path: Path, header: tuple | None, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join("\t".join(map(str, row)) + "\n" for row in [*([header] if header else []), *rows])
    )


def parquet(path: Path, rows: list) -> None:
    import pyarrow
    from pyarrow import parquet as writer

    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_table(pyarrow.Table.from_pylist(rows), path)


def original(folder: Path) -> Path:
    lines(folder / "hellaswag" / "hellaswag_val.jsonl", HELLASWAG)
    for subject, rows in MMLU.items():
        for split, part in (("test", rows), ("dev", rows[:2])):
            path = folder / "mmlu" / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                csv.writer(file).writerows(part)
    for name, (header, rows, _) in GLUE.items():
        tabs(folder / "glue" / name / "dev.tsv", header, rows)
    names = ("index", "promptID", "sentence1", "sentence2", "label1", "gold_label")
    rows = [
        (i, i, row["premise"], row["hypothesis"], "neutral", NLI[row["label"]])
        for i, row in enumerate(MNLI)
    ]
    for end in ("matched", "mismatched"):
        tabs(folder / "glue" / "MNLI" / f"dev_{end}.tsv", names, rows)
    for name, (rows, _) in SUPER_GLUE.items():
        lines(folder / "SuperGLUE" / name / "val.jsonl", rows)
    lines(folder / "HumanEval.jsonl.gz", HUMANEVAL)
    return folder


def hub(folder: Path) -> Path:
    end = "00000-of-00001.parquet"
    parquet(
        folder / "hellaswag" / "data" / f"validation-{end}",
        [{**row, "label": str(row["label"])} for row in HELLASWAG],
    )
    for subject, rows in MMLU.items():
        made = [
            {
                "question": q,
                "subject": subject,
                "choices": [a, b, c, d],
                "answer": "ABCD".index(answer),
            }
            for q, a, b, c, d, answer in rows
        ]
        parquet(folder / "mmlu" / subject / f"test-{end}", made)
        parquet(folder / "mmlu" / subject / f"dev-{end}", made[:2])
    for name, (_, _, rows) in GLUE.items():
        parquet(folder / "glue" / name.lower().replace("-", "") / f"validation-{end}", rows)
    for ending in ("matched", "mismatched"):
        parquet(folder / "glue" / "mnli" / f"validation_{ending}-{end}", MNLI)
    for name, (_, rows) in SUPER_GLUE.items():
        parquet(
            folder
            / "super_glue"
            / {"WSC": "wsc.fixed"}.get(name, name.lower())
            / f"validation-{end}",
            rows,
        )
    parquet(folder / "humaneval" / "openai_humaneval" / f"test-{end}", HUMANEVAL)
    return folder
