import json

import bitsandbytes as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from wide_models import tiny

from course_utils.checkpoints import bitsandbytes as layout
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import llm_int8, nf4, rtn

IDS = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "opt"])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("format", ["nf4", "fp4"])
def test_transformers_loads_four_bits(format, double, kind, tmp_path):
    """Same weights, and same logits.

    In training mode bitsandbytes multiplies in float32; in evaluation mode it may repack to
    bfloat16 on some processors.
    """
    result = nf4.quantize(tiny(kind), format=format, double=double)
    layout.write(result, tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", device_map="cpu")
    for name, module in walk.compressible(tiny(kind)).items():
        layer = theirs.get_submodule(name)
        assert isinstance(layer, bnb.nn.Linear4bit)
        found = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        torch.testing.assert_close(
            found, result.model.get_submodule(name).weight, rtol=2e-6, atol=0
        )
        assert found.shape == module.weight.shape
    for module in theirs.modules():
        module.training = isinstance(module, bnb.nn.Linear4bit)
    with torch.no_grad():
        exact, found = result.model(input_ids=IDS).logits, theirs(input_ids=IDS).logits
    assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_transformers_loads_eight_bits(tmp_path):
    result = llm_int8.quantize(tiny())
    layout.write(result, tmp_path / "model", dtype=torch.float16)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", device_map="cpu")
    for name in walk.compressible(tiny()):
        layer, ours = theirs.get_submodule(name), result.model.get_submodule(name)
        assert isinstance(layer, bnb.nn.Linear8bitLt)
        assert torch.equal(layer.weight.data, ours.weight_codes)
        torch.testing.assert_close(
            layer.weight.SCB.float() / 127, ours.weight_scale.flatten(), rtol=1e-6, atol=0
        )
    with torch.no_grad():
        exact, found = result.model(input_ids=IDS).logits, theirs(input_ids=IDS).logits.float()
    # they round activations to half precision first
    assert (found - exact).norm() < 2e-2 * exact.norm()


@pytest.mark.parametrize("double", [True, False])
def test_a_checkpoint_that_transformers_made_loads_here(double, tmp_path):
    tiny().save_pretrained(tmp_path / "plain")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=settings, device_map="cpu", dtype=torch.float32
    )
    theirs.save_pretrained(tmp_path / "theirs")  # before the first forward, which may repack
    found = layout.read(tmp_path / "theirs")
    ours = nf4.quantize(tiny(), format="nf4", double=double).model
    state = found.state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(
        found(input_ids=IDS).logits, ours(input_ids=IDS).logits, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("method", ["nf4", "fp4", "llm.int8"])
def test_written_and_read_again(method, tmp_path):
    result = (
        llm_int8.quantize(tiny("opt"))
        if method == "llm.int8"
        else nf4.quantize(tiny("opt"), format=method)
    )
    layout.write(result, tmp_path / "model")
    again = layout.read(tmp_path / "model")
    torch.testing.assert_close(
        again(input_ids=IDS).logits, result.model(input_ids=IDS).logits, rtol=1e-5, atol=1e-6
    )


def test_errors(tmp_path):
    with pytest.raises(CompressionError, match="no layers of this format"):
        layout.write(rtn.quantize(tiny()), tmp_path / "a")
    with pytest.raises(CompressionError, match="block-wise int8 is not among them"):
        layout.write(nf4.quantize(tiny(), format="int8"), tmp_path / "a")
    layout.write(nf4.quantize(tiny()), tmp_path / "model")
    content = (tmp_path / "model" / "model.safetensors").read_bytes()
    (tmp_path / "model" / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CompressionError, match="checksum differs"):
        layout.read(tmp_path / "model")
    (tmp_path / "model" / "checksums.json").unlink()
    with pytest.raises(CompressionError, match="not readable as safetensors"):
        layout.read(tmp_path / "model")
    layout.write(nf4.quantize(tiny()), tmp_path / "b")
    (tmp_path / "b" / "checksums.json").unlink()
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(CompressionError, match="the config says"):
        layout.read(tmp_path / "b")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("weight", torch.Tensor.float, "packed: .*float32, expected"),
        ("weight.absmax", torch.Tensor.int, "absmax: .*int32, expected"),
        ("weight.nested_absmax", lambda t: t * torch.nan, "nested_absmax: NaN"),
        ("weight.nested_quant_map", torch.neg, "nested_quant_map: not the published table"),
        ("weight.quant_map", lambda t: t[:0], "quant_map: not the published table"),
    ],
)
def test_damage_without_checksums(part, change, message, tmp_path):
    layout.write(nf4.quantize(tiny()), tmp_path / "model")
    (tmp_path / "model" / "checksums.json").unlink()
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    key = f"model.layers.1.mlp.up_proj.{part}"
    save_file(
        {**tensors, key: change(tensors[key]).clone()}, tmp_path / "model" / "model.safetensors"
    )
    with pytest.raises(CompressionError, match=f"up_proj: {message}"):
        layout.read(tmp_path / "model")
