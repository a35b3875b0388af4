"""TurboQuant against its own formulas by loops, its published bounds, and unbiased products; keys
before the rotary embedding.
"""

import math

import pytest
import torch
from scipy import integrate
from wide_models import small

from course_utils.errors import CompressionError
from course_utils.quantization import kv_cache, rotary, turboquant


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    wide, narrow = small(hidden=64, layers=2), small(hidden=32, layers=2)
    chosen = {"llama": wide, "qwen2": wide, "gpt2": narrow, "opt": narrow}
    return {name: made[name]().eval() for name, made in chosen.items()}


def vectors(n, width, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, width, generator=rng)
        * torch.logspace(-2, 1, width)
        * (0.1 + 10 * torch.rand(n, 1, generator=rng))
    )


@pytest.mark.parametrize("bits", [1, 2, 3, 6])
def test_centroids_are_means_of_their_cells(bits):
    """Lloyd's two conditions, under the density of a coordinate of a random unit vector, integrated
    anew.
    """
    width = 16
    points = turboquant.centroids(bits, width).double()
    edges = [-math.sqrt(width), *((points[1:] + points[:-1]) / 2).tolist(), math.sqrt(width)]

    def moment(k, a, b):
        return integrate.quad(lambda y: y**k * (1 - y * y / width) ** ((width - 3) / 2), a, b)[0]

    for point, a, b in zip(points.tolist(), edges, edges[1:], strict=False):
        assert point == pytest.approx(moment(1, a, b) / moment(0, a, b), abs=1e-5)


def test_the_rotation_is_one():
    R = turboquant.rotation(24, 3).double()
    torch.testing.assert_close(R @ R.T, torch.eye(24, dtype=torch.float64), atol=1e-6, rtol=0)
    assert not torch.equal(turboquant.rotation(24, 4), turboquant.rotation(24, 3))


@pytest.mark.parametrize("bits", [2, 3])
def test_codes_against_a_loop(bits):
    x = vectors(5, 16)
    points, R = turboquant.centroids(bits, 16).double(), turboquant.rotation(16, 1).double()
    found = turboquant.restore(turboquant.compress(x, bits=bits, seed=1))
    for row, got in zip(x.double(), found.double(), strict=True):
        norm = row.norm().half().double()
        y = R @ row / norm * 4
        nearest = torch.stack([points[(points - v).abs().argmin()] for v in y])
        torch.testing.assert_close(got, norm / 4 * (R.T @ nearest), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_error_is_below_the_published_bound(bits):
    """E‖x − x̂‖² ≤ (√3 π/2) 4^−b ‖x‖², and not below 4^−b, for vectors with outliers too."""
    x = vectors(3000, 32)
    x[:, 3] += 50
    errors = torch.stack(
        [
            (turboquant.restore(turboquant.compress(x, bits=bits, seed=s)) - x).square().sum(1)
            / x.square().sum(1)
            for s in range(8)
        ]
    )
    assert 4.0**-bits < float(errors.mean()) < math.sqrt(3) * math.pi / 2 * 4.0**-bits


def test_products_are_unbiased_with_the_sketch_and_too_small_without():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 32, generator=rng)
    y = x + 0.3 * torch.randn(1, 32, generator=rng)  # so that the product is far from 0
    slope = {}
    for unbiased in (False, True):
        found = torch.stack(
            [
                (
                    turboquant.restore(turboquant.compress(x, bits=2, unbiased=unbiased, seed=s))
                    * y
                ).sum()
                for s in range(600)
            ]
        )
        slope[unbiased] = (
            float(found.mean() / (x * y).sum()),
            float(found.std() / 600**0.5 / (x * y).sum().abs()),
        )
    mean, error = slope[True]
    assert abs(mean - 1) < 3.5 * error
    mean, error = slope[False]
    assert mean < 1 - 3.5 * error


def test_bytes_and_batches():
    x = vectors(2 * 3 * 5, 32).view(2, 3, 5, 32)
    packed = turboquant.compress(x, bits=3)
    assert packed.bytes == 30 * (12 + 2) and turboquant.compress(
        x, bits=3, unbiased=True
    ).bytes == 30 * (8 + 2 + 4 + 2)
    torch.testing.assert_close(
        turboquant.restore(packed.take(torch.tensor([1, 1]))), turboquant.restore(packed)[[1, 1]]
    )
    assert not turboquant.restore(turboquant.compress(torch.zeros(2, 8), bits=2)).any()
    large = torch.full((1, 8), 1e5)
    assert torch.isfinite(turboquant.restore(turboquant.compress(large, bits=4))).all()


