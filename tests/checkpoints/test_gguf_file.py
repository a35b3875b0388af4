import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from course_utils.checkpoints import gguf as layout
from course_utils.checkpoints import kquants
from course_utils.errors import CompressionError
from course_utils.models import load
from course_utils.quantization import rtn

KINDS = {
    "Q8_0": (1 / 127, 8.5),
    "Q4_0": (1 / 8, 4.5),
    "Q4_K": (1 / 15, 4.5),
    "Q6_K": (1 / 32, 6.5625),
}
CONFIG = {
    "vocab_size": 64, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 512, "max_position_embeddings": 64,
}  # fmt: skip
IDS = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))


def weights(seed=0, rows=6, columns=512):
    g = np.random.default_rng(seed)
    return (
        g.standard_normal((rows, columns))
        * np.exp(g.standard_normal((rows, columns // 16)).repeat(16, 1))
    ).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_through_the_gguf_package(kind):
    """The package's own reader gives back values within a step of the block, in the promised number
    of bits.
    """
    x = weights()
    data = layout.quantize(x, kind)
    found = dequantize(data, gguf.GGMLQuantizationType[kind])
    step, bits = KINDS[kind]
    assert data.dtype == np.uint8 and data.size * 8 / x.size == bits
    width = {"Q4_K": 32, "Q6_K": 16}.get(kind, 32)
    blocks, error = x.reshape(-1, width), np.abs(x - found).reshape(-1, width)
    reach = (
        blocks.max(1, initial=0) - blocks.min(1, initial=0)
        if kind == "Q4_K"
        else np.abs(blocks).max(1)
    )
    large = np.abs(x).reshape(-1, 256).max(1).repeat(256 // width) if "K" in kind else reach
    # half a step of the sub-block, a clipped step for the signed codes, and the rounding of the
    # scales to 6 or 8 bits
    assert (
        error.max(1) <= reach * step * 1.05 + large * {"Q4_K": 0.035, "Q6_K": 0.01}.get(kind, 0)
    ).all()
    assert np.sqrt((error**2).mean()) < 0.5 * step * np.sqrt((reach**2).mean())


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_k_quants_against_a_slow_reading_of_the_bytes(kind):
    x = weights(1, rows=1, columns=256)
    block = (kquants.q4_k if kind == "Q4_K" else kquants.q6_k)(x)[0]
    found = np.empty(256, np.float64)
    half = lambda b: float(np.frombuffer(bytes(b), np.float16)[0])  # noqa: E731
    if kind == "Q4_K":
        d, dmin, s, codes = (
            half(block[:2]),
            half(block[2:4]),
            [int(b) for b in block[4:16]],
            block[16:],
        )
        for i in range(256):
            j = i // 32
            if j < 4:
                sc, m = s[j] & 63, s[j + 4] & 63
            else:
                sc, m = s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4
            q = int(codes[j // 2 * 32 + i % 32]) >> (4 * (j % 2)) & 15
            found[i] = d * sc * q - dmin * m
    else:
        low, high, scales, d = (
            block[:128],
            block[128:192],
            block[192:208].view(np.int8),
            half(block[208:]),
        )
        for i in range(256):
            part, r = i // 128, i % 128
            nibble = int(low[part * 64 + r % 64]) >> (4 * (r // 64)) & 15
            top = int(high[part * 32 + r % 32]) >> (2 * (r // 32)) & 3
            found[i] = d * int(scales[i // 16]) * ((nibble | top << 4) - 32)
    assert np.allclose(
        dequantize(block[None], gguf.GGMLQuantizationType[kind])[0], found, rtol=1e-6
    )
    assert np.sqrt(((found - x[0]) ** 2).mean()) < 0.05 * np.abs(x).max()


def test_more_bits_are_closer_and_zeros_stay():
    x = weights(2)
    error = {
        k: np.square(dequantize(layout.quantize(x, k), gguf.GGMLQuantizationType[k]) - x).mean()
        for k in KINDS
    }
    assert error["Q8_0"] < 0.2 * error["Q6_K"] < 0.2 * error["Q4_K"] < 0.2 * error["Q4_0"] * 1.1
    for kind in KINDS:
        zeros = np.zeros((2, 256), np.float32)
        assert not dequantize(layout.quantize(zeros, kind), gguf.GGMLQuantizationType[kind]).any()


def tiny(kind):
    torch.manual_seed(0)
    if kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**CONFIG, tie_word_embeddings=False))
    else:
        model = LlamaForCausalLM(LlamaConfig(**CONFIG, tie_word_embeddings=kind == "tied llama"))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return model.eval()


@pytest.mark.parametrize("kind", ["llama", "tied llama", "qwen2"])
@pytest.mark.parametrize("type_name", layout.TYPES)
def test_transformers_reads_the_same_function(kind, type_name, tmp_path):
    model = tiny(kind)
    size = layout.write(model, tmp_path / "model.gguf", type_name=type_name)
    said = gguf.GGUFReader(tmp_path / "model.gguf").fields["general.file_type"].contents()
    assert gguf.LlamaFileType(said).name.startswith(
        ("ALL_" if type_name == "F32" else "MOSTLY_") + type_name
    )
    assert size == (tmp_path / "model.gguf").stat().st_size and not list(tmp_path.glob(".*"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf").eval()
    with torch.no_grad():
        exact, found = model(input_ids=IDS).logits, theirs(input_ids=IDS).logits
    limit = {"F32": 1e-5, "F16": 2e-3, "Q8_0": 0.02, "Q6_K": 0.08, "Q4_K": 0.3, "Q4_0": 0.3}[
        type_name
    ]
    assert (found - exact).norm() < limit * exact.norm()
    assert torch.equal(layout.read(tmp_path / "model.gguf")(input_ids=IDS).logits, found)


def test_the_bundled_model_with_its_tokenizer(tmp_path):
    model, tokenizer = load("bundled")
    ids = tokenizer("Mara has 12 plums. She", return_tensors="pt")["input_ids"]
    sizes = {}
    for type_name, limit in (("Q8_0", 0.02), ("Q4_K", 0.2)):
        sizes[type_name] = layout.write(
            model, tmp_path / f"{type_name}.gguf", tokenizer, type_name=type_name
        )
        found = layout.read(tmp_path / f"{type_name}.gguf")(input_ids=ids).logits
        exact = model(input_ids=ids).logits
        assert (found - exact).norm() < limit * exact.norm()
    assert sizes["Q4_K"] < 0.7 * sizes["Q8_0"]
    reader = gguf.GGUFReader(tmp_path / "Q8_0.gguf")
    tokens = reader.fields["tokenizer.ggml.tokens"]
    assert [
        bytes(tokens.parts[i]).decode() for i in tokens.data[:3]
    ] == tokenizer.convert_ids_to_tokens([0, 1, 2])
    layout.write(rtn.quantize(model, bits=4), tmp_path / "rounded.gguf", type_name="F16")
    found = layout.read(tmp_path / "rounded.gguf")(input_ids=ids).logits
    exact = rtn.quantize(model, bits=4).model(input_ids=ids).logits
    assert (found - exact).norm() < 5e-3 * exact.norm()


def test_errors(tmp_path):
    with pytest.raises(CompressionError, match="type_name='Q3_K'.*Q4_K"):
        layout.write(tiny("llama"), tmp_path / "a.gguf", type_name="Q3_K")
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=256, n_layer=1, n_head=4))
    with pytest.raises(CompressionError, match="'gpt2' is not written; supported are llama, qwen2"):
        layout.write(gpt2, tmp_path / "a.gguf")
    narrow = LlamaForCausalLM(LlamaConfig(**{**CONFIG, "hidden_size": 64}))
    with pytest.raises(CompressionError, match="64 inputs are no multiple of 256"):
        layout.write(narrow, tmp_path / "a.gguf", type_name="Q4_K")
    assert not list(tmp_path.iterdir())
    layout.write(tiny("llama"), tmp_path / "a.gguf")
    content = (tmp_path / "a.gguf").read_bytes()
    for damaged in (content[:-100_000], b"GGML" + content[4:], b""):
        (tmp_path / "a.gguf").write_bytes(damaged)
        with pytest.raises(CompressionError, match="checksum differs|not readable as GGUF"):
            layout.read(tmp_path / "a.gguf")
    with pytest.raises(CompressionError, match="no such file"):
        layout.read(tmp_path / "b.gguf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
            "rotary scaling 'linear'",
        ),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"attention_bias": True}, "biases"),
        ({"mlp_bias": True}, "biases"),
    ],
)
def test_what_the_file_would_not_say_is_refused(change, message, tmp_path):
    """Read again, such models would compute something else."""
    with pytest.raises(CompressionError, match=f"{message} cannot be written.*supported are"):
        layout.write(LlamaForCausalLM(LlamaConfig(**{**CONFIG, **change})), tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [("rope_freqs.weight", (4,), "rope_freqs"), ("blk.0.attn_q.bias", (256,), "biases")],
)
def test_what_transformers_would_pass_over_is_refused(name, shape, message, tmp_path, monkeypatch):
    tensors = {**layout.tensors_of(tiny("llama")), name: (torch.ones(shape), False)}
    monkeypatch.setattr(layout, "tensors_of", lambda model: tensors)
    layout.write(tiny("llama"), tmp_path / "a.gguf", type_name="F32")
    with pytest.raises(CompressionError, match=message):
        layout.read(tmp_path / "a.gguf")
