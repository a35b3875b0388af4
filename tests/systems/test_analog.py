"""Inexact hardware: ranges, the size of the noise, converters and light against closed forms;
energy against the table's own sums.
"""

import math

import pytest
import torch

from course_utils import models
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.systems import analog, energy


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_ranges():
    weight = torch.tensor([[1.0, -3.0], [0.5, 0.25]])
    assert analog.ranges(weight, "column").flatten().tolist() == [3.0, 0.5]
    assert analog.ranges(weight, "array").flatten().tolist() == [3.0, 3.0]


@pytest.mark.parametrize("kind", analog.RANGES)
def test_programming_errs_by_a_share_of_the_range(kind):
    weight = torch.stack([torch.full((20000,), 0.01), torch.full((20000,), 4.0)])
    weight[0, 0] = 0.1
    error = analog.program(weight, 0.05, kind, rng()) - weight
    wanted = 0.05 * analog.ranges(weight, kind).flatten()
    assert (
        torch.allclose(error.std(1), wanted, rtol=0.03)
        and (error.mean(1).abs() < 4 * wanted / math.sqrt(20000)).all()
    )


def test_a_converter_rounds_to_even_steps_and_cuts_off():
    grid = torch.linspace(-2, 2, 16, dtype=torch.float64)
    x = torch.linspace(-3, 3, 401, dtype=torch.float64)
    wanted = grid[(x[:, None] - grid).abs().argmin(1)]
    found = analog.convert(x, 4, 2.0)
    tie = ((x[:, None] - grid).abs().sort(1).values.diff(dim=1)[:, 0] < 1e-9) & (x.abs() < 2)
    assert torch.allclose(found[~tie], wanted[~tie], atol=1e-12)


def test_an_ideal_converter_gives_the_product_whatever_the_tiles():
    x, weight = torch.randn(5, 130, generator=rng()), torch.randn(7, 130, generator=rng(1))
    for tile in (1, 64, 130, 500):
        assert torch.allclose(
            analog.crossbar(x, weight, tile=tile, bits=None), x @ weight.T, atol=1e-4
        )


def test_more_bits_of_the_converter_leave_a_sixteenth_of_the_error_for_two_bits():
    x, weight = torch.randn(64, 128, generator=rng()), torch.randn(64, 128, generator=rng(1))
    errors = [
        float((analog.crossbar(x, weight, bits=b, reach=6.0) - x @ weight.T).square().mean())
        for b in (6, 8)
    ]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.15)


def test_shot_noise_is_one_over_the_root_of_the_photons():
    x, weight = (
        torch.randn(1, 256, generator=rng()).expand(4000, 256),
        torch.randn(3, 256, generator=rng(1)),
    )
    for photons in (10, 1000):
        error = analog.optical(x, weight, photons=photons, rng=rng(2)) - x @ weight.T
        wanted = x[0].abs().max() * weight.abs().amax(1) * math.sqrt(256 / photons)
        assert torch.allclose(error.std(0), wanted, rtol=0.06)


def test_on_device_changes_a_copy_and_an_exact_device_changes_nothing():
    model, _ = models.load("bundled")
    before = {n: walk.weight_of(m).clone() for n, m in walk.compressible(model).items()}
    ids = torch.randint(64, (1, 8), generator=rng())
    with torch.no_grad():
        want = model(input_ids=ids).logits
        same = analog.on_device(
            model, program_with=lambda w: w.clone(), multiply_with=lambda x, w: x @ w.T
        )(input_ids=ids).logits
        noisy = analog.on_device(model, program_with=lambda w: analog.program(w, 0.1, rng=rng()))(
            input_ids=ids
        ).logits
    assert torch.allclose(want, same, atol=1e-4) and not torch.allclose(want, noisy, atol=1e-2)
    assert all(
        torch.equal(before[n], walk.weight_of(m)) for n, m in walk.compressible(model).items()
    )


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda: analog.ranges(torch.ones(2, 2), "row"), "kind"),
        (lambda: analog.ranges(torch.full((1, 1), math.nan)), "weight"),
        (lambda: analog.program(torch.ones(1, 1), -1), "noise"),
        (lambda: analog.convert(torch.ones(1), 0, 1.0), "bits"),
        (lambda: analog.crossbar(torch.ones(1, 3), torch.ones(1, 4)), "x"),
        (lambda: analog.optical(torch.ones(1, 1), torch.ones(1, 1), photons=0), "photons"),
        (lambda: energy.multiply_add("INT3"), "number"),
        (lambda: energy.read(8, "disk"), "memory"),
        (lambda: energy.read(-1), "bits"),
        (lambda: energy.per_token(1, bits=4, number="FP16", batch=0), "batch"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(CompressionError, match=says):
        call()


def test_energy_is_the_tables():
    """Horowitz (2014): FP32 multiplication 3.7 and addition .9 pJ; INT8 .2, its sums in INT32 .1;
    DRAM 640 and SRAM 5 for 32 bits.
    """
    assert energy.multiply_add("FP32") == pytest.approx(4.6) and energy.multiply_add(
        "INT8"
    ) == pytest.approx(0.3)
    assert energy.read(32) == 640 and energy.read(8, "SRAM") == pytest.approx(1.25)
    parts = energy.per_token(1000, bits=4.25, number="FP16", batch=8, share=0.5, kept_bits=64)
    assert parts["weights"] == pytest.approx(500 * 4.25 / 32 * 640 / 8)
    assert parts["cache"] == pytest.approx(1280) and parts["arithmetic"] == pytest.approx(
        500 * (1.1 + 0.4 + 5 * 4.25 / 32)
    )
    assert energy.total(parts) == pytest.approx(sum(parts.values()))
