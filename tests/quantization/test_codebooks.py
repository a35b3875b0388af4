import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import codebooks, rtn


def best_costs(x, h, most):
    """For k = 0 … most the least Σ h (x − c)² over all ways to cut sorted values into k intervals,
    by dynamic programming.
    """
    order = np.argsort(x)
    x, h = x[order], h[order]
    mass, moment, square = (np.concatenate([[0], np.cumsum(h * x**power)]) for power in (0, 1, 2))
    # of the values from i up to j
    total, first, second = (s[None, :] - s[:, None] for s in (mass, moment, square))
    cost = np.where(
        np.triu(total, 1) > 0, second - first**2 / np.where(total > 0, total, 1), np.inf
    )
    np.fill_diagonal(cost, 0)
    least = [np.where(np.arange(len(mass)) == 0, 0, np.inf)]
    for _ in range(most):
        least.append((least[-1][:, None] + cost).min(0))
    return [line[-1] for line in least]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["normal", "Laplace", "uniform"])
def test_lloyd_is_a_fixed_point_and_near_the_optimum(kind, weighted):
    """At most 8 % above the exact optimum in the mean over rows, at most 25 % in any row, for 2 to
    128 centroids.
    """
    g = torch.Generator().manual_seed(1)
    values = torch.rand(8, 200, generator=g).double()
    if kind != "uniform":
        values = values.mul(0.9998).add(1e-4)
        values = (
            torch.special.ndtri(values)
            if kind == "normal"
            else (values - 0.5).sign() * -(1 - (2 * values - 1).abs()).log()
        )
    h = torch.rand(8, 200, generator=g).double() if weighted else torch.ones(8, 200).double()
    best = [best_costs(x, weight, 128) for x, weight in zip(values.numpy(), h.numpy(), strict=True)]
    for k in (2, 4, 8, 16, 32, 64, 128):
        centroids, codes = codebooks.lloyd(values, k, h if weighted else None)
        ratios = []
        for r, (x, weight, c, code) in enumerate(
            zip(values.numpy(), h.numpy(), centroids.numpy(), codes.numpy(), strict=True)
        ):
            assert (np.diff(c) >= 0).all()
            distance = np.abs(x[:, None] - c)
            assert (distance[np.arange(200), code] <= distance.min(1) + 1e-12).all()
            for i in range(k):
                if (code == i).any():
                    assert c[i] == pytest.approx(
                        np.average(x[code == i], weights=weight[code == i]), abs=1e-9
                    )
            ratios.append((weight * (x - c[code]) ** 2).sum() / best[r][k])
        assert min(ratios) >= 1 - 1e-9 and max(ratios) < 1.25 and np.mean(ratios) < 1.08, (
            k,
            ratios,
        )


def test_exact_when_there_are_few_values():
    levels = torch.tensor([-1.0, -0.25, 0.5, 2.0])
    weight = levels[torch.randint(4, (5, 30), generator=torch.Generator().manual_seed(0))]
    for granularity in codebooks.GRANULARITIES:
        assert torch.equal(
            codebooks.quantize_layer(weight, bits=2, granularity=granularity).weight, weight
        )


def test_importance_moves_the_centroids():
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    h = torch.ones(256)
    h[:16] = 1e4
    plain = codebooks.quantize_layer(weight, bits=3).weight
    aware = codebooks.quantize_layer(weight, bits=3, importance=h).weight
    assert (weight - aware)[:, :16].norm() < 0.7 * (weight - plain)[:, :16].norm()


def test_k_means_beats_a_uniform_grid_and_row_codebooks_beat_one():
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        weight = torch.randn(16, 512, generator=g) * torch.rand(16, 1, generator=g).add(0.2)
        error = {g: (weight - codebooks.quantize_layer(weight, bits=3,
            granularity=g).weight).square().mean()
                 for g in codebooks.GRANULARITIES}  # fmt: skip
        uniform = (
            (weight - rtn.quantize_layer(weight, bits=3, group_size=-1).weight).square().mean()
        )
        assert (
            error["per_channel"] < 0.7 * uniform
            and error["per_channel"] < 0.95 * error["per_tensor"]
        )


@pytest.mark.parametrize("granularity", codebooks.GRANULARITIES)
@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_model_level(bits, granularity):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ).eval()
    ids = torch.randint(60, (2, 9))
    result = codebooks.quantize(model, bits=bits, granularity=granularity)
    reference = GPT2LMHeadModel(model.config).eval()
    reference.load_state_dict(model.state_dict())
    for name, module in walk.compressible(reference).items():
        found = codebooks.quantize_layer(walk.weight_of(module), bits=bits, granularity=granularity)
        assert len(found.weight.unique()) <= 2**bits * (
            len(found.weight) if granularity == "per_channel" else 1
        )
        module.weight.data = found.weight.T.contiguous()
        layer = result.model.get_submodule(name)
        assert layer.packed.numel() == len(found.codes) * math.ceil(found.codes.shape[1] * bits / 8)
    torch.testing.assert_close(result.model(input_ids=ids).logits, reference(input_ids=ids).logits)


def test_constant_and_huge_weights():
    for weight in (
        torch.zeros(3, 8),
        torch.full((3, 8), 7.25),
        torch.full((3, 8), 1e30),
        torch.ones(1, 1),
    ):
        torch.testing.assert_close(codebooks.quantize_layer(weight, bits=2).weight, weight)


def test_small_weights_are_coded_as_well_as_large_ones():
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    error = (codebooks.quantize_layer(weight, bits=3).weight - weight).norm()
    for factor in (1e-5, 1e-7, 1e-9):
        found = codebooks.quantize_layer(weight * factor, bits=3).weight / factor
        assert (found - weight).norm() < 1.01 * error


def test_errors():
    weight = torch.randn(4, 8)
    for settings, message in (
        ({"bits": 0}, "bits=0"),
        ({"bits": 9}, "bits=9"),
        ({"granularity": "per_group"}, "granularity"),
        ({"importance": torch.ones(7)}, "importance"),
        ({"importance": -torch.ones(8)}, "importance"),
        ({"importance": torch.zeros(8)}, "importance"),
    ):
        with pytest.raises(CompressionError, match=message):
            codebooks.quantize_layer(weight, **settings)
    with pytest.raises(CompressionError, match="NaN"):
        codebooks.quantize_layer(weight * math.nan)
