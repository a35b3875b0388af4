"""Every solution runs to its end under papermill, hidden tests included."""

import pytest

from notebooks import SOLUTIONS, name, run


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_solution_runs(path, tmp_path):
    run(["papermill", str(path), str(tmp_path / "out.ipynb"), "--cwd", str(path.parent)], tmp_path, tmp_path / "log")
