"""Formats as lists of values: the lists of their own modules, the nearest by trying all, the best
list by trying all cells.
"""

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.quantization import value_tables as tables
from course_utils.theory import rate_distortion

THEIRS = {
    "FP8 E4M3": ml_dtypes.float8_e4m3fn,
    "FP8 E5M2": ml_dtypes.float8_e5m2,
    "FP4 E2M1": ml_dtypes.float4_e2m1fn,
}


@pytest.mark.parametrize("name", tables.NAMES)
def test_the_values_of_a_format(name):
    found = tables.values(name)
    assert (found.diff() > 0).all() and 0.0 in found.tolist()
    if name in THEIRS:
        patterns = (
            np.arange(256 if name.startswith("FP8") else 16)
            .astype(np.uint8)
            .view(THEIRS[name])
            .astype(np.float64)
        )
        np.testing.assert_array_equal(
            found.numpy(), np.unique(patterns[np.isfinite(patterns)] + 0.0)
        )
    if name.startswith("INT"):
        half = 2 ** (int(name[3:]) - 1)
        assert found.tolist() == list(range(-half, half))
    if name.startswith(("posit", "LNS")):
        torch.testing.assert_close(found, -found.flip(0), rtol=0, atol=0)
        assert len(found) == 2 ** int(name[-1]) - 1


@pytest.mark.parametrize("name", tables.NAMES)
def test_rounding_with_the_best_scale_of_those_tried(name):
    """Against every scale of a fine list, within 2 %; octaves come first."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 40, generator=g, dtype=torch.float64)
    x[1] *= 1e3
    x[2, 0] = 60.0
    points, scale = tables.values(name), tables.best_scale(x, tables.values(name))
    found = tables.scaled(x, points)
    for row in range(3):
        s = float(scale[row])
        for j in range(40):
            assert abs(float(found[row, j] - x[row, j])) == pytest.approx(
                min(abs(s * p - float(x[row, j])) for p in points.tolist()), rel=1e-9
            )
        power = 4 * math.log2(s * float(points.abs().max()) / float(x[row].abs().max()))
        assert power == pytest.approx(round(power), abs=1e-9)
        errors = []
        for k in range(-24, 40):
            tried = float(x[row].abs().max() / points.abs().max()) * 2 ** (k / 4)
            errors.append(
                float((tables.nearest(x[row] / tried, points) * tried - x[row]).square().sum())
            )
        assert float((found[row] - x[row]).square().sum()) <= 1.02 * min(errors)


def test_zeros_and_decibels():
    x = torch.zeros(2, 4)
    x[0, 0] = 3.0
    assert torch.equal(
        tables.scaled(x, tables.values("INT8"))[1], torch.zeros(4, dtype=torch.float64)
    )
    # 25 / 0.25
    assert tables.sqnr(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(20.0)
    assert tables.sqnr(torch.ones(3), torch.ones(3)) == math.inf


def brute(x, levels, zero):
    """Every way to cut the sorted numbers into cells, and every cell that may be that of 0."""
    x, best = sorted(x), math.inf
    for cuts in itertools.combinations_with_replacement(range(len(x) + 1), levels - 1):
        cells = [x[a:b] for a, b in itertools.pairwise((0, *cuts, len(x)))]
        costs = [sum((v - sum(c) / len(c)) ** 2 for v in c) if c else 0.0 for c in cells]
        if not zero:
            best = min(best, sum(costs))
            continue
        for i, cell in enumerate(cells):
            best = min(best, sum(costs) - costs[i] + sum(v * v for v in cell))
    return best / len(x)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_the_best_values_against_all_cells(levels, zero):
    for seed in range(4):
        g = torch.Generator().manual_seed(10 * levels + seed)
        x = torch.randn(9, generator=g, dtype=torch.float64) + (2.0 if seed == 3 else 0.0)
        points = tables.best_values(x, levels, zero=zero)
        assert len(points) == levels and (not zero or 0.0 in points.tolist())
        assert tables.mean_error(x, points) == pytest.approx(
            brute(x.tolist(), levels, zero), rel=1e-9, abs=1e-15
        )


def test_the_best_values_of_normal_numbers_are_those_of_lloyd_and_max():
    quantiles = torch.special.ndtri((torch.arange(1500, dtype=torch.float64) + 0.5) / 1500)
    for levels in (4, 8):
        points, error, _ = rate_distortion.lloyd_max(levels)
        found = tables.best_values(quantiles, levels)
        torch.testing.assert_close(found, torch.from_numpy(points), rtol=0.02, atol=0.005)
        assert tables.mean_error(quantiles, found) == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: tables.values("INT5"), "choose one of INT8"),
        (lambda: tables.best_values(torch.ones(3), 4), "at least one for each level"),
        (lambda: tables.best_values(torch.tensor([1.0, math.nan]), 1), "finite"),
        (lambda: tables.sqnr(torch.zeros(3), torch.zeros(3)), "not 0"),
        (lambda: tables.sqnr(torch.ones(3), torch.ones(2)), "one shape"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(CompressionError, match=said):
        call()
