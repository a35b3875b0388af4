"""Which method is better than which, on the bundled model.

KL is the mean over positions of KL(original ‖ compressed).

Where a result depends on the calibration texts, it is measured for texts from SEEDS: the order must
hold for each, and the margin, chosen below what the seeds show, too. Training takes too long for
that: `benchmarks/two_bits.py` repeats it.
"""

import pytest
import torch

from course_utils.models import load
from course_utils.models.data import mean_loss, token_windows
from course_utils.models.planting import plant_outliers
from course_utils.quantization import awq, gptq, llm_int8, nf4, qat, rtn, smoothquant, w8a8

SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def bundled():
    return load("bundled")


@pytest.fixture(scope="module")
def windows(bundled):
    return token_windows(bundled[1], "validation", 12, 256, 0).long()


@pytest.fixture(scope="module")
def calibrations(bundled):
    return [token_windows(bundled[1], "train", 16, 256, seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def calibration(calibrations):
    return calibrations[0]


@pytest.fixture(scope="module")
def of_gptq(bundled, calibrations, kl):
    """bits → the KL for each seed."""
    return {
        bits: [kl(gptq.quantize(bundled[0], c, bits=bits)) for c in calibrations]
        for bits in (4, 3, 2)
    }


@pytest.fixture(scope="module")
def planted(bundled):
    return plant_outliers(bundled[0])


@pytest.fixture(scope="module")
def kl(bundled, windows):
    with torch.no_grad():
        goal = bundled[0](input_ids=windows).logits.flatten(0, 1).log_softmax(-1)

    @torch.no_grad()
    def measure(result):
        found = result.model(input_ids=windows).logits.flatten(0, 1).log_softmax(-1)
        return float((goal.exp() * (goal - found)).sum(-1).mean())

    return measure


def test_smoothquant_recovers_what_outliers_cost(bundled, planted, windows, calibration):
    """Per-tensor INT8 activations break on outliers; smoothing and decomposition win back at least
    nine tenths.
    """
    windows = windows[:4]  # the differences are large
    whole = mean_loss(bundled[0], windows)
    assert abs(mean_loss(planted, windows) - whole) < 1e-4
    broken = mean_loss(w8a8.quantize(planted, activations="per_tensor").model, windows) - whole
    assert broken > 0.02
    for observer in (None, "min_max"):
        smooth = smoothquant.quantize(planted, calibration, observer=observer).model
        assert mean_loss(smooth, windows) - whole < 0.1 * broken
    assert mean_loss(llm_int8.quantize(planted).model, windows) - whole < 0.1 * broken
    healthy = mean_loss(w8a8.quantize(bundled[0], activations="per_tensor").model, windows) - whole
    assert healthy < 0.25 * broken


def test_gptq_beats_rounding(bundled, of_gptq, kl):
    for bits, margin in ((4, 0.95), (3, 0.85), (2, 0.6)):
        plain, found = kl(rtn.quantize(bundled[0], bits=bits)), of_gptq[bits]
        assert max(found) < plain and sum(found) / len(found) < margin * plain, (bits, plain, found)


def test_awq_beats_rounding_with_outliers(planted, calibrations, kl):
    plain = kl(rtn.quantize(planted, bits=3))
    for calibration in calibrations:
        assert kl(awq.quantize(planted, calibration, bits=3)) < 0.05 * plain


def test_two_bits_want_training(bundled, of_gptq, kl):
    data = token_windows(bundled[1], "train", 400, 128, 12)
    trained = qat.quantize(bundled[0], data, bits=2, steps=40, learning_rate=5e-4, seed=2)
    assert kl(trained) < min(of_gptq[2])
    assert trained.details["loss"][-1] < 0.75 * trained.details["loss"][0]


def test_nf4_beats_int4_absmax(bundled, kl):
    normal = kl(nf4.quantize(bundled[0], double=False))
    assert normal < 0.8 * kl(rtn.quantize(bundled[0], bits=4, symmetric=True))
    assert normal < 0.9 * kl(nf4.quantize(bundled[0], format="fp4", double=False))
    assert kl(nf4.quantize(bundled[0], double=True)) < 1.15 * normal
