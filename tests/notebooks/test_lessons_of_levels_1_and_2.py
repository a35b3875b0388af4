"""The start page and the lessons of Levels 1 and 2 run under nbval;
outputs of marked cells agree.
"""

import pytest

from notebooks import LESSONS, START, check_lesson, name


@pytest.mark.parametrize(
    "path", START + [path for path in LESSONS if path.parent.name[0] in "12"], ids=name
)
def test_lesson_runs_and_marked_outputs_agree(path, tmp_path):
    check_lesson(path, tmp_path)
