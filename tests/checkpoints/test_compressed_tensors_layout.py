"""MXFP4 and NVFP4 in the layout of compressed-tensors: read plainly from the bytes, by its own
rules, and by our reader.
"""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from wide_models import tiny

from course_utils.checkpoints import compressed_tensors as layout
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import microscaling, rtn

IDS = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))
SCHEMES = {"MXFP4": 32, "NVFP4": 16}


def plain(tensors, name):
    """Ŵ in float64 from the bytes: low nibble first, elements and scales of ml_dtypes."""
    packed, scale = tensors[f"{name}.weight_packed"].numpy(), tensors[f"{name}.weight_scale"]
    nibbles = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)
    elements = nibbles.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    if f"{name}.weight_global_scale" in tensors:
        whole = np.float64(np.float32(1) / tensors[f"{name}.weight_global_scale"].numpy()[0])
        scales = (
            scale.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float64) * whole
        )
    else:
        scales = scale.numpy().view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    return elements * scales.repeat(elements.shape[1] // scales.shape[1], 1)


@pytest.mark.parametrize("kind", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize("scheme", SCHEMES)
@torch.no_grad()
def test_written_read_plainly_and_read_again(scheme, kind, tmp_path):
    model = tiny(kind)
    result = microscaling.quantize(model, scheme=scheme, four_over_six=scheme == "NVFP4")
    size = layout.write(result, tmp_path / "model", dtype=torch.float32)
    assert size == sum(file.stat().st_size for file in (tmp_path / "model").iterdir())
    again = layout.read(tmp_path / "model")
    assert torch.equal(again(input_ids=IDS).logits, result.model(input_ids=IDS).logits)
    tensors, ours = load_file(tmp_path / "model" / "model.safetensors"), dict(again.named_modules())
    for name in walk.compressible(model):
        np.testing.assert_array_equal(
            plain(tensors, name).astype(np.float32), result.model.get_submodule(name).weight.numpy()
        )
        layer = ours[name]
        rows, columns = layer.out_features, layer.in_features
        block = SCHEMES[scheme]
        assert (
            tensors[f"{name}.weight_packed"].shape == (rows, columns // 2)
            and f"{name}.weight" not in tensors
        )
        assert tensors[f"{name}.weight_scale"].shape == (rows, columns // block)
        for key in ("packed", "scales") + (("tensor_scale",) if scheme == "NVFP4" else ()):
            assert torch.equal(
                getattr(layer, key), getattr(result.model.get_submodule(name), key)
            ), (name, key)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_the_config_says(scheme, tmp_path):
    layout.write(
        microscaling.quantize(tiny("qwen2"), scheme=scheme, ignore="down_proj"), tmp_path / "model"
    )
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    said = config["quantization_config"]
    assert (
        said["quant_method"] == "compressed-tensors" and said["quantization_status"] == "compressed"
    )
    group = said["config_groups"]["group_0"]
    assert said["format"] == group["format"] == f"{scheme.lower()}-pack-quantized" and group[
        "targets"
    ] == ["Linear"]
    weights = group["weights"]
    assert (
        weights["num_bits"] == 4
        and weights["type"] == "float"
        and weights["group_size"] == SCHEMES[scheme]
    )
    assert (
        weights["strategy"] == ("group" if scheme == "MXFP4" else "tensor_group")
        and group["input_activations"] is None
    )
    down = [f"model.layers.{i}.mlp.down_proj" for i in range(2)]
    assert sorted(said["ignore"]) == ["lm_head", *down]
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert {f"{name}.weight" for name in down} <= set(file.keys())


def damage(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    (folder / "checksums.json").unlink(missing_ok=True)


def test_errors(tmp_path):
    with pytest.raises(
        CompressionError,
        match=r"q_proj: layer: MXFP8 E4M3; this layout is written for MXFP4 and NVFP4",
    ):
        layout.write(microscaling.quantize(tiny(), scheme="MXFP8 E4M3"), tmp_path / "a")
    with pytest.raises(
        CompressionError, match="no layers of this format; compress it with microscaling.quantize"
    ):
        layout.write(rtn.quantize(tiny()), tmp_path / "a")
    result = microscaling.quantize(tiny(), scheme="NVFP4")
    name = "model.layers.0.self_attn.q_proj"
    other = microscaling.MicroscaledLinear.of(
        microscaling.encode(torch.randn(128, 128), "MXFP4"), None
    )
    walk.replace(result.model, name, other)
    with pytest.raises(CompressionError, match="MXFP4 and NVFP4; this layout is written for one"):
        layout.write(result, tmp_path / "a")
    odd = microscaling.MicroscaledLinear.of(microscaling.encode(torch.randn(4, 40), "MXFP4"), None)
    with pytest.raises(CompressionError, match="40 inputs are no multiple of 32.*ignore"):
        layout.tensors_of(odd)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(f"{Q}.weight_scale"), "q_proj lacks weight_scale"),
        (lambda t: t.pop(f"{Q}.weight_global_scale"), "q_proj lacks weight_global_scale"),
        (lambda t: t.update({f"{Q}.weight_scale": t[f"{Q}.weight_scale"][:, :3].contiguous()}),
         "are no layer of NVFP4"),
        (lambda t: t.update({f"{Q}.weight_global_scale": torch.tensor([float("nan")])}),
         "the file is damaged"),
        (lambda t: t.update({f"{Q}.weight_packed": t[f"{Q}.weight_packed"].int()}),
         "expected bytes"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(change, said, tmp_path):
    layout.write(microscaling.quantize(tiny(), scheme="NVFP4"), tmp_path / "model")
    damage(tmp_path / "model", change)
    with pytest.raises(CompressionError, match=said):
        layout.read(tmp_path / "model")


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: s.update(format="pack-quantized"),
            "'pack-quantized'; supported are mxfp4-pack-quantized",
        ),
        (
            lambda s: s["config_groups"]["group_0"].update(input_activations={"num_bits": 4}),
            "weights only",
        ),
        (lambda s: s.update(quant_method="gptq"), "'gptq', expected 'compressed-tensors'"),
    ],
)
def test_other_settings_are_refused(change, said, tmp_path):
    layout.write(microscaling.quantize(tiny(), scheme="MXFP4"), tmp_path / "model")
    (tmp_path / "model" / "checksums.json").unlink()
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    change(config["quantization_config"])
    file.write_text(json.dumps(config))
    with pytest.raises(CompressionError, match=said):
        layout.read(tmp_path / "model")