def test_errors_name_the_remedy():
    for x, settings, said in (
        (torch.randn(2, 4), {"bits": 2}, "at least 8"),
        (torch.randn(2, 8), {"bits": 0}, "choose 1 to 8"),
        (torch.randn(2, 8), {"bits": 1, "unbiased": True}, "one bit for the residual"),
        (torch.full((2, 8), torch.nan), {"bits": 2}, "NaN"),
    ):
        with pytest.raises(CompressionError, match=said):
            turboquant.compress(x, **settings)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_keys_turned_back_are_those_of_the_projection(models, kind):
    model, ids = (
        models[kind],
        torch.randint(60, (2, 11), generator=torch.Generator().manual_seed(0)),
    )
    seen = []
    attention = model.model.layers[0].self_attn
    hook = attention.k_proj.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    with torch.no_grad():
        cache = model(input_ids=ids, use_cache=True).past_key_values
    hook.remove()
    wanted = seen[0].view(2, 11, 2, 16).transpose(1, 2)
    turn = rotary.turner(model)
    keys = cache.layers[0].keys
    torch.testing.assert_close(turn(keys, 0, back=True), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        turn(turn(keys[..., 4:, :], 4, back=True), 4, back=False),
        keys[..., 4:, :],
        atol=1e-5,
        rtol=1e-5,
    )
    assert float((keys - wanted).abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_models_without_a_rotary_embedding_say_so(models, kind):
    with pytest.raises(CompressionError, match="before_rope: the model has 0 rotary"):
        kv_cache.new(models[kind], before_rope=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"before_rope": True},
        {"method": "turboquant"},
        {"first": 5},
        {"first": 5, "before_rope": True},
    ],
)
def test_many_bits_change_little_whatever_the_method(models, settings):
    model, ids = (
        models["llama"],
        torch.randint(60, (3, 40), generator=torch.Generator().manual_seed(2)),
    )
    found, bits = kv_cache.divergences(model, ids, bits=6, chunk=8, group=8, window=0, **settings)
    assert (
        found.shape == (3, 40)
        and float(found[:, :8].abs().max()) < 1e-9
        and 0 < float(found[:, 8:].mean()) < 1e-4
    )
    coarse, _ = kv_cache.divergences(model, ids, bits=2, chunk=8, group=8, window=0, **settings)
    assert float(coarse.mean()) > 10 * float(found.mean()) and 6 < bits < 9.1


def test_gpt2_takes_turboquant_and_generates(models):
    model, ids = (
        models["gpt2"],
        torch.randint(60, (2, 20), generator=torch.Generator().manual_seed(3)),
    )
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cache = kv_cache.new(model, bits=6, group=4, window=0, first=3, method="turboquant")
    found, exact = (
        model.generate(ids, past_key_values=cache, **settings),
        model.generate(ids, **settings),
    )
    assert found.shape == (2, 32) and (found == exact).float().mean() > 0.8
    assert cache.get_seq_length() == 31 and cache.layers[0].kept[0].shape[-2] == 3


def test_first_tokens_stay_exact_and_follow_the_batch():
    layer = kv_cache.QuantizedCacheLayer(bits=2, group=4, window=0, first=3)
    states = torch.randn(2, 2, 2, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer.update(states, states)[0], states), "fewer tokens than are kept"
    more = torch.randn(2, 2, 9, 16, generator=torch.Generator().manual_seed(1))
    layer.update(more, more)
    keys, _ = layer.update(more[:, :, :1], more[:, :, :1])
    whole = torch.cat([states, more, more[:, :, :1]], 2)
    assert keys.shape == whole.shape and layer.get_seq_length() == 12
    assert torch.equal(keys[:, :, :3], whole[:, :, :3]) and not torch.equal(
        keys[:, :, 3:11], whole[:, :, 3:11]
    )
    layer.reorder_cache(torch.tensor([1, 1]))
    assert torch.equal(layer.kept[0], whole[[1, 1], :, :3])
    assert layer.bytes == sum(k.bytes + v.bytes for k, v in layer.old) + 2 * 4 * 2 * 2 * 16 * (
        3 + 1
    )
    layer.reset()
    assert layer.get_seq_length() == 0 and layer.bytes == 0


def test_new_settings_are_checked(models):
    for settings, said in (({"first": -1}, "first=-1"), ({"method": "best"}, "method='best'")):
        with pytest.raises(CompressionError, match=said):
            kv_cache.new(models["llama"], **settings)
    assert math.isnan(kv_cache.new(models["llama"]).packed_bits)
