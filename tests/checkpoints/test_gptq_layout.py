import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from wide_models import MODELS, WIDE, tiny

from course_utils.checkpoints import awq as awq_layout
from course_utils.checkpoints import gptq as layout
from course_utils.errors import CompressionError
from course_utils.models import load, walk
from course_utils.quantization import QuantizedLinear, awq, gptq, nf4, rtn

IDS = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))


def plain_unpack(tensors, name, bits, minus_one=True):
    """The weight (out, in) of one layer from the layout's words, bit by bit,
    with Python integers.
    """
    words, zeros = (
        tensors[f"{name}.{key}"].numpy().astype(np.uint32) for key in ("qweight", "qzeros")
    )
    scales, groups = tensors[f"{name}.scales"].float().numpy(), tensors[f"{name}.g_idx"].numpy()
    inputs, outputs = words.shape[0] * 32 // bits, words.shape[1]

    def code(line, i):
        stream = sum(int(word) << (32 * k) for k, word in enumerate(line))
        return stream >> (bits * i) & (2**bits - 1)

    zero = [[(code(row, j) + minus_one) % 2**bits for j in range(outputs)] for row in zeros]
    weight = np.empty((outputs, inputs), np.float32)
    for j in range(outputs):
        for i in range(inputs):
            g = groups[i]
            weight[j, i] = scales[g, j] * (code(words[:, j], i) - zero[g][j])
    return torch.from_numpy(weight)


@pytest.mark.parametrize("form", layout.FORMATS)
@pytest.mark.parametrize("bits", layout.BITS)
def test_words_against_a_plain_unpacker(bits, form):
    g = torch.Generator().manual_seed(bits)
    weight, x = (
        torch.randn(32, 64, generator=g) + 0.3,
        torch.randn(200, 64, generator=g) * torch.rand(64, generator=g),
    )
    for settings in (
        {"group_size": 32},
        {"group_size": -1},
        {"group_size": 32, "act_order": True},
        {"symmetric": True},
    ):
        result = gptq.quantize_layer(weight, gptq.hessian(x), bits=bits, **settings)
        tensors = layout.tensors_of(QuantizedLinear.of(result, None), form)
        named = {f"layer.{key}": value for key, value in tensors.items()}
        found = plain_unpack(named, "layer", bits, minus_one=form == "gptq")
        torch.testing.assert_close(found, result.weight, rtol=1e-6, atol=0)
        groups = result.grid.scale.shape[1]
        assert (
            tensors["qweight"].shape == (64 * bits // 32, 32)
            and tensors["qweight"].dtype == torch.int32
        )
        assert tensors["qzeros"].shape == (groups, 32 * bits // 32) and tensors["scales"].shape == (
            groups,
            32,
        )


def test_four_bits_against_the_usual_shifts():
    """qweight[r, c] = Σ_k q[8r + k, c] << 4k, as every description of the format gives it."""
    codes = torch.randint(16, (32, 64), generator=torch.Generator().manual_seed(0))
    words = layout.to_words(codes, 4).T
    wanted = sum(codes.T[k::8].long() << (4 * k) for k in range(8))
    assert torch.equal(words.long() & 0xFFFFFFFF, wanted)


def test_three_bits_cross_words_as_auto_gptq_packs_them():
    """Of 32 codes the eleventh has two bits in the first word,
    the twenty-second one in the second.
    """
    codes = torch.zeros(32, 32, dtype=torch.long)
    codes[0, 10], codes[0, 21] = 0b101, 0b011
    first, second, third = (int(w) & 0xFFFFFFFF for w in layout.to_words(codes, 3)[0])
    assert first == 0b01 << 30 and second == 0b1 | (1 << 31) and third == 0b01


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 4},
        {"bits": 3, "symmetric": True},
        {"bits": 4, "act_order": True},
        {"bits": 8, "group_size": -1},
    ],
)
def test_written_and_read_again(kind, settings, tmp_path):
    result = gptq.quantize(tiny(kind), IDS, **{"group_size": 32, **settings})
    size = layout.write(result, tmp_path / "model", dtype=torch.float32)
    assert size == sum(f.stat().st_size for f in (tmp_path / "model").iterdir())
    again = layout.read(tmp_path / "model")
    state = again.state_dict()
    assert all(torch.equal(t, state[k]) for k, t in result.model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, result.model(input_ids=IDS).logits)
    config = json.loads((tmp_path / "model" / "config.json").read_text())["quantization_config"]
    assert config == json.loads((tmp_path / "model" / "quantize_config.json").read_text())
    assert config["bits"] == settings["bits"] and config["desc_act"] == settings.get(
        "act_order", False
    )
    assert config["group_size"] == settings.get("group_size", 32) and config["sym"] == settings.get(
        "symmetric", False
    )


