"""Every solution runs to its end under papermill, hidden tests included, and nbgrader would pay all
of it.
"""

import nbformat
import pytest
from nbgrader.utils import determine_grade, is_grade

from notebooks import PAPERMILL, SOLUTIONS, name, run


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_solution_runs_and_gets_full_points(path, tmp_path):
    run(
        [*PAPERMILL, str(path), str(tmp_path / "out.ipynb"), "--cwd", str(path.parent)],
        tmp_path,
        tmp_path / "log",
    )
    cells = [
        cell
        for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
        if is_grade(cell) and cell.cell_type == "code"
    ]
    assert cells
    for cell in cells:
        points, most = determine_grade(cell)
        assert points == most, (cell.id, cell.outputs)
