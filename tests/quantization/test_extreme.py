import itertools
import math

import pytest
import torch
from torch import nn

from course_utils.errors import CompressionError
from course_utils.quantization import extreme


def test_binary_is_the_least_squares_answer():
    """For one row, every sign pattern with its own best scale: none is better."""
    for seed in range(3):
        w = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed)).double()
        found = extreme.binary_layer(w).weight
        best = math.inf
        for signs in itertools.product((-1.0, 1.0), repeat=8):
            b = torch.tensor(signs).double()
            alpha = max(0.0, float((w @ b) / 8))
            best = min(best, float((w - alpha * b).square().sum()))
        # the scale is kept in float16
        assert float((w - found).square().sum()) == pytest.approx(best, rel=1e-5)
        assert set(found.sign().flatten().tolist()) <= {-1.0, 1.0}


def test_optimal_ternary_is_the_least_squares_answer():
    """For one row, every ternary pattern with its own best scale: none is better."""
    for seed in range(3):
        w = torch.randn(1, 7, generator=torch.Generator().manual_seed(seed)).double()
        found = extreme.ternary_layer(w, rule="optimal").weight
        best = float(w.square().sum())
        for pattern in itertools.product((-1.0, 0.0, 1.0), repeat=7):
            t = torch.tensor(pattern).double()
            if t.any():
                alpha = float((w @ t) / (t @ t))
                best = min(best, float((w - alpha * t).square().sum()))
        assert float((w - found).square().sum()) == pytest.approx(best, rel=1e-5)


def test_rules_against_loops():
    w = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    for rule in ("twn", "absmean"):
        found = extreme.ternary_layer(w, rule=rule, group_size=32)
        for row in range(3):
            for group in range(2):
                values = w[row, group * 32 : group * 32 + 32].tolist()
                mean = sum(map(abs, values)) / 32
                kept = [abs(v) for v in values if abs(v) > 0.7 * mean]
                scale = sum(kept) / len(kept) if rule == "twn" else mean
                for i, v in enumerate(values):
                    if rule == "twn":
                        t = 0 if abs(v) <= 0.7 * mean else math.copysign(1, v)
                    else:
                        t = max(-1, min(1, round(v / mean)))
                    assert float(found.weight[row, group * 32 + i]) == pytest.approx(
                        scale * t, rel=1e-3, abs=1e-9
                    )


def test_order_of_the_rules():
    for seed in range(5):
        w = torch.randn(32, 256, generator=torch.Generator().manual_seed(seed))
        error = {
            r: float((w - extreme.ternary_layer(w, rule=r).weight).square().mean())
            for r in extreme.RULES
        }
        binary = float((w - extreme.binary_layer(w).weight).square().mean())
        assert error["optimal"] <= error["twn"] * (1 + 1e-6) < error["absmean"] < binary
        # E(|w| − E|w|)² of a standard normal
        assert binary == pytest.approx(1 - 2 / math.pi, rel=0.05)


@pytest.mark.parametrize(("kind", "bits"), [("binary", 1), ("ternary", 2)])
def test_model_level(kind, bits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8, bias=False))
    x = torch.randn(5, 64)
    result = extreme.quantize(model, kind=kind)
    layers = extreme.binary_layer if kind == "binary" else extreme.ternary_layer
    first, second = layers(model[0].weight).weight, layers(model[2].weight).weight
    torch.testing.assert_close(
        result.model(x), ((x @ first.T + model[0].bias).relu() @ second.T), rtol=1e-5, atol=1e-6
    )
    assert result.model[0].packed.numel() == 64 * 32 * bits // 8


def test_zero_rows_and_errors():
    weight = torch.zeros(2, 8)
    weight[1] = 3
    for found in (
        extreme.binary_layer(weight).weight,
        *(extreme.ternary_layer(weight, rule=r).weight for r in extreme.RULES),
    ):
        assert torch.equal(found, weight)
    with pytest.raises(CompressionError, match="rule="):
        extreme.ternary_layer(weight, rule="best")
    with pytest.raises(CompressionError, match="group_size=3"):
        extreme.ternary_layer(weight, group_size=3)
    with pytest.raises(CompressionError, match="kind="):
        extreme.quantize(nn.Linear(2, 2), kind="unary")
    with pytest.raises(CompressionError, match="NaN"):
        extreme.binary_layer(weight * math.nan)
