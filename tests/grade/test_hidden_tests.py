"""A check and the lab's test cell, hidden tests and all, never disagree; nor do the last bits of a
result change a verdict.

Here the test cells run in this process; `test_right_in_labs.py` hands some of the answers in.
"""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from up_to_n import LABS, load

from course_utils.grade import lab
from course_utils.learn.checks import checking, exercise

PLANTED = Path(__file__).resolve().parents[1] / "learn" / "planted"
CHECKED = re.compile(r'check\("([\w.]+)", (\w+)')
EXERCISES = [name for topic in exercise.topics() for name in exercise.of_topic(topic)]
DOUBLE, SINGLE = torch.finfo(torch.float64).eps, torch.finfo(torch.float32).eps


def table(name, kind):
    path = next(PLANTED.glob(f"*/{name.partition('.')[0]}.py"))
    spec = importlib.util.spec_from_file_location(f"planted_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, kind)[name]


def moved(value, by):
    """The value with its floating-point numbers moved by the factors 1 + by and 1 − by, in turn."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        signs = torch.ones(value.numel(), dtype=torch.float64)
        signs[1::2] = -1
        factor = (1 + by * signs).view(value.shape)
        return (
            (value.double() * factor)
            if value.dtype == torch.float64
            else value * factor.to(value.dtype)
        )
    if type(value) is float:
        return value * (1 + by)
    if isinstance(value, dict):
        return {key: moved(item, by) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(moved(item, by) for item in value)
    return value


def nearly(function, by):
    """The function with its results moved by a few units in the last place."""
    return lambda *arguments, **named: moved(function(*arguments, **named), by)


def moves(name):
    """A move that changes no verdict in single precision changes none in double; where whole
    numbers are counted, single precision is too little: 4 of its last places are hundreds of
    parameters.
    """
    by = SINGLE if exercise.find(name).tolerance else DOUBLE
    return 4 * by, -4 * by


@pytest.mark.parametrize("name", EXERCISES)
def test_the_last_bits_change_no_verdict_of_a_check(name):
    for function in [exercise.find(name).spec, *table(name, "RIGHT")]:
        for by, seed in zip(moves(name), (1, 2), strict=True):
            verdict = checking.judge(name, nearly(function, by), seed=seed)
            assert verdict.passed, (function.__name__, by, verdict.message)


@pytest.fixture(scope="module", params=LABS)
def opened(request):
    return load(request.param)


def verdict(opened, test, function_name, function):
    """What the test cell of the lab, with its hidden tests, says of a function: "" if nothing is
    wrong.
    """
    space = {**opened.namespace, **opened.reference, function_name: function}
    try:
        points = lab.run_test(test.source, space, test.points)
    except AssertionError as error:
        return f"AssertionError: {error}"
    return "" if points == test.points else f"{points} of {test.points}"


def checked(opened):
    """(test, exercise, function) of every test that calls `check`."""
    return [
        (test, *found.groups()) for test in opened.tests if (found := CHECKED.search(test.source))
    ]


def test_what_a_check_takes_gets_full_points_and_the_last_bits_change_nothing(opened):
    """As they are, right answers are handed in by test_right_in_labs.py."""
    for test, name, function_name in checked(opened):
        for function in [exercise.find(name).spec, *table(name, "RIGHT")]:
            by = moves(name)[0]  # the signs are tried with the checks
            said = verdict(opened, test, function_name, nearly(function, by) if by else function)
            assert not said, (name, function.__name__, by, said)


def in_numpy(value):
    """The value with NumPy's arrays for tensors, where nothing flows through them."""
    if isinstance(value, torch.Tensor):
        return value if value.requires_grad else value.numpy()
    if isinstance(value, dict):
        return {key: in_numpy(item) for key, item in value.items()}
    return type(value)(map(in_numpy, value)) if isinstance(value, (list, tuple)) else value


def test_results_in_numpy_are_taken_by_both(opened):
    for test, name, function_name in checked(opened):
        right = opened.reference[function_name]
        answer = lambda *given, _right=right, **named: in_numpy(_right(*given, **named))  # noqa: E731
        assert checking.judge(name, answer, seed=3) and not verdict(
            opened, test, function_name, answer
        ), name


def test_what_a_check_rejects_gets_no_points(opened):
    for test, name, function_name in checked(opened):
        for function, mistake in table(name, "WRONG"):
            assert verdict(opened, test, function_name, function), (name, mistake)
