"""Operations, bytes and the roof: against loops, the definition, and limits;
nothing here is timed.
"""

import itertools
import math

import pytest
import torch

from course_utils import kernels
from course_utils.errors import CompressionError
from course_utils.systems import roofline, timing
from course_utils.systems.roofline import Roof


@pytest.mark.parametrize("rows,columns,tokens", [(3, 5, 1), (8, 130, 4)])
def test_operations_are_those_of_the_loop(rows, columns, tokens):
    counted = 0
    for _ in itertools.product(range(rows), range(columns), range(tokens)):
        counted += 2
    assert roofline.operations(rows, columns, tokens) == counted


@pytest.mark.parametrize("bits,group", [(4, 64), (8, 32), (4, -1), (2, 16)])
def test_bytes_are_those_of_the_packed_weight(bits, group):
    rows, columns = 6, 128
    groups = columns // (columns if group == -1 else group)
    codes = torch.randint(2**bits, (rows, columns), dtype=torch.uint8)
    zero = torch.randint(2**bits, (rows, groups))
    weight = kernels.from_codes(codes, torch.full((rows, groups), 0.5), bits=bits)
    x, y = torch.zeros(3, columns), torch.zeros(3, rows)
    assert (
        roofline.bytes_moved(rows, columns, 3, bits=bits, group_size=group)
        == weight.nbytes + x.nbytes + y.nbytes
    )
    more = (
        kernels.from_codes(codes, torch.full((rows, groups), 0.5), zero, bits=bits).nbytes
        - weight.nbytes
    )
    asked = (
        roofline.bytes_moved(rows, columns, 3, bits=bits, group_size=group, zero_points=True)
        - weight.nbytes
        - x.nbytes
        - y.nbytes
    )
    assert asked == pytest.approx(rows * groups * bits / 8) and more >= asked, (
        "a row of packed zero points ends with a whole byte"
    )


def test_a_short_group_has_a_scale():
    whole, short = (
        roofline.bytes_moved(2, columns, 1, bits=4, group_size=64) for columns in (64, 65)
    )
    assert short - whole == 2 * (0.5 + 2) + 4


@pytest.mark.parametrize("bits", [32, 8, 4])
@pytest.mark.parametrize("ridge", [0.3, 3.0, 20.0, 31.0])
def test_the_ridge_in_tokens_is_the_first_where_operations_decide(bits, ridge):
    roof, stored = Roof(ridge * 1e9, 1e9), {"bits": bits}
    found = roof.tokens_at_ridge(128, 256, **stored)
    assert found is not None

    def decides(tokens):
        return (
            roofline.operations(128, 256, tokens) / roof.peak
            >= roofline.bytes_moved(128, 256, tokens, **stored) / roof.bandwidth - 1e-18
        )

    assert decides(found) and (found == 1 or not decides(found - 1))
    assert (
        roof.seconds(128, 256, found, **stored) == roofline.operations(128, 256, found) / roof.peak
    )


def test_a_ridge_above_what_inputs_and_outputs_allow_is_never_reached():
    most = 2 * 128 * 256 / (4 * (128 + 256))
    assert Roof(1.01 * most, 1.0).tokens_at_ridge(128, 256) is None
    assert roofline.intensity(128, 256, 10**9) < most


def test_the_roof_is_the_lower_of_two_limits():
    roof = Roof(100.0, 10.0)
    assert roof.ridge == 10 and [roof(i) for i in (1, 10, 50)] == [10, 100, 100]


def test_the_best_turn_counts_and_calls_are_divided_out():
    now, cost = (
        [0.0],
        {"a": iter([9e-3, 9e-3, 5e-3, 3e-3, 4e-3]), "b": iter([1e-2, 1e-2, 1e-2, 1e-2, 1e-2])},
    )

    def job(name):
        now[0] += next(cost[name])

    found = timing.best(
        {n: (lambda n=n: job(n)) for n in cost}, turns=3, shortest=2e-3, clock=lambda: now[0]
    )
    assert found == pytest.approx({"a": 3e-3, "b": 1e-2})


def test_short_jobs_are_called_often_enough():
    now, calls = [0.0], [0]

    def job():
        calls[0] += 1
        now[0] += 1e-6

    assert timing.best({"a": job}, turns=2, clock=lambda: now[0])["a"] == pytest.approx(1e-6)
    assert calls[0] >= 2 * 2000


@pytest.mark.parametrize("call", [
    lambda: roofline.operations(0, 4, 1), lambda: roofline.bytes_moved(4, 4, 1, bits=0),
    lambda: roofline.intensity(4, math.nan, 1), lambda: timing.best({}),
    lambda: timing.best({"a": int}, turns=0),
])  # fmt: skip
def test_bad_numbers_are_named(call):
    with pytest.raises(CompressionError, match="give"):
        call()


def test_a_small_roof_and_products_are_measured():
    roof = roofline.measure(numbers=2**12, side=16, turns=1)
    assert roof.peak > 0 and roof.bandwidth > 0
    found = roofline.products(128, (1, 2), memory=2**16, turns=1)
    assert set(found) == set(roofline.STORED) and all(
        t > 0 for times in found.values() for t in times.values()
    )
