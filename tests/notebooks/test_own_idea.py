"""The form for an experiment of one's own: it runs as it is, keeps the rules of notebooks, and its
points are those of its rubric.
"""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from notebooks import ROOT

PATH = ROOT / "notebooks" / "own-idea.ipynb"
LONGEST, MOST_LINES = 100, 25  # as for lessons


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(PATH, as_version=4)


def test_it_runs_with_its_example_and_reports(notebook):
    ran = nbformat.from_dict(notebook)
    next(c for c in ran.cells if c.id == "parameters").source += "\nfast = True"
    NotebookClient(
        ran, timeout=600, startup_timeout=300, resources={"metadata": {"path": PATH.parent}}
    ).execute()
    report = next(c for c in ran.cells if c.id == "report").outputs[0]["data"]["text/markdown"]
    assert "16 windows are too few" in report and "No verdict" in report, (
        "fast = True has too few windows, and the report says so"
    )


def test_committed_outputs_hold_a_verdict(notebook):
    outputs = {c.id: c.outputs for c in notebook.cells if c.cell_type == "code"}
    assert all(c.execution_count for c in notebook.cells if c.cell_type == "code")
    assert "**Verdict:" in outputs["report"][0]["data"]["text/markdown"]


def test_rules_of_notebooks(notebook):
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert len({c.id for c in notebook.cells}) == len(notebook.cells)
    assert not [line for c in code for line in c.source.split("\n") if len(line) > LONGEST]
    assert all(len(c.source.split("\n")) <= MOST_LINES for c in code)


def test_points_of_the_cells_the_parts_and_the_rubric(notebook):
    graded = {
        c.id: c.metadata["nbgrader"]["points"]
        for c in notebook.cells
        if c.metadata.get("nbgrader", {}).get("grade")
    }
    said = {
        f"{i}-written": int(re.search(r"\*\((\d+) points\)\*", c.source)[1])
        for c in notebook.cells
        for i in [c.id.removesuffix("-task")]
        if "points)*" in c.source
    }
    rows = re.findall(
        r"^\| (\d+) \| (\w+) \|",
        next(c for c in notebook.cells if c.id == "rubric").source,
        re.MULTILINE,
    )
    by_part = {f"{part}-written": sum(int(n) for n, p in rows if p == part) for _, part in rows}
    assert graded == said == by_part and sum(graded.values()) == 25
