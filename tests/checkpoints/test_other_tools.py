"""What other tools need to find in a file: the hub's names, layers left alone by name, a tokenizer
as it is, and no silence about the rest.
"""

import json
import warnings

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)
from wide_models import tiny

from course_utils import checkpoints, models
from course_utils.errors import CompressionError, CompressionWarning
from course_utils.pruning import magnitude
from course_utils.quantization import QuantizedLinear, nf4, rtn

gguf = pytest.importorskip("gguf")
IDS = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))


def settings(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def narrow_embeddings():
    """As OPT-350m: linear layers outside the blocks."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 128,
    }
    return OPTForCausalLM(
        OPTConfig(**sizes, word_embed_proj_dim=64, max_position_embeddings=64)
    ).eval()


OUTSIDE = ["model.decoder.project_out", "model.decoder.project_in", "lm_head"]


def test_layers_outside_the_blocks_are_named(tmp_path):
    model = narrow_embeddings()
    checkpoints.awq.write(rtn.quantize(model, group_size=32), tmp_path / "awq")
    assert settings(tmp_path / "awq")["modules_to_not_convert"] == OUTSIDE
    packed = nf4.quantize(model)
    checkpoints.bitsandbytes.write(packed, tmp_path / "bnb")
    assert settings(tmp_path / "bnb")["llm_int8_skip_modules"] == OUTSIDE
    pytest.importorskip("bitsandbytes")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "bnb")
    assert type(theirs.model.decoder.project_in) is torch.nn.Linear
    with torch.no_grad():
        wanted = packed.model(input_ids=IDS).logits
        # bitsandbytes multiplies in half precision here
        assert (theirs(input_ids=IDS).logits - wanted).norm() < 0.02 * wanted.norm()


def test_names_are_the_hubs(tmp_path):
    model = tiny_models.model_of("gpt_neox", layers=2)
    packed = nf4.quantize(model)
    checkpoints.bitsandbytes.write(packed, tmp_path / "bnb")
    names = set(load_file(tmp_path / "bnb" / "model.safetensors"))
    assert "embed_out.weight" in names and "lm_head.weight" not in names
    back = checkpoints.bitsandbytes.read(tmp_path / "bnb")
    assert torch.equal(back(input_ids=IDS).logits, packed.model(input_ids=IDS).logits)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "bnb")
    torch.testing.assert_close(theirs.lm_head.weight, model.lm_head.weight, rtol=0, atol=0)


def test_experts_are_refused_or_left_under_the_hubs_names(tmp_path):
    model = tiny_models.model_of("mixtral", layers=1)
    with pytest.raises(
        CompressionError,
        match=r"experts of model\.layers\.0\.mlp\.experts are compressed one by one",
    ):
        checkpoints.bitsandbytes.write(nf4.quantize(model), tmp_path / "all")
    assert not (tmp_path / "all").exists()
    checkpoints.bitsandbytes.write(nf4.quantize(model, ignore="experts"), tmp_path / "rest")
    tensors = load_file(tmp_path / "rest" / "model.safetensors")
    found = [name for name in tensors if "experts.3" in name]
    assert sorted(n.rpartition("experts.3.")[2] for n in found) == [
        "w1.weight",
        "w2.weight",
        "w3.weight",
    ]
    pytest.importorskip("bitsandbytes")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "rest")
    experts = model.model.layers[0].mlp.experts
    for ours, read in zip(
        experts.parameters(), theirs.model.layers[0].mlp.experts.parameters(), strict=True
    ):
        torch.testing.assert_close(read, ours, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "qwen2_moe"])
def test_pruned_experts_go_out_under_the_hubs_names_and_come_back(kind, tmp_path):
    """An ordinary model: transformers writes one tensor an expert, as on the hub, and reads the
    same zeros and logits.
    """
    model = tiny_models.model_of(kind, layers=2)
    made = magnitude.prune(model, 0.5)
    made.model.save_pretrained(tmp_path / "hub")
    names = set(load_file(tmp_path / "hub" / "model.safetensors"))
    last = "w2.weight" if kind == "mixtral" else "down_proj.weight"
    assert any(name.endswith(f"experts.3.{last}") for name in names) and not any(
        ".listed." in name for name in names
    )
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hub").eval()
    with torch.no_grad():
        torch.testing.assert_close(
            again(input_ids=IDS).logits, made.model(input_ids=IDS).logits, rtol=1e-5, atol=1e-6
        )
    for a, b in zip(again.parameters(), made.model.parameters(), strict=True):
        assert torch.equal(a == 0, b == 0)


def test_sizes_that_the_gptq_layout_cannot_hold(tmp_path):
    model = tiny()
    # as Qwen2-MoE's shared_expert_gate
    model.model.layers[0].mlp.gate = torch.nn.Linear(128, 1, bias=False)
    packed = rtn.quantize(model, group_size=64)
    with pytest.raises(CompressionError, match=r"mlp\.gate: .*multiples of 32; unfit='leave'"):
        checkpoints.gptq.write(packed, tmp_path / "saved")
    checkpoints.gptq.write(packed, tmp_path / "saved", unfit="leave", dtype=torch.float32)
    assert settings(tmp_path / "saved")["dynamic"] == {r"-:^model\.layers\.0\.mlp\.gate$": {}}
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    torch.testing.assert_close(
        tensors["model.layers.0.mlp.gate.weight"],
        packed.model.model.layers[0].mlp.gate.weight,
        rtol=0,
        atol=0,
    )
    assert "model.layers.0.mlp.up_proj.qweight" in tensors
    with pytest.raises(CompressionError, match="choose 'refuse' or 'leave'"):
        checkpoints.gptq.write(packed, tmp_path / "other", unfit="drop")


def llama(**changes):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 1030,
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return LlamaForCausalLM(
        LlamaConfig(**{**sizes, "intermediate_size": 64, "max_position_embeddings": 64, **changes})
    ).eval()


def fields(file):
    reader = gguf.GGUFReader(file)
    return {name: field.contents() for name, field in reader.fields.items()}


def test_a_tokenizer_in_a_gguf_file_is_as_it_was(tmp_path):
    words = models.load_tokenizer()
    words.add_tokens(["<extra1>"])
    words.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    words.chat_template = "{{ messages[0]['content'] }}"
    checkpoints.gguf.write(llama(head_dim=32), tmp_path / "a.gguf", words)
    found = fields(tmp_path / "a.gguf")
    assert (found["llama.attention.key_length"], found["llama.attention.value_length"]) == (32, 32)
    kinds, names = found["tokenizer.ggml.token_type"], found["tokenizer.ggml.tokens"]
    wanted = {
        "<extra1>": "USER_DEFINED",
        "<turn>": "CONTROL",
        "<|end|>": "CONTROL",
        "a": "NORMAL",
        "[unused1029]": "UNUSED",
    }
    assert {n: gguf.TokenType(kinds[names.index(n)]).name for n in wanted} == wanted
    assert (
        found["tokenizer.ggml.pre"] == "smollm"
        and found["tokenizer.chat_template"] == words.chat_template
    )
    assert (
        found["tokenizer.ggml.add_bos_token"] is True
        and found["tokenizer.ggml.add_eos_token"] is False
    )
    with pytest.raises(CompressionError, match=r"has the token 1025, the model 1000 of them"):
        checkpoints.gguf.write(llama(vocab_size=1000), tmp_path / "b.gguf", words)
    with pytest.warns(CompressionWarning, match="without a tokenizer"):
        checkpoints.gguf.write(llama(), tmp_path / "c.gguf")


def test_how_text_is_cut_has_llama_cpps_name():
    split = {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated"}
    level = {"type": "ByteLevel", "use_regex": False}
    qwen = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
        r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )

    def cut(*steps):
        return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps)}}

    assert (
        checkpoints.gguf.pre_tokenizer({"pre_tokenizer": {"type": "ByteLevel", "use_regex": True}})
        == "gpt-2"
    )
    assert (
        checkpoints.gguf.pre_tokenizer(cut({**split, "pattern": {"Regex": qwen}}, level)) == "qwen2"
    )
    assert (
        checkpoints.gguf.pre_tokenizer(
            cut({**split, "pattern": {"Regex": qwen.replace(r"\p{N}|", r"\p{N}{1,3}|")}}, level)
        )
        == "llama-bpe"
    )
    for other in (
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        cut({**split, "pattern": {"Regex": r"\w+"}}, level),
    ):
        with pytest.raises(CompressionError, match="has no name here which llama.cpp knows"):
            checkpoints.gguf.pre_tokenizer(other)


def test_what_was_read_from_gguf_can_be_saved(tmp_path):
    model = llama(head_dim=32)
    checkpoints.gguf.write(model, tmp_path / "a.gguf", models.load_tokenizer(), type_name="F32")
    back = checkpoints.gguf.read(tmp_path / "a.gguf")
    back.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(
        again(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-4, atol=1e-5
    )
    rtn.quantize(back, group_size=16).save(tmp_path / "packed")


def test_onnx_of_a_model_without_a_longest_context(tmp_path):
    pytest.importorskip("onnxruntime")
    bloom = tiny_models.model_of("bloom", layers=1)
    checkpoints.onnx.write(bloom, tmp_path / "a.onnx")
    torch.testing.assert_close(
        checkpoints.onnx.run(tmp_path / "a.onnx", IDS),
        bloom(input_ids=IDS).logits.detach(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_why_an_export_failed_is_said_without_colours(tmp_path, monkeypatch):
    def fail(*_, **__):
        try:
            raise RuntimeError("\x1b[96mNo ONNX function found for <grouped_mm>\x1b[0m.\nand more")
        except RuntimeError as error:
            raise ValueError("This is step 3/3") from error

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(
        CompressionError,
        match=(
            r"cannot write a LlamaForCausalLM as ONNX "
            r"\(No ONNX function found for <grouped_mm>\)"
        ),
    ):
        checkpoints.onnx.write(tiny(), tmp_path / "a.onnx")


def test_what_stays_float_in_a_4_bit_onnx_file_is_named(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    def file(kind):
        weight = onnx.numpy_helper.from_array(torch.randn(64, 32).numpy(), "w")
        ends = [
            onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s)
            for n, s in (("x", [2, 64]), ("y", [2, 32]))
        ]
        node = onnx.helper.make_node(kind, ["x", "w"], ["y"])
        graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
        onnx.save(
            onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]),
            tmp_path / f"{kind}.onnx",
        )
        return tmp_path / f"{kind}.onnx"

    with pytest.warns(
        CompressionWarning,
        match=r"1 matrices with 2,048 weights stay in float32, such as w \(Gemm\)",
    ):
        checkpoints.onnx.quantize_4bit(file("Gemm"), tmp_path / "d.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompressionWarning)
        checkpoints.onnx.quantize_4bit(file("MatMul"), tmp_path / "f.onnx")


def test_gptq_files_of_renamed_models_are_read_back(tmp_path):
    model = tiny_models.model_of("gpt_neox", layers=1)
    packed = rtn.quantize(model, group_size=16)
    checkpoints.gptq.write(packed, tmp_path / "saved", unfit="leave", dtype=torch.float32)
    back = checkpoints.gptq.read(tmp_path / "saved")
    assert any(isinstance(m, QuantizedLinear) for m in back.modules())
    torch.testing.assert_close(
        back(input_ids=IDS).logits, packed.model(input_ids=IDS).logits, rtol=1e-4, atol=1e-5
    )
