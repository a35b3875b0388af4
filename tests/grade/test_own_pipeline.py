"""Lab 3.4's last exercise has no check of its own: its test cell on pipelines that do and do not
keep the rules.
"""

import pytest

from course_utils.grade import lab
from course_utils.learn.page import catalogue

PRUNED, PACKED = ("channels", {"keep": 0.25}), ("quantize", {"bits": 3})
TWO = {"method": "gptq", "bits": 2}
# by what they are worth: rules alone; the control, since no number in float32 moves by 1e-12;
# better than it by more than the ±. In several forms.
RIGHT = [
    (3, (PRUNED, ["layers", {"keep": 3}], ["student", {"keep": 1, "steps": 1}],
         ["quantize", {"bits": 2, "method": "awq"}])),
    (5, [["channels", {"keep": 0.375}], ("distil", {"steps": 1, "peak": 1e-12}),
         ("quantize", TWO)]),
    (8, [("channels", {"keep": 0.375}), ("distil", {"steps": 60, "peak": 5e-4}),
         ("quantize", TWO)]),
]  # fmt: skip
WRONG = [
    ([], "nothing is pruned"),
    ([("distil", {"steps": 10}), PACKED], "nothing is pruned"),
    ([("channels", {"keep": 1.0}), ("distil", {"steps": 10}), PACKED], "nothing is pruned"),
    ([PRUNED, PACKED], "train after the last pruning"),
    ([("distil", {"steps": 10}), PRUNED, PACKED], "train after the last pruning"),
    ([("student", {"keep": 0.6, "steps": 10}), PRUNED, PACKED], "train after the last pruning"),
    ([PRUNED, PACKED, ("distil", {"steps": 10})], "the last step must be quantize"),
    ([PRUNED, ("student", {"keep": 0.6, "steps": 61}), PACKED], "60 or fewer"),
    ([PRUNED, ("student", {"keep": 0.6}), ("distil", {"steps": 30}), PACKED], "60 or fewer"),
    ([PRUNED, ("distil", {"steps": 0}), PACKED], "at least 1 each time"),
    (
        [PRUNED, ("distil", {"steps": -500}), ("distil", {"steps": 500}), PACKED],
        "at least 1 each time",
    ),
    (
        [PRUNED, ("student", {"keep": 0.6, "steps": 30}), ("gradual", {"steps": 10}), PACKED],
        "train after the last pruning",
    ),
    (
        [PRUNED, ("gradual", {"steps": 80}), ("student", {"keep": 0.6, "steps": 60}), PACKED],
        "60 or fewer",
    ),
    ([PRUNED, ("gradual", {}), ("student", {"keep": 0.6, "steps": 30}), PACKED], "60 or fewer"),
    (
        [("layers", {"keep": 4}), ("distil", {"steps": 1}), ("quantize", {"bits": 8})],
        "over the budget",
    ),
]


@pytest.fixture(scope="module")
def points():
    opened = lab.load(catalogue.ROOT, "lab-3.4-pipeline")
    test = next(test for test in opened.tests if test.grade_id == "my-pipeline-test")
    return lambda steps: lab.run_test(
        test.source, {**opened.namespace, "my_pipeline": lambda: steps}, test.points
    )


@pytest.mark.parametrize(("worth", "steps"), RIGHT)
def test_a_pipeline_that_keeps_the_rules_gets_points_by_its_value(points, worth, steps):
    assert points(steps) == worth


@pytest.mark.parametrize(("steps", "said"), WRONG)
def test_a_pipeline_that_breaks_one_is_told_which(points, steps, said):
    with pytest.raises(AssertionError, match=said):
        points(steps)
