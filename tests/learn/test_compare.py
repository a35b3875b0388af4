"""The comparison behind every check, case by case, against the plain reading of its tolerance."""

import collections
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import pytest
import torch

from course_utils.learn.checks.compare import difference

INF, NAN = float("inf"), float("nan")


def same(result, want, tolerance=1e-5):
    return difference(result, want, tolerance) is None


@pytest.mark.parametrize("seed", range(20))
def test_tensors_agree_exactly_when_every_element_is_within_the_tolerance(seed):
    rng = torch.Generator().manual_seed(seed)
    want = torch.randn(4, 5, generator=rng, dtype=torch.float64) * 10 ** float(seed - 10)
    noise = (torch.rand(4, 5, generator=rng, dtype=torch.float64) - 0.5) * 4e-3 * want.abs().max()
    loose = max(abs(float(x)) for x in noise.flatten()) / max(abs(float(x)) for x in want.flatten())
    assert same(want + noise, want, loose * 1.001) and not same(want + noise, want, loose * 0.999)


def test_zero_is_compared_absolutely():
    assert same(torch.tensor([0.0, 1e-6]), torch.zeros(2)) and not same(
        torch.tensor([0.0, 1e-4]), torch.zeros(2)
    )
    assert same(1e-6, 0.0) and not same(1e-4, 0.0)


def test_infinities_and_nan_where_they_are_right():
    want = torch.tensor([1.0, INF, -INF, NAN])
    assert same(want.clone(), want)
    for i, wrong in [(0, NAN), (0, INF), (1, -INF), (1, 1e30), (2, NAN), (3, 0.0)]:
        result = want.clone()
        result[i] = wrong
        assert not same(result, want), (i, wrong)


def test_whole_numbers_are_compared_exactly():
    assert same(torch.tensor([10**6], dtype=torch.int32), torch.tensor([10**6]))
    assert not same(torch.tensor([10**6 + 1]), torch.tensor([10**6]))
    assert not same(torch.tensor([1.0]), torch.tensor([1])) and same(
        torch.tensor([1]), torch.tensor([1.0])
    )
    assert not same(10**6 + 1, 10**6) and same(10**30, 10**30) and not same(10**30 + 1, 10**30)
    assert same(28.0, 28) and same(28, 28.0) and same(torch.tensor(28.0), 28) and not same(28.1, 28)


def test_truth_values_are_not_numbers():
    assert (
        same(True, True)
        and not same(True, False)
        and not same(1, True)
        and not same(True, 1)
        and not same(1.0, True)
    )
    assert same(torch.tensor(True), True) and same(np.bool_(True), True)
    assert not same(torch.tensor([1, 0]), torch.tensor([True, False]))


def test_numbers_in_other_clothes():
    assert same(np.float32(0.5), 0.5) and same(np.int64(3), 3) and same(torch.tensor(0.5), 0.5)
    assert (
        same(0.5, torch.tensor(0.5))
        and not same(0.5, torch.tensor([0.5]))
        and not same(torch.tensor([0.5]), 0.5)
    )
    assert same(torch.nn.Parameter(torch.ones(2)), torch.ones(2)) and same(
        torch.eye(3).to_sparse(), torch.eye(3)
    )
    assert (
        same(torch.ones(2, dtype=torch.bfloat16), torch.ones(2))
        and same(1 + 2j, 1 + 2j)
        and not same(1 - 2j, 1 + 2j)
    )
    assert same(torch.ones(2, requires_grad=True), torch.ones(2)) and same(
        torch.zeros(0, 3), torch.zeros(0, 3)
    )
    assert (
        not same(torch.zeros(0, 3), torch.zeros(3, 0))
        and not same(None, 0)
        and not same("1", 1)
        and not same(1, "1")
    )


def test_what_has_no_numbers_is_told():
    assert (
        "could not be compared" in difference(torch.ones(2, device="meta"), torch.ones(2), 0.1).text
    )


def test_dictionaries():
    want = {"weights": 28.0, "cache": torch.ones(2)}
    assert same({"cache": torch.ones(2), "weights": 28}, want)
    assert difference({"weights": 28.0}, want, 0.1).text.startswith("Keys")
    assert "result['weights']" in difference({**want, "weights": 14.0}, want, 0.1).text
    assert not same(list(want), want) and not same(want, list(want))


def test_only_a_difference_of_values_is_marked_so():
    assert difference(1.0, 2.0, 0.1).of_value and difference("a", "b", 0.1).of_value
    assert difference(torch.ones(2), torch.zeros(2), 0.1).of_value
    for wrong in ("a", [1], torch.ones(3), torch.tensor([1, 1]), torch.tensor([1.0, NAN])):
        assert not difference(wrong, torch.zeros(2), 0.1).of_value


def test_any_form_of_the_right_values_is_taken():
    want = torch.tensor([[1.5, 2.0], [0.25, -3.0]], dtype=torch.float64)
    forms = [
        want.numpy(),
        want.float().numpy(),
        want.tolist(),
        [want[0], want[1].numpy()],
        tuple(map(tuple, want.tolist())),
    ]
    forms += [
        [[np.float32(1.5), 2], [torch.tensor(0.25), Fraction(-3)]],
        collections.deque(want.tolist()),
        want.float(),
    ]
    for form in forms:
        assert same(form, want), form
        assert same([form, 1], (want, 1)) and same(collections.OrderedDict(a=form), {"a": want})
    assert (
        same(torch.tensor([1.0, 2.0]), (1.0, 2.0))
        and same(np.array([1.0, 2.0]), [1.0, 2.0])
        and same(range(3), [0, 1, 2])
    )
    assert same(MappingProxyType({"a": 1}), {"a": 1}) and same(
        [True, False], torch.tensor([True, False])
    )
    assert same(np.array([1, 2], dtype=np.uint16), torch.tensor([1, 2])) and same(
        Decimal("0.5"), 0.5
    )
    assert same(np.array([1.5], dtype=">f4"), torch.tensor([1.5]))
    for wrong in (
        [1.5, 2.0, 0.25, -3.0],
        [[1.5, 2.0], [0.25]],
        [["1.5", 2.0], [0.25, -3.0]],
        "1.5",
        {1.5, 2.0},
        [[1.5, 2.0], [0.25, 3.0]],
    ):
        assert not same(wrong, want), wrong


def test_lists_without_end_or_bottom_are_refused():
    deep = []
    deep.append(deep)
    assert not same(deep, torch.ones(2)) and not same([0.0] * 2_000_000, torch.ones(2))


def test_numbers_that_print_alike_are_told_apart():
    assert "expected 0.39, got 0.39001." not in difference(0.390001, 0.39, 1e-9).text
    said = difference(0.39 + 1e-8, 0.39, 1e-9).text
    assert "expected 0.39, got 0.39000001" in said, said
    assert "expected 1.3e+10, got 1.30000001e+10" in difference(13000000100.0, 1.3e10, 1e-9).text


def test_right_values_of_the_wrong_kind_are_told_why():
    assert (
        "only their kind" in difference(torch.tensor([1, 0]), torch.tensor([True, False]), 0.1).text
    )
    assert "only their kind" in difference(torch.tensor([3.0]), torch.tensor([3]), 0.1).text
    assert "only their kind" not in difference(torch.tensor([2.0]), torch.tensor([3]), 0.1).text
    assert (
        "too few digits"
        in difference(torch.tensor([0.1]), torch.tensor([0.1], dtype=torch.float64), 1e-9).text
    )
