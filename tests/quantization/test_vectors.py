"""Block LDLQ against its slow form, mixing, scales, and models of codes: settings, calibration,
bytes.
"""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import additive, e8, trellis, vectors
from course_utils.quantization.hessians import damped, layer_error

IDS = torch.randint(60, (8, 32), generator=torch.Generator().manual_seed(0))
METHODS = {
    "e8": e8.quantize,
    "trellis": lambda m, *a, **k: trellis.quantize(m, *a, state_bits=6, **k),
    "additive": lambda m, *a, **k: additive.quantize(m, *a, entries=16, rounds=1, **k),
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
    )
    return LlamaForCausalLM(config).eval()


def by_optimum(weight, H, width, encode):
    """After each group the rest moves to the minimum of the damped error,
    found by solving for it.
    """
    W, H = weight.double().clone(), damped(H.double(), 0.01)
    result = torch.zeros_like(W)
    for first in range(0, W.shape[1], width):
        last = first + width
        result[:, first:last] = encode(W[:, first:last].float(), first).double()
        error = W[:, first:last] - result[:, first:last]
        if last < W.shape[1]:
            W[:, last:] += error @ H[first:last, last:] @ torch.linalg.inv(H[last:, last:])
    return result.float()


def test_the_walk_moves_the_rest_to_its_minimum():
    weight, x = draw(5, 24), draw(100, 24, seed=1) @ draw(24, 24, seed=2)
    H = 2 * x.T @ x / 100

    def encode(block, first):
        return torch.round(block)

    walked = vectors.walk_groups(weight, H, 8, encode)
    torch.testing.assert_close(walked, by_optimum(weight, H, 8, encode), rtol=0, atol=1e-4)
    assert layer_error(weight, walked, H) < layer_error(weight, torch.round(weight), H)


def test_mixing_is_a_rotation_without_bytes():
    for shape in ((16, 32), (12, 24), (5, 7)):  # powers of two, blocks of 4 and 8, blocks of 1
        weight = draw(*shape)
        mixed = vectors.mixed_weight(weight, 3)
        assert mixed.norm() == pytest.approx(float(weight.norm()), rel=1e-5)
        back = vectors.unmixed(vectors.unmixed(mixed.T, 4).T, 3)
        torch.testing.assert_close(back, weight, rtol=1e-5, atol=1e-5)
    loud = torch.zeros(16, 16)
    loud[3, 5] = 16.0
    (
        torch.testing.assert_close(vectors.mixed_weight(loud, 0).abs(), torch.ones(16, 16)),
        "one number is spread over all",
    )


@pytest.mark.parametrize("with_h", [False, True])
def test_scales_are_the_best_ones(with_h):
    weight, values, x = draw(4, 16), draw(4, 16, seed=1) + draw(4, 16), draw(50, 16, seed=2)
    H = x.T @ x if with_h else torch.eye(16)
    fitted = vectors.refitted(weight, values, torch.ones(4, 1), H if with_h else None)
    for change in (0.99, 1.01):
        assert layer_error(weight, values * fitted, H) < layer_error(
            weight, values * fitted * change, H
        )


@pytest.mark.parametrize("method", METHODS)
def test_calibration_lowers_the_layers_error(method, model):
    plain, walked = METHODS[method](model, rotation=1), METHODS[method](model, IDS, rotation=1)
    assert set(walked.details["layer_error"]) == set(walk.compressible(model)) and walked.settings[
        "calibration"
    ] == [8, 32]
    name = "model.layers.0.self_attn.q_proj"  # its inputs are the original's in both
    seen = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _, args: seen.append(args[0].reshape(-1, 32))
    )
    with torch.no_grad():
        model(input_ids=IDS)
    handle.remove()
    H = 2 * seen[0].T @ seen[0] / len(seen[0])
    weight = model.get_submodule(name).weight
    assert walked.details["layer_error"][name] < layer_error(
        weight, plain.model.get_submodule(name).weight, H
    )


@pytest.mark.parametrize("method", METHODS)
def test_settings_of_single_layers(method, model):
    made = METHODS[method](model, ignore="down_proj", per_layer={"q_proj": {"group_size": 8}})
    first = made.model.model.layers[0]
    assert first.self_attn.q_proj.scale.shape == (32, 4) and first.self_attn.k_proj.scale.shape == (
        16,
        1,
    )
    assert isinstance(first.mlp.down_proj, torch.nn.Linear) and not isinstance(
        first.mlp.down_proj, vectors.ScaledCodes
    )
    held = {
        b.data_ptr(): b.nbytes
        for m in made.model.modules()
        if isinstance(m, vectors.ScaledCodes)
        for b in m.buffers()
    }
    count = sum(
        m.weight.numel() for n, m in walk.compressible(model).items() if "down_proj" not in n
    )
    assert made.details["bits_per_weight"] == pytest.approx(8 * sum(held.values()) / count)
    with pytest.raises(CompressionError, match="per_layer"):
        METHODS[method](model, per_layer={"q_proj": {"nonsense": 1}})
    with pytest.raises(CompressionError, match="rotation=-1"):
        METHODS[method](model, rotation=-1)


def test_codebooks_are_in_the_file_once(model):
    shared, own = (
        additive.quantize(model, entries=8, rounds=0, shared=shared) for shared in (True, False)
    )
    layers = len(walk.compressible(model))
    assert own.bytes_on_disk - shared.bytes_on_disk >= (layers - 1) * 2 * 8 * 8 * 2
    with pytest.raises(CompressionError, match="shared=False"):
        additive.quantize(model, per_layer={"q_proj": {"entries": 4}})


def test_gpt2s_layers_and_odd_inputs():
    torch.manual_seed(0)
    small = GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=20, n_layer=1, n_head=2, n_positions=64)
    ).eval()
    for method in METHODS.values():
        made = method(small, IDS[:, :8], rotation=0).model
        assert torch.isfinite(made(input_ids=IDS).logits).all()
        original = walk.weight_of(small.transformer.h[0].attn.c_attn)
        assert (
            made.transformer.h[0].attn.c_attn.weight - original
        ).square().mean() < 0.5 * original.square().mean()
    small.transformer.h[0].mlp.c_fc.weight.data[0, 0] = torch.nan
    with pytest.raises(CompressionError, match="c_fc"):
        e8.quantize(small)


def test_zero_rows_stay_zero():
    weight = draw(4, 16)
    weight[1] = 0
    for layer in (e8.quantize_layer(weight), trellis.quantize_layer(weight, state_bits=4)):
        values = layer.weight
        assert torch.isfinite(values).all() and values[1].abs().max() <= 2 * float(
            layer.scale[1].max()
        )