def test_half_precision_is_close(tmp_path):
    model, tokenizer = load("bundled")
    ids = tokenizer("Mara has 12 plums. She", return_tensors="pt")["input_ids"]
    result = rtn.quantize(model, bits=4)
    layout.write(result, tmp_path / "model", tokenizer)
    again = layout.read(tmp_path / "model")
    exact, found = result.model(input_ids=ids).logits, again(input_ids=ids).logits
    assert (found - exact).norm() < 1e-3 * exact.norm()
    assert (
        load_file(tmp_path / "model" / "model.safetensors")["model.embed_tokens.weight"].dtype
        == torch.float16
    )
    assert (tmp_path / "model" / "tokenizer.json").is_file()


def test_whole_rows_as_one_group_and_awq_results(tmp_path):
    result = awq.quantize(tiny(), IDS, group_size=64)
    layout.write(result, tmp_path / "awq", dtype=torch.float32)
    again = layout.read(tmp_path / "awq")
    assert torch.equal(again(input_ids=IDS).logits, result.model(input_ids=IDS).logits)


def test_names_and_files_are_those_other_tools_expect(tmp_path):
    layout.write(rtn.quantize(tiny(), bits=4), tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    assert {f"{name}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx")} <= set(tensors)
    assert f"{name}.weight" not in tensors
    # tied; auto-gptq wants both
    assert torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    assert (
        tensors[f"{name}.scales"].dtype == torch.float16
        and tensors[f"{name}.g_idx"].dtype == torch.int32
    )
    config = json.loads((tmp_path / "model" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "gptq" and config["checkpoint_format"] == "gptq"


@pytest.fixture
def written(tmp_path):
    layout.write(rtn.quantize(tiny(), bits=4), tmp_path / "model", dtype=torch.float32)
    return tmp_path / "model"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "quantize_config.json"])
def test_every_damage_is_found(written, file):
    content = (written / file).read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 4
    for damaged in (content[:-100], bytes(flipped), None):
        if damaged is None:
            (written / file).unlink()
        else:
            (written / file).write_bytes(damaged)
        with pytest.raises(CompressionError, match="checksum differs|no config.json"):
            layout.read(written)


def test_foreign_folders_are_checked_too(written):
    """Without checksums, as other tools write them, what can be seen is still refused."""
    (written / "checksums.json").unlink()
    layout.read(written)
    path = written / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj"

    def attempt(change, message):
        changed = dict(tensors)
        change(changed)
        save_file(changed, path)
        with pytest.raises(CompressionError, match=message):
            layout.read(written)

    attempt(lambda t: t.pop(f"{name}.scales"), f"{name} lacks scales")
    attempt(lambda t: t.update({f"{name}.g_idx": t[f"{name}.g_idx"] + 9}), f"{name}: g_idx")
    attempt(lambda t: t.update({f"{name}.qweight": t[f"{name}.qweight"][1:].clone()}), f"{name}")
    attempt(
        lambda t: t.update({f"{name}.scales": t[f"{name}.scales"] * torch.nan}), f"{name}: scales"
    )
    for part in ("qweight", "qzeros", "scales"):
        for change in (
            torch.flatten,
            lambda t: t[None],
            lambda t: t[:0],
            lambda t: t.flatten()[0].clone(),
            torch.Tensor.bool,
        ):
            attempt(
                lambda t, c=change, key=f"{name}.{part}": t.update({key: c(t[key])}),
                f"{name}: {part}",
            )
    attempt(lambda t: t.pop("model.norm.weight"), "model.norm.weight")
    attempt(lambda t: t.update({"extra.weight": torch.ones(2)}), "extra.weight")
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(CompressionError, match="not readable as safetensors"):
        layout.read(written)


