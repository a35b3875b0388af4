"""What each lesson compares, how, and what it says of it: tests/fairness/<notebook>.yaml against
the notebook's outputs.

    python tests/common/fairness.py --write docs/fairness.md

A file holds a list. Each entry is one comparison that a sentence of the lesson relies on:

    - cell: measure                 # id of the cell whose output holds it
      table: "Three bits"           # its title, needed where the cell holds several
      rows: [rounding, GPTQ]        # the rows that the sentence is about, with their control
      control: rounding             # the row that is the same without the method
      seeds: 3                      # none: no row depends on the seed
      windows: 64                   # 1: one number for each seed
      fewer: "…"  # why, where seeds < 3 (and rows depend on them) or 1 < windows < 64
      sentence: "GPTQ stays closer to the original."   # word for word, from a markdown cell or the
                                                       # texts of its tasks
      claims: ["GPTQ < rounding"]   # what the sentence says of means: a < b, a > b, a = b (no
                                    # difference seen)
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from course_utils.evaluation.comparison import MIME, Comparison, from_json
from course_utils.evaluation.comparison_page import plus_minus
from course_utils.learn import texts
from notebooks import LESSONS, ROOT, SOLUTIONS

FOLDER = ROOT / "tests" / "fairness"
DOCUMENT = ROOT / "docs" / "fairness.md"
FIELDS = {"cell", "table", "rows", "control", "seeds", "windows", "fewer", "sentence", "claims"}
CLAIM = re.compile(r"^(.+?) ([<>=]) (.+)$")
LINK = re.compile(r"\[([^\]]*)\]\([^)\"]*(?:\"[^\"]*\")?\)")
SEEDS, WINDOWS = 3, 64
HEAD = """# Comparisons and what is said of them

