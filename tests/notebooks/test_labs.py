"""Every lab as released answers unwritten work with messages."""

import nbformat
import pytest

from notebooks import LABS, name, run


@pytest.mark.parametrize("path", LABS, ids=name)
def test_released_lab_answers_with_messages(path, tmp_path):
    """Only graded test cells may raise on unwritten work; the learner's own cells and checks say what is missing."""
    out = tmp_path / "out.ipynb"
    options = ["--to", "notebook", "--execute", "--allow-errors", "--output-dir", str(tmp_path), "--output", out.name]
    run(["jupyter", "nbconvert", *options, str(path)], tmp_path, tmp_path / "log")
    notebook = nbformat.read(out, as_version=4)
    assert any("not attempted" in str(cell.get("outputs")).lower() for cell in notebook.cells)
    for cell in notebook.cells:
        tests = cell.metadata.get("nbgrader", {})
        if not (tests.get("grade") and tests.get("locked")):
            assert not [o for o in cell.get("outputs", []) if o.output_type == "error"], cell.id
