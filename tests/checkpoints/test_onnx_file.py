from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.checkpoints import onnx as layout
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import nf4, rtn

IDS = torch.randint(64, (3, 11), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def result():
    """Four kinds of layers in one model: the export writes the values that they stand for."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=512, max_position_embeddings=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    result = rtn.quantize(model, bits=8)
    walk.replace(
        result.model,
        "model.layers.0.mlp.up_proj",
        nf4.quantize(model).model.model.layers[0].mlp.up_proj,
    )
    walk.replace(
        result.model, "model.layers.0.self_attn.q_proj", model.model.layers[0].self_attn.q_proj
    )
    outputs = rtn.quantize(model, bits=8, group_size=-1, symmetric=True).model
    walk.replace(
        result.model, "model.layers.0.mlp.gate_proj", outputs.model.layers[0].mlp.gate_proj
    )
    return result


@pytest.fixture(scope="module")
def exported(result, tmp_path_factory):
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert layout.write(result, file) == file.stat().st_size
    return file


def test_same_logits_for_any_batch_and_length(result, exported):
    for ids in (IDS, IDS[:1, :5], torch.cat([IDS, IDS], 1)):
        with torch.no_grad():
            exact = result.model(input_ids=ids).logits
        torch.testing.assert_close(layout.run(exported, ids), exact, rtol=1e-4, atol=1e-5)


def test_dynamic_int8_and_four_bits(result, exported):
    exact = result.model(input_ids=IDS).logits.detach()
    size = exported.stat().st_size
    int8, int4 = exported.with_name("int8.onnx"), exported.with_name("int4.onnx")
    assert layout.quantize_dynamic(exported, int8) < 0.6 * size
    assert layout.quantize_4bit(exported, int4) < 0.6 * size
    error = {
        file: float((layout.run(file, IDS) - exact).norm() / exact.norm()) for file in (int8, int4)
    }
    assert 0 < error[int8] < 0.05 and error[int8] < error[int4] < 0.3


def test_codes_stand_in_the_graph_and_are_read_back(result, exported):
    """One layer has a symmetric scale for each output: its codes go into the file, and ONNX Runtime
    computes with them.
    """
    file = exported.with_name("codes.onnx")
    layer = result.model.model.layers[0].mlp.gate_proj
    assert (
        layout.with_codes(exported, file, result)
        < exported.stat().st_size - 2.9 * layer.weight.numel()
    )
    ((codes, scale),) = layout.codes_in(file)
    assert torch.equal(codes.int() + 128, layer.codes.int()) and torch.equal(
        scale, layer.scale.float().flatten()
    )
    with torch.no_grad():
        torch.testing.assert_close(
            layout.run(file, IDS), result.model(input_ids=IDS).logits, rtol=1e-4, atol=1e-5
        )
    assert layout.codes_in(exported) == []
    with pytest.raises(CompressionError, match="holds no weight of a symmetric layer"):
        layout.with_codes(
            exported,
            file,
            rtn.quantize(
                LlamaForCausalLM(result.model.config), bits=8, group_size=-1, symmetric=True
            ),
        )


def test_errors(tmp_path):
    with pytest.raises(CompressionError, match="expected a compressed Hugging Face model"):
        layout.write(torch.nn.Linear(2, 2), tmp_path / "model.onnx")
    for size in (0, 24, 512):
        with pytest.raises(CompressionError, match=f"block_size={size}: choose one of 16"):
            layout.quantize_4bit(tmp_path / "model.onnx", tmp_path / "a.onnx", block_size=size)


def test_weights_beside_the_file_are_counted_and_go_with_it(tmp_path, monkeypatch):
    """Above 1.5 GB the exporter puts weights into FILE.data, asked or not; the limit is lowered
    here.
    """
    from torch.onnx._internal.exporter import _onnx_program

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=512, max_position_embeddings=64,
    )).eval()  # fmt: skip
    file, beside = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 1000)
    written = layout.write(model, file)
    assert beside.is_file() and written == file.stat().st_size + beside.stat().st_size > 2 * sum(
        p.numel() for p in model.parameters()
    )
    torch.testing.assert_close(
        layout.run(file, IDS), model(input_ids=IDS).logits.detach(), rtol=1e-4, atol=1e-5
    )
    small = SimpleNamespace(save=lambda place, external_data: place.write_bytes(b"small"))
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: small)
    assert layout.write(model, file) == 5 and not beside.exists(), "of the larger one nothing stays"
