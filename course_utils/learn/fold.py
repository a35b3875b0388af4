"""Fold the committed results of predictions, take out progress bars: `python -m
course_utils.learn.fold [NOTEBOOK …]`.

Without names: all lessons.

JupyterLab shows the output of a folded cell as three dots, until the cell is run or the dots are
pressed; so a learner meets the question before the answer. Run it after every `nbconvert
--execute`; a second run changes nothing.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PREDICT = re.compile(r"^\s*(\w+)\s*=\s*predict\(\s*[\"']([\w.\-]+)[\"']", re.MULTILINE)


def results(cells: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The code cells that show the result of a prediction: they call `.result(` of a name that
    `predict` has given.
    """
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    names = {name for cell in code for name, _ in PREDICT.findall("".join(cell["source"]))}
    if not names:
        return []
    call = re.compile(rf"^\s*(?:{'|'.join(sorted(names))})\.result\(", re.MULTILINE)
    return [cell for cell in code if call.search("".join(cell["source"]))]


def is_bar(output: dict[str, Any]) -> bool:
    """A progress bar: a widget without a fallback for readers who have no kernel."""
    data = output.get("data", {})
    return "application/vnd.jupyter.widget-view+json" in data and "text/html" not in data


def fold(path: Path) -> bool:
    """Fold the outputs of these cells in a notebook, and of no others; True when the file has
    changed.
    """
    before = path.read_text(encoding="utf-8")
    notebook = json.loads(before)
    # the state of widgets that a committed page does not show
    notebook["metadata"].pop("widgets", None)
    wanted = {cell["id"] for cell in results(notebook["cells"])}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        cell["outputs"] = [output for output in cell["outputs"] if not is_bar(output)]
        jupyter = cell["metadata"].setdefault("jupyter", {})
        if cell["id"] in wanted:
            jupyter["outputs_hidden"] = True
        else:
            jupyter.pop("outputs_hidden", None)
        if not jupyter:
            del cell["metadata"]["jupyter"]
    after = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before


def main(arguments: list[str]) -> None:
    """Fold the lessons named, or all."""
    from .page.catalogue import ROOT

    for path in (
        map(Path, arguments) if arguments else sorted((ROOT / "notebooks").glob("*/*.ipynb"))
    ):
        if fold(path):
            print(f"{path}: folded")


if __name__ == "__main__":
    main(sys.argv[1:])