Made by `python tests/common/fairness.py --write docs/fairness.md` from the committed notebooks; `make test` checks it, and
checks each claim against the numbers in the notebook's outputs. Intervals cover 95 %; differences are paired by seed and
window; "=" says that no difference was seen.
"""  # noqa: E501


def notebook_of(name: str) -> Path:
    return next(path for path in LESSONS + SOLUTIONS if path.stem == name)


def files() -> list[Path]:
    return sorted(FOLDER.glob("*.yaml"))


def entries(file: Path) -> list[dict[str, Any]]:
    return yaml.safe_load(file.read_text(encoding="utf-8")) or []


def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def comparisons(cell: dict[str, Any]) -> list[Comparison]:
    """The comparisons that the outputs of a cell hold."""
    return [
        from_json(o["data"][MIME]) for o in cell.get("outputs", []) if MIME in o.get("data", {})
    ]


def flat(text: str) -> str:
    """A text without links, bold and line ends, as a sentence is looked for."""
    return " ".join(LINK.sub(r"\1", text).replace("**", "").split())


def prose(found: list[dict[str, Any]]) -> Iterator[str]:
    """All that a notebook says: its markdown, and the texts of what it asks."""
    for cell in found:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield flat(source)
            continue
        for verb, name in re.findall(r"\b(ask|predict|check)\(\s*[\"']([\w.\-]+)[\"']", source):
            section = {"ask": "questions", "predict": "predictions", "check": "exercises"}[verb]
            yield flat(
                json.dumps(
                    (texts.load(texts.topic_of(name)).get(section) or {}).get(name),
                    ensure_ascii=False,
                )
            )


def find(entry: dict[str, Any], found: list[dict[str, Any]]) -> Comparison:
    """The comparison that an entry is about."""
    here = [c for cell in found if cell["id"] == entry["cell"] for c in comparisons(cell)]
    assert here, f"cell {entry['cell']}: its output holds no comparison"
    named = [c for c in here if c.title == entry.get("table", c.title)]
    assert len(named) == 1, (
        f"cell {entry['cell']}: tables are {[c.title for c in here]}; name one as `table`"
    )
    return named[0]


def split(claim: str, rows: list[str]) -> tuple[str, str, str]:
    """(a, sign, b) of "a < b"; rows may hold these signs themselves."""
    ways = [
        (a, sign, b) for a in rows for b in rows for sign in "<>=" if claim == f"{a} {sign} {b}"
    ]
    assert len(ways) == 1, f"claim {claim!r}: write 'a < b', 'a > b' or 'a = b' with rows {rows}"
    return ways[0]


def problems(entry: dict[str, Any], found: list[dict[str, Any]]) -> list[str]:
    """What is wrong with an entry, in words; `found` are the cells of the executed notebook."""
    try:
        table = find(entry, found)
        claims = [split(claim, list(table.values)) for claim in entry["claims"]]
    except (AssertionError, KeyError) as error:
        return [str(error)]
    said = [f"unknown fields {sorted(set(entry) - FIELDS)}"] if set(entry) - FIELDS else []
    windows = max(v.shape[1] for v in table.values.values())
    moving = any(not bool((v == v[:1]).all()) for v in table.values.values())
    rows = entry.get("rows")
    if not isinstance(rows, list) or not set(rows) <= set(table.values):
        return [*said, f"rows: {rows!r} is stated, the output has {list(table.values)!r}"]
    for key, value in {"seeds": len(table.seeds) if moving else "none", "windows": windows}.items():
        if entry.get(key) != value:
            said.append(f"{key}: {entry.get(key)!r} is stated, the output has {value!r}")
    if entry.get("control") not in rows:
        said.append(f"control: {entry.get('control')!r} is no row")
    if unstated := {row for a, _, b in claims for row in (a, b)} - set(rows):
        said.append(f"rows: {sorted(unstated)} stand in a claim and not in rows")
    if not entry.get("fewer") and ((moving and len(table.seeds) < SEEDS) or 1 < windows < WINDOWS):
        said.append(f"fewer than {SEEDS} seeds or {WINDOWS} windows, and `fewer` does not say why")
    if not claims:
        said.append(
            "claims: a sentence that relies on a ranking names an order; write it as 'a < b'"
        )
    if not any(flat(entry["sentence"]) in text for text in prose(found)):
        said.append(f"sentence: the notebook does not say {entry['sentence']!r}")
    for a, sign, b in claims:
        if (seen := table.order(a, b)) != sign:
            said.append(
                f"claim {a} {sign} {b}: the output shows {seen} "
                f"({plus_minus(*table.difference(a, b), sign=True)})"
            )
    return said


def unlisted(name: str, found: list[dict[str, Any]]) -> list[str]:
    """Comparisons in the outputs that no entry names."""
    file = FOLDER / f"{name}.yaml"
    known = {(e["cell"], find(e, found).title) for e in (entries(file) if file.exists() else [])}
    return [
        f"{c['id']}: {t.title}"
        for c in found
        for t in comparisons(c)
        if (c["id"], t.title) not in known
    ]


def document() -> str:
    parts = [HEAD]
    for file in files():
        parts.append(f"\n## {file.stem}\n")
        found = cells(notebook_of(file.stem))
        for entry in entries(file):
            table = find(entry, found)
            control, unit = entry["control"], f", {table.unit}" if table.unit else ""
            facts = [
                f"`{entry['cell']}`",
                f"control: {control}",
                f"seeds: {entry['seeds']}",
                f"windows: {entry['windows']}",
            ]
            parts.append(
                f"\n**{table.title}** ({'; '.join(facts)})\n\n> {flat(entry['sentence'])}\n"
            )
            parts.append(f"\n{'; '.join(f'`{claim}`' for claim in entry['claims'])}\n")
            parts.append(
                f"\n| row | mean ± interval{unit} | difference from {cell(control)} |\n"
                "|---|---|---|\n"
            )
            for row in entry["rows"]:
                apart = (
                    "" if row == control else plus_minus(*table.difference(row, control), sign=True)
                )
                parts.append(
                    f"| {cell(row)} | {plus_minus(table.mean(row), table.half_width(row))} | "
                    f"{apart} |\n"
                )
            notes = filter(
                None,
                [
                    table.protocol,
                    entry.get("fewer"),
                    f"`{table.command}`, {table.date}" if table.command else "",
                ],
            )
            parts.append("".join(f"\n{note}\n" for note in notes))
    return "".join(parts)


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    wrong = [
        f"{f.stem}: {p}"
        for f in files()
        for e in entries(f)
        for p in problems(e, cells(notebook_of(f.stem)))
    ]
    print(
        "\n".join(wrong) or f"{sum(len(entries(f)) for f in files())} comparisons, all claims hold"
    )
    if options.write:
        options.write.write_text(document(), encoding="utf-8")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