def test_errors(tmp_path, written):
    with pytest.raises(CompressionError, match="no layers of this format"):
        layout.write(tiny(), tmp_path / "a")
    with pytest.raises(CompressionError, match="no layers of this format"):
        layout.write(nf4.quantize(tiny()), tmp_path / "a")
    with pytest.raises(CompressionError, match="q_proj: bits=5.*2, 3, 4, 8"):
        layout.write(rtn.quantize(tiny(), bits=5), tmp_path / "a")
    with pytest.raises(CompressionError, match="multiples of 32"):
        model = LlamaForCausalLM(LlamaConfig(**{**WIDE, "hidden_size": 48}, intermediate_size=64))
        layout.write(rtn.quantize(model, group_size=16), tmp_path / "a")
    mixed = rtn.quantize(tiny(), bits=4)
    result = rtn.quantize_layer(walk.weight_of(tiny().model.layers[0].mlp.up_proj), bits=3)
    walk.replace(mixed.model, "model.layers.0.mlp.up_proj", QuantizedLinear.of(result, None))
    with pytest.raises(CompressionError, match="differ in bits"):
        layout.write(mixed, tmp_path / "a")
    other = nf4.quantize(tiny()).model.model.layers[0].mlp.up_proj
    walk.replace(mixed.model, "model.layers.0.mlp.up_proj", other)
    with pytest.raises(
        CompressionError,
        match=(
            r"besides layers of this format it holds "
            r"model.layers.0.mlp.up_proj \(BlockwiseLinear\)"
        ),
    ):
        layout.write(mixed, tmp_path / "a")
    with pytest.raises(CompressionError, match="checkpoint_format='marlin'"):
        layout.write(rtn.quantize(tiny()), tmp_path / "a", checkpoint_format="marlin")
    assert not (tmp_path / "a").exists() and not list(tmp_path.glob(".a-*"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(CompressionError, match="holds something else"):
        layout.write(rtn.quantize(tiny()), tmp_path / "full")
    shutil.copytree(written, tmp_path / "b")
    (tmp_path / "b" / "checksums.json").unlink()
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    for change, message in (
        ({"bits": 5}, "5 bits"),
        ({"quant_method": "awq"}, "'awq', expected 'gptq'"),
    ):
        altered = {**config, "quantization_config": {**config["quantization_config"], **change}}
        (tmp_path / "b" / "config.json").write_text(json.dumps(altered))
        with pytest.raises(CompressionError, match=message):
            layout.read(tmp_path / "b")
    for altered in ([], {**config, "quantization_config": ["gptq"]}):
        (tmp_path / "b" / "config.json").write_text(json.dumps(altered))
        with pytest.raises(CompressionError, match="config is not readable"):
            layout.read(tmp_path / "b")
    with pytest.raises(CompressionError, match="no config.json"):
        layout.read(tmp_path / "nowhere")
    AutoModelForCausalLM.from_config(tiny().config).save_pretrained(tmp_path / "plain")
    with pytest.raises(CompressionError, match="'none', expected 'gptq'"):
        layout.read(tmp_path / "plain")


def test_a_zero_point_of_zero_needs_the_second_format(tmp_path):
    """auto-gptq 0.7.1 reads 2^b − 1 + 1 as 2^b and GPTQModel borrows across nibbles; so neither
    side may guess.
    """
    model = tiny()
    layer = model.model.layers[0].mlp.up_proj
    layer.weight.data[3, :32] = layer.weight.data[3, :32].abs() + 0.01
    result = rtn.quantize(model, bits=4, group_size=32)
    with pytest.raises(
        CompressionError, match="layers.0.mlp.up_proj: .*zero point 0.*'gptq_v2'.*symmetric"
    ):
        layout.write(result, tmp_path / "model", checkpoint_format="gptq")
    assert not (tmp_path / "model").exists()
    layout.write(result, tmp_path / "model", dtype=torch.float32)
    assert (
        json.loads((tmp_path / "model" / "quantize_config.json").read_text())["checkpoint_format"]
        == "gptq_v2"
    )
    layout.write(result, tmp_path / "model", dtype=torch.float32, checkpoint_format="gptq_v2")
    assert torch.equal(
        layout.read(tmp_path / "model")(input_ids=IDS).logits, result.model(input_ids=IDS).logits
    )
    layout.write(rtn.quantize(tiny(), bits=4, group_size=32), tmp_path / "foreign")
    (tmp_path / "foreign" / "checksums.json").unlink()
    path = tmp_path / "foreign" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.qzeros"][0, 0] |= 15
    save_file(tensors, path)
    with pytest.raises(CompressionError, match="layers.1.mlp.up_proj: qzeros: a zero point of 0"):
        layout.read(tmp_path / "foreign")


@pytest.mark.parametrize("bits", [2, 3])
def test_few_bits_asymmetric_are_written_in_a_format_that_holds_them(tmp_path, bits):
    result = gptq.quantize(tiny(), IDS, bits=bits, group_size=32, static_groups=True)
    layout.write(result, tmp_path / "model", dtype=torch.float32)
    config = json.loads((tmp_path / "model" / "config.json").read_text())["quantization_config"]
    zeros = [
        int((m.grid().zero_point == 0).sum())
        for m in result.model.modules()
        if isinstance(m, QuantizedLinear)
    ]
    assert (
        config["checkpoint_format"] == ("gptq_v2" if sum(zeros) else "gptq")
        and config["static_groups"] is True
    )
    assert torch.equal(
        layout.read(tmp_path / "model")(input_ids=IDS).logits, result.model(input_ids=IDS).logits
    )
    layout.write(gptq.quantize(tiny(), IDS, bits=bits, group_size=32), tmp_path / "b")
    assert (
        json.loads((tmp_path / "b" / "quantize_config.json").read_text())["static_groups"] is False
    )


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path):
    model = tiny()
    model.model.norm.weight.data[0] = 1e5
    with pytest.raises(CompressionError, match="model.norm.weight.*too large for torch.float16"):
        layout.write(rtn.quantize(model, symmetric=True), tmp_path / "a")
    layout.write(rtn.quantize(model, symmetric=True), tmp_path / "a", dtype=torch.bfloat16)
    # scales of 3e-7, which float16 holds to one digit
    model.model.layers[0].mlp.up_proj.weight.data *= 1e-5
    for write in (layout.write, awq_layout.write):
        with pytest.raises(CompressionError, match="up_proj: layer: its scales do not fit float16"):
            write(rtn.quantize(model, symmetric=True), tmp_path / "b", dtype=torch.bfloat16)
