"""Rotations: Hadamard products, folding, heads, the online product in files, learned rotations."""

import itertools

import pytest
import scipy.linalg
import tiny_models
import torch
from transformers import T5Config, T5ForConditionalGeneration

from course_utils import quantization
from course_utils.checkpoints import gguf, onnx
from course_utils.checkpoints import gptq as gptq_file
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import Compressed, cayley, hadamard, rotations, rtn

IDS = torch.randint(3, tiny_models.VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(1))
RIGHT = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "phi3", "falcon", "gpt2", "gpt_neox",
    "gptj", "opt", "cohere", "mixtral", "qwen2_moe", "gpt_oss",
)  # fmt: skip
REFUSED = ("gemma2", "bloom", "olmo", "olmo2")


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def apart(a, b):
    return float((logits(a) - logits(b)).norm() / logits(b).norm())


@pytest.fixture(scope="module")
def llama():
    return tiny_models.stirred("llama", 0.05, layers=2)


# --- Hadamard matrices ---


@pytest.mark.parametrize("k", range(8))
def test_the_fast_product_is_scipys_matrix(k):
    x = torch.randn(3, 5, 2**k, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
    wanted = x @ torch.tensor(scipy.linalg.hadamard(2**k), dtype=torch.float64) / 2 ** (k / 2)
    torch.testing.assert_close(hadamard.transform(x), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(hadamard.transform(x.float()), wanted.float(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("order", [12, 20, 24, 28, 36, 44, 48, 60, 76, 108, 148])
def test_paleys_matrices_have_entries_of_one_size_and_orthogonal_rows(order):
    H = hadamard.paley(order)
    assert H is not None and H.abs().eq(1).all()
    torch.testing.assert_close(
        H @ H.T, order * torch.eye(order, dtype=torch.float64), rtol=0, atol=0
    )


@pytest.mark.parametrize("width", [1, 2, 3, 7, 24, 48, 43 * 4, 160, 192, 896])
def test_every_width_has_an_orthogonal_matrix(width):
    H = hadamard.matrix(width)
    torch.testing.assert_close(H @ H.T, torch.eye(width, dtype=torch.float64), rtol=0, atol=1e-12)
    if width in (1, 2, 24, 48, 160, 192, 896):
        assert float(H.abs().max() - H.abs().min()) < 1e-12
    x = torch.randn(4, width, dtype=torch.float64)
    torch.testing.assert_close(hadamard.transform(x), x @ H.T, rtol=0, atol=1e-12)


def test_half_precision_is_transformed_in_single_and_bad_widths_are_errors():
    x = torch.randn(6, 64).bfloat16()
    torch.testing.assert_close(
        hadamard.transform(x), hadamard.transform(x.double()).bfloat16(), rtol=0.01, atol=0.01
    )
    with pytest.raises(CompressionError, match="width=0"):
        hadamard.block(0)


def test_a_single_outlier_is_spread_evenly_and_seeds_differ():
    x = torch.zeros(64, dtype=torch.float64)
    x[5] = 8
    for seed in (0, 1):
        torch.testing.assert_close(
            (hadamard.randomized(64, seed) @ x).abs(), torch.ones(64, dtype=torch.float64)
        )
    assert not torch.equal(hadamard.randomized(64, 0), hadamard.randomized(64, 1))


# --- the residual stream and the heads ---


@pytest.mark.parametrize("kind", RIGHT)
def test_a_rotated_model_computes_the_same(kind):
    model = tiny_models.stirred(kind, 0.05, layers=2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    tied = model.config.tie_word_embeddings
    rotated = rotations.rotate(model, seed=3)
    assert type(rotated) is type(model) and apart(rotated, model) < 2e-6
    assert (
        all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        and model.config.tie_word_embeddings == tied
    )
    assert rotated.config.tie_word_embeddings is False
    moved = [
        n
        for n, p in rotated.named_parameters()
        if n in before
        and p.dim() > 1
        and (p - before[n]).norm() < 0.3 * p.norm()
        and "router" not in n
    ]
    inner = ("q_norm", "k_norm", "wpe", "gate_up")
    assert all("experts" in n or any(part in n for part in inner) for n in moved), moved


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_rotation_would_change_is_refused_by_name(kind):
    model = tiny_models.stirred(kind, 0.05, layers=2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(
        CompressionError, match=rf"{type(model).__name__} \({model.config.model_type}\)"
    ):
        rotations.rotate(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_bases_of_ones_own_and_bad_ones(llama):
    Q = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)).double()).Q
    assert apart(rotations.rotate(llama, basis=Q, heads=False), llama) < 2e-6
    assert apart(rotations.rotate(llama, basis="random"), llama) < 2e-6
    with pytest.raises(CompressionError, match="orthogonal"):
        rotations.rotate(llama, basis=2 * Q)
    with pytest.raises(CompressionError, match="orthogonal"):
        rotations.rotate(llama, basis=torch.eye(16))
    with pytest.raises(CompressionError, match="choose one of"):
        rotations.rotate(llama, basis="fourier")


def test_the_stream_itself_is_rotated_and_heads_are_only_when_asked(llama):
    Q = hadamard.randomized(32, 5)
    rotated = rotations.rotate(llama, seed=5, heads=False)
    for (_, one), (_, other) in zip(
        walk.through_blocks(llama, IDS), walk.through_blocks(rotated, IDS), strict=True
    ):
        torch.testing.assert_close(
            other[0][0], (one[0][0].double() @ Q.T).float(), rtol=1e-4, atol=1e-5
        )
    q = llama.model.layers[0].self_attn.q_proj.weight * llama.model.layers[0].input_layernorm.weight
    torch.testing.assert_close(
        rotated.model.layers[0].self_attn.q_proj.weight,
        (q.double() @ Q.T).float(),
        rtol=1e-4,
        atol=1e-5,
    )
    R = hadamard.randomized(8, 5)
    v = rotated.model.layers[0].self_attn.v_proj.weight.double().view(2, 8, 32)
    both = (
        rotations.rotate(llama, seed=5)
        .model.layers[0]
        .self_attn.v_proj.weight.double()
        .view(2, 8, 32)
    )
    torch.testing.assert_close(both, R @ v, rtol=1e-4, atol=1e-5)


def test_a_head_that_has_no_values_to_rotate_says_how_to_go_on(monkeypatch, llama):
    monkeypatch.setattr(rotations, "_by_heads", lambda fold, size: False)
    with pytest.raises(CompressionError, match="heads=False"):
        rotations.rotate(llama)


def test_what_is_no_causal_model_of_its_own_numbers_is_refused(llama):
    t5 = T5ForConditionalGeneration(
        T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, vocab_size=96)
    )
    for model, said in (
        (torch.nn.Linear(4, 4), "causal"),
        (t5, "encoder and a decoder"),
        (rtn.quantize(llama, group_size=-1).model, "rotate the model first"),
    ):
        with pytest.raises(CompressionError, match=said):
            rotations.rotate(model)
    broken = tiny_models.stirred("llama", 0.05, layers=1)
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(CompressionError, match="up_proj.*NaN"):
        rotations.rotate(broken)
    half = tiny_models.stirred("llama", 0.05, layers=1).bfloat16()
    assert (
        rotations.rotate(half).dtype == torch.bfloat16
        and apart(rotations.rotate(half), half) < 0.03
    )


# --- quantized, saved, with the online product ---


@pytest.fixture(scope="module")
def online(llama):
    return rotations.rotate(llama, online="down_proj")


def test_the_online_product_changes_nothing_and_its_layer_is_the_one_that_is_quantized(
    llama, online
):
    assert apart(online, llama) < 2e-6
    down = online.model.layers[0].mlp.down_proj
    assert isinstance(down, hadamard.OnlineHadamard) and len(down.block) == 12
    torch.testing.assert_close(
        down.inner.weight,
        hadamard.transform(rotations.rotate(llama).model.layers[0].mlp.down_proj.weight),
        rtol=1e-4,
        atol=1e-6,
    )
    with pytest.raises(CompressionError, match="online: 'nowhere'"):
        rotations.rotate(llama, online="nowhere")


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_a_rotated_model_is_quantized_saved_and_loaded(online, tmp_path, method):
    settings = {"bits": 4, "group_size": -1}
    made = (
        rtn.quantize(online, **settings)
        if method == "rtn"
        else getattr(quantization, method).quantize(online, IDS, **settings)
    )
    down = made.model.model.layers[1].mlp.down_proj
    assert (
        isinstance(down, hadamard.OnlineHadamard) and type(down.inner).__name__ == "QuantizedLinear"
    )
    plain = rtn.quantize(rotations.rotate(online, heads=False), **settings)
    assert (
        made.coverage["reached"] == plain.coverage["reached"]
        and 0.9 < made.coverage["share_of_blocks"] <= 1
    )
    made.save(tmp_path / "a")
    assert torch.equal(logits(quantization.load(tmp_path / "a")), logits(made.model))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_an_unquantized_rotated_model_survives_its_file(tmp_path, kind):
    pattern = {"llama": "down_proj", "gpt2": r"mlp\.c_proj", "opt": "fc2"}[kind]
    model = rotations.rotate(tiny_models.stirred(kind, 0.05, layers=2), online=pattern)
    Compressed(model, {"method": "rotation"}, 0.0).save(tmp_path / "a")
    assert torch.equal(logits(quantization.load(tmp_path / "a")), logits(model))
    plain = rotations.rotate(tiny_models.stirred(kind, 0.05, layers=2))
    plain.save_pretrained(tmp_path / "b")
    again = type(plain).from_pretrained(tmp_path / "b").eval()
    assert torch.equal(logits(again), logits(plain))


def test_files_of_other_tools_refuse_the_product_or_hold_a_matrix_in_its_place(online, tmp_path):
    made = rtn.quantize(online, bits=4, group_size=16)
    with pytest.raises(CompressionError, match="OnlineHadamard"):
        gptq_file.write(made, tmp_path / "a")
    weights, _ = gguf.tensors_of(made.model)["blk.1.ffn_down.weight"]  # dense there: W Hᵀ H
    assert (
        onnx.with_real_weights(made.model).model.layers[1].mlp.down_proj.weight.shape
        == weights.shape
        == (32, 48)
    )
    assert apart(onnx.with_real_weights(made.model), made.model) < 2e-6
    plain = rotations.rotate(online, heads=False, basis=torch.eye(32))
    torch.testing.assert_close(
        plain.model.layers[0].mlp.down_proj.weight,
        online.model.layers[0].mlp.down_proj.weight,
        rtol=1e-4,
        atol=1e-5,
    )


# --- learned rotations ---


def test_a_cayley_step_stays_a_rotation_at_any_size_and_is_expm_for_small_ones():
    g = torch.Generator().manual_seed(0)
    R = torch.linalg.qr(torch.randn(8, 8, generator=g, dtype=torch.float64)).Q
    G = torch.randn(8, 8, generator=g, dtype=torch.float64)
    for rate in (1e-3, 0.1, 1.0, 50.0):
        new = cayley.step(R, G, rate)
        torch.testing.assert_close(
            new @ new.T, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-12
        )
    W = G @ R.T - R @ G.T
    assert (
        torch.linalg.matrix_norm(cayley.step(R, G, 1e-3) - torch.linalg.matrix_exp(-1e-3 * W) @ R)
        < 1e-6
    )
    with pytest.raises(CompressionError, match="orthogonal"):
        cayley.step(2 * R, G, 0.1)
    with pytest.raises(CompressionError, match="NaN"):
        cayley.step(R, G * float("nan"), 0.1)


def test_the_loss_falls_as_the_gradient_says():
    g = torch.Generator().manual_seed(1)
    R, T = (
        torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64)).Q for _ in range(2)
    )
    x = torch.randn(20, 6, generator=g, dtype=torch.float64)

    def loss(R):
        return (x @ R.T - x @ T.T).pow(4).sum()

    at = R.clone().requires_grad_(True)
    (G,) = torch.autograd.grad(loss(at), at)
    numeric = torch.zeros_like(R)
    for i, j in itertools.product(range(6), range(6)):
        d = torch.zeros_like(R)
        d[i, j] = 1e-6
        numeric[i, j] = (loss(R + d) - loss(R - d)) / 2e-6
    torch.testing.assert_close(G, numeric, rtol=1e-6, atol=1e-5)
    rate = 1e-9
    fall = (loss(R) - loss(cayley.step(R, G, rate))) / rate
    assert float(fall) == pytest.approx(
        0.5 * float(cayley.direction(R, G).square().sum()), rel=1e-3
    )
    best, losses = cayley.learn(loss, R, steps=60)
    assert float(loss(best)) == pytest.approx(min(losses)) and min(losses) < 0.5 * losses[0]
    torch.testing.assert_close(best @ best.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-12)


def test_gradients_pass_straight_through_the_rounding():
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    cayley.rounded(x, 4).sum().backward()
    grad = x.grad
    assert grad is not None and torch.isfinite(grad).all() and (grad - 1).abs().max() < 1e-12
    grid = cayley.rounded(x.detach(), 2)
    assert (
        all(len(row.unique()) <= 4 for row in grid)
        and (grid - x.detach()).abs().max() < (x.max() - x.min()) / 2
    )
