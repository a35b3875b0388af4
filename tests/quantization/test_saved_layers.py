import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from course_utils.errors import CompressionError
from course_utils.quantization import (
    QuantizedLinear,
    additive,
    codebooks,
    compressed,
    e8,
    extreme,
    hqq,
    llm_int8,
    load,
    microscaling,
    nf4,
    qat,
    rtn,
    trellis,
    w8a8,
)

IDS = torch.randint(60, (4, 12), generator=torch.Generator().manual_seed(0))
METHODS = {
    "rtn": lambda m: rtn.quantize(m, bits=3, group_size=16),
    "nf4": lambda m: nf4.quantize(m, block_size=32),
    "fp4, single": lambda m: nf4.quantize(m, format="fp4", block_size=64, double=False),
    "int8 blocks": lambda m: nf4.quantize(m, format="int8"),
    "k-means": lambda m: codebooks.quantize(m, bits=3),
    "one codebook": lambda m: codebooks.quantize(m, bits=5, granularity="per_tensor"),
    "binary": lambda m: extreme.quantize(m, kind="binary"),
    "ternary": lambda m: extreme.quantize(m),
    "w8a8 dynamic": lambda m: w8a8.quantize(m),
    "w8a8 static": lambda m: w8a8.quantize(
        m, IDS, observer="mse", activations="per_tensor", symmetric=False
    ),
    "hqq": lambda m: hqq.quantize(m, bits=3, group_size=16),
    "mxfp4": lambda m: microscaling.quantize(m),
    "mxint8": lambda m: microscaling.quantize(m, scheme="MXINT8"),
    "nvfp4": lambda m: microscaling.quantize(m, scheme="NVFP4", four_over_six=True),
    "llm.int8": lambda m: llm_int8.quantize(m, threshold=3.0),
    "e8": lambda m: e8.quantize(m),
    "e8, mixed": lambda m: e8.quantize(m, rotation=2, group_size=16),
    "trellis": lambda m: trellis.quantize(m, state_bits=6),
    "computed trellis": lambda m: trellis.quantize(m, state_bits=6, values="1mad", rotation=2),
    "additive": lambda m: additive.quantize(m, entries=16, rounds=1),
    "additive, each its own": lambda m: additive.quantize(
        m, entries=8, rounds=0, shared=False, rotation=2
    ),
    "qat": lambda m: qat.quantize(m, IDS, steps=2, batch=2, group_size=16),
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, mlp_bias=True, tie_word_embeddings=True,
    )),
    "gpt2": lambda:
        GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_a_saved_model_is_the_same_model(method, kind, tmp_path):
    torch.manual_seed(0)
    result = METHODS[method](MODELS[kind]().eval())
    result.save(tmp_path / "model")
    again = load(tmp_path / "model")
    state = again.state_dict()
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype, name
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, result.model(input_ids=IDS).logits)


def test_fewer_bits_are_fewer_bytes():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=512,
    )
    model = LlamaForCausalLM(config).eval()
    weights = sum(p.numel() for p in model.model.layers.parameters())
    sizes = {
        name: METHODS[name](model).bytes_on_disk
        for name in ("w8a8 dynamic", "int8 blocks", "nf4", "k-means", "binary")
    }
    for name, low, high in (
        ("w8a8 dynamic", 8, 9.2),
        ("int8 blocks", 8, 9.2),
        ("nf4", 4.2, 5.2),
        ("k-means", 3, 5),
        ("binary", 1, 2.3),
    ):
        assert low <= sizes[name] * 8 / weights <= high, (name, sizes[name] * 8 / weights)


def codes_stored(folder):
    """Bytes of the codes of all layers in a saved model, and under which names they lie."""
    held = load_file(folder / "weights.safetensors")
    names = {name for name in held if ".packed" in name}
    return sum(held[name].nbytes for name in names), {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize("kind", MODELS)
def test_ternary_codes_are_stored_five_in_a_byte(kind, tmp_path):
    torch.manual_seed(0)
    result = extreme.quantize(MODELS[kind]().eval(), group_size=16)
    layers = [layer for layer in result.model.modules() if isinstance(layer, QuantizedLinear)]
    result.save(tmp_path / "model")
    found, names = codes_stored(tmp_path / "model")
    assert names == {"packed_ternary"} and found == sum(
        layer.out_features * -(-layer.in_features // 5) for layer in layers
    )
    state = load(tmp_path / "model").state_dict()
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype, name


def test_other_two_bits_and_single_layers_with_a_fourth_code_stay(tmp_path):
    torch.manual_seed(0)
    model = MODELS["llama"]().eval()
    for result in (
        rtn.quantize(model, bits=2, group_size=16),
        rtn.quantize(model, bits=2, group_size=16, symmetric=True),
    ):
        result.save(tmp_path / "model")
        assert codes_stored(tmp_path / "model")[1] == {"packed"}
    result = extreme.quantize(model)
    first = next(layer for layer in result.model.modules() if isinstance(layer, QuantizedLinear))
    first.packed[0, 0] &= 0b11111100  # −2 s
    result.save(tmp_path / "model")
    assert codes_stored(tmp_path / "model")[1] == {"packed", "packed_ternary"}
    again = load(tmp_path / "model").state_dict()
    assert all(
        torch.equal(again[name], tensor) for name, tensor in result.model.state_dict().items()
    )


def test_unknown_kinds_are_named(tmp_path, monkeypatch):
    torch.manual_seed(0)
    METHODS["nf4"](MODELS["llama"]()).save(tmp_path / "model")
    monkeypatch.delitem(compressed.KINDS, "BlockwiseLinear")
    with pytest.raises(CompressionError, match="BlockwiseLinear.*QuantizedLinear"):
        load(tmp_path / "model")
