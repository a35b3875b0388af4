import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.checkpoints import awq as layout
from course_utils.checkpoints import gptq as gptq_layout
from course_utils.errors import CompressionError
from course_utils.quantization import QuantizedLinear, awq, gptq, rtn

IDS = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))


def tiny(bias=False):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=256, mlp_bias=bias,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def plain_unpack(qweight, qzeros, scales, size):
    """The weight (out, in), nibble by nibble: nibble n of a word is output 8 w + (0 2 4 6 1 3 5
    7)[n].
    """
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    inputs, words = qweight.shape
    weight = torch.empty(words * 8, inputs)
    for i in range(inputs):
        for w in range(words):
            for n, place in enumerate(order):
                q = int(qweight[i, w]) >> (4 * n) & 15
                z = int(qzeros[i // size, w]) >> (4 * n) & 15
                weight[8 * w + place, i] = float(scales[i // size, 8 * w + place]) * (q - z)
    return weight


@pytest.mark.parametrize("symmetric", [False, True])
def test_words_against_a_plain_unpacker(symmetric):
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(0)) + 0.2
    result = rtn.quantize_layer(weight, bits=4, group_size=16, symmetric=symmetric)
    tensors = layout.tensors_of(QuantizedLinear.of(result, None))
    assert (
        tensors["qweight"].shape == (64, 3)
        and tensors["qzeros"].shape == (4, 3)
        and tensors["scales"].shape == (4, 24)
    )
    torch.testing.assert_close(
        plain_unpack(*tensors.values(), 16), result.weight, rtol=1e-6, atol=0
    )


def test_interleaving_is_undone():
    codes = torch.randint(16, (5, 40), dtype=torch.uint8)
    assert torch.equal(layout.deinterleave(layout.interleave(codes)), codes)


@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
def test_written_and_read_again(group_size, tmp_path):
    result = awq.quantize(tiny(bias=True), IDS, group_size=group_size)
    layout.write(result, tmp_path / "model", dtype=torch.float32)
    again = layout.read(tmp_path / "model")
    assert torch.equal(again(input_ids=IDS).logits, result.model(input_ids=IDS).logits)
    config = json.loads((tmp_path / "model" / "config.json").read_text())["quantization_config"]
    assert (
        config["quant_method"] == "awq"
        and config["version"] == "gemm"
        and config["group_size"] == group_size
    )
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert tensors["model.layers.0.mlp.down_proj.qweight"].shape == (256, 16)
    assert "model.layers.0.mlp.down_proj.g_idx" not in tensors


def test_errors(tmp_path):
    with pytest.raises(CompressionError, match="q_proj: layer: the AWQ layout holds 4 bits"):
        layout.write(rtn.quantize(tiny(), bits=3), tmp_path / "a")
    with pytest.raises(CompressionError, match="no act-order"):
        layout.write(gptq.quantize(tiny(), IDS, group_size=32, act_order=True), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    gptq_layout.write(rtn.quantize(tiny()), tmp_path / "g")
    with pytest.raises(CompressionError, match="'gptq', expected 'awq'"):
        layout.read(tmp_path / "g")
    layout.write(rtn.quantize(tiny()), tmp_path / "model")
    content = (tmp_path / "model" / "model.safetensors").read_bytes()
    (tmp_path / "model" / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CompressionError, match="checksum differs"):
        layout.read(tmp_path / "model")
