"""What practitioners bring: no model, wrapped, without values, damaged, shared, resized; encoders.

Right, or one sentence before any work.
"""

import pytest
import tiny_models
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaForCausalLM,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from course_utils import checkpoints, distillation, evaluation, models, pruning, quantization
from course_utils.errors import CompressionError
from course_utils.pruning import structured
from course_utils.quantization import Compressed, compressed

IDS = torch.randint(3, tiny_models.VOCABULARY, (4, 20), generator=torch.Generator().manual_seed(1))
METHODS = {
    "rtn": lambda m: quantization.rtn.quantize(m, group_size=8),
    "gptq": lambda m: quantization.gptq.quantize(m, IDS, group_size=8),
    "awq": lambda m: quantization.awq.quantize(m, IDS, group_size=8),
    "smoothquant": lambda m: quantization.smoothquant.quantize(m, IDS),
    "w8a8": quantization.w8a8.quantize,
    "nf4": quantization.nf4.quantize,
    "llm.int8": quantization.llm_int8.quantize,
    "magnitude": pruning.magnitude.prune,
    "wanda": lambda m: pruning.wanda.prune(m, IDS),
    "sparsegpt": lambda m: pruning.sparsegpt.prune(m, IDS),
    "prune_mlp": lambda m: structured.prune_mlp(m, IDS),
    "prune_heads": lambda m: structured.prune_heads(m, IDS),
    "prune_layers": lambda m: structured.prune_layers(m, IDS),
    "prune_blocks": lambda m: structured.prune_blocks(m, IDS),
    "width": lambda m: pruning.width.prune_heads(m, IDS),
}
FINITE_FIRST = (
    "gptq",
    "awq",
    "smoothquant",
    "wanda",
    "sparsegpt",
    "prune_mlp",
    "prune_heads",
    "prune_layers",
    "prune_blocks",
)


def llama():
    return tiny_models.model_of("llama")


def on_meta():
    with torch.device("meta"):
        return LlamaForCausalLM(tiny_models.config_of("llama"))


def with_nan():
    model = llama()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    return model


def overflowing():
    model = llama().half()
    model.model.layers[0].mlp.down_proj.weight.data.fill_(6e4)
    model.model.layers[0].mlp.up_proj.weight.data.fill_(1e3)
    return model


def wrapped():
    """As peft's PeftModel: a module with the method that merges."""
    outer = nn.Module()
    outer.base_model, outer.merge_and_unload = llama(), lambda: None
    return outer


def injected():
    """As peft's inject_adapter_in_model: layers of its package inside."""
    model = llama()
    kind = type("Linear", (nn.Linear,), {"__module__": "peft.tuners.lora.layer"})
    model.model.layers[0].self_attn.q_proj.lora_A = kind(32, 4)
    return model


REFUSED = {
    "None": (lambda: None, "expected a model, got NoneType"),
    "Compressed": (
        lambda: quantization.rtn.quantize(llama(), group_size=8),
        "got Compressed; give its .model",
    ),
    "NaN": (with_nan, r"layers\.1\.mlp\.up_proj: weight: contains NaN"),
    "meta": (on_meta, "embed_tokens.weight: is on the meta device"),
    "PeftModel": (wrapped, "merge it first"),
    "LoRA inside": (injected, "merge it first"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_every_method_says_the_same_sentence(what):
    make, sentence = REFUSED[what]
    model = make()
    for method, run in METHODS.items():
        with pytest.raises(CompressionError, match=sentence):
            run(model)
            raise AssertionError(method)


def test_what_holds_no_values_is_not_written_or_distilled(tmp_path):
    model, other = on_meta(), llama()
    for work in (
        lambda: Compressed(model, {"method": "none"}, 0.0).save(tmp_path / "a"),
        lambda: checkpoints.gguf.write(model, tmp_path / "a.gguf"),
        lambda: checkpoints.onnx.write(model, tmp_path / "a.onnx"),
        lambda: checkpoints.gptq.write(model, tmp_path / "a"),
        lambda: distillation.train(model, other, IDS, steps=1),
        lambda: distillation.train(other, model, IDS, steps=1),
    ):
        with pytest.raises(CompressionError, match="is on the meta device"):
            work()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", FINITE_FIRST)
def test_activations_that_overflow_half_precision(method):
    with pytest.raises(CompressionError, match="NaN or infinity"):
        METHODS[method](overflowing())


def same_after_saving(result, folder, ids=IDS):
    """The saved model's outputs against those before saving."""
    result.save(folder)
    with torch.no_grad():
        before, after = (
            m(input_ids=ids, **options(m))[0]
            for m in (result.model.eval(), compressed.load(folder))
        )
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def options(model):
    return {"use_cache": False} if hasattr(model.config, "use_cache") else {}


def bert(kind=BertModel):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": tiny_models.VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return kind(BertConfig(**sizes, intermediate_size=48, max_position_embeddings=64)).eval()


def t5():
    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    ).eval()


STACKS = {
    "BERT": bert,
    "BERT with its head": lambda: bert(BertForMaskedLM),
    "T5's encoder": lambda: t5().get_encoder(),
    "T5's decoder": lambda: t5().get_decoder(),
    "a bare Llama": lambda: LlamaModel(tiny_models.config_of("llama")).eval(),
}


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("method", ["rtn", "gptq", "nf4", "wanda", "prune_layers"])
def test_encoders_and_bare_stacks_are_compressed_saved_and_loaded(stack, method, tmp_path):
    if stack.startswith("T5") and method == "prune_layers":
        pytest.skip("relative positions stand in T5's first block only")
    result = METHODS[method](STACKS[stack]())
    assert (
        method == "prune_layers"
        or result.coverage["share_of_blocks"] > 0.9
        or stack == "T5's decoder"
    )
    same_after_saving(result, tmp_path / "saved")


def test_a_vision_encoder(tmp_path):
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    result = quantization.rtn.quantize(
        ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).eval(), group_size=8
    )
    result.save(tmp_path / "saved")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(compressed.load(tmp_path / "saved")(x)[0], result.model(x)[0])
    assert evaluation.report(result, models.load_tokenizer()).tokens_per_second is None


def test_both_stacks_at_once_are_refused():
    with pytest.raises(CompressionError, match=r"compress one stack, such as model\.get_encoder"):
        quantization.rtn.quantize(t5())


def test_an_encoders_report_has_bytes_and_speed_but_no_perplexity():
    found = evaluation.report(quantization.rtn.quantize(BertModel(BertConfig(
        vocab_size=1024, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48)), group_size=8),
        models.load_tokenizer(), runs=1)  # fmt: skip
    assert (
        found.perplexity is None and found.tokens_per_second > 0 and "perplexity" not in str(found)
    )
    with pytest.raises(
        CompressionError, match="causal language model with its head, got LlamaModel"
    ):
        evaluation.report(LlamaModel(tiny_models.config_of("llama")), models.load_tokenizer())


def shared_block():
    model = llama()
    model.model.layers[3] = model.model.layers[2]
    return model


def tied_projection():
    model = llama()
    model.model.layers[3].mlp.up_proj.weight = model.model.layers[2].mlp.up_proj.weight
    return model


@pytest.mark.parametrize("make", [shared_block, tied_projection])
@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "wanda", "prune_mlp", "prune_layers"])
def test_shared_blocks_and_tied_projections(make, method, tmp_path):
    same_after_saving(METHODS[method](make()), tmp_path / "saved")


def test_generation_settings_that_transformers_would_not_write(tmp_path):
    model = llama()
    model.generation_config.temperature, model.generation_config.do_sample = 0.3, False
    same_after_saving(METHODS["rtn"](model), tmp_path / "saved")
    assert compressed.load(tmp_path / "saved").generation_config.temperature == 0.3


def test_a_vocabulary_resized_behind_the_configs_back(tmp_path):
    model = llama()
    model.resize_token_embeddings(104)
    same_after_saving(METHODS["rtn"](model), tmp_path / "followed")
    model.config.vocab_size = 96
    with pytest.raises(
        CompressionError,
        match=r"embed_tokens.weight has the shape \(104, 32\), by its config it is \(96, 32\)",
    ):
        METHODS["rtn"](model).save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_loading_builds_no_dense_model(tmp_path, monkeypatch):
    """Dense weights of packed layers are never made: the skeleton stands on the meta device, and
    takes the file's tensors as they are.
    """
    METHODS["rtn"](llama()).save(tmp_path / "saved")
    made = []
    original = compressed.empty_like
    monkeypatch.setattr(
        compressed, "empty_like", lambda *a, **k: made.append(original(*a, **k)) or made[-1]
    )
    seen = []
    monkeypatch.setattr(compressed.walk, "replace",
                        lambda m, name, new, real=compressed.walk.replace: (
        seen.append(m.get_submodule(name).weight.is_meta), real(m, name, new)))  # fmt: skip
    model = compressed.load(tmp_path / "saved")
    assert len(seen) == 42 and all(seen) and model is made[-1]
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))


def test_padded_vocabularies_of_one_tokenizer():
    """The ids that both have are compared: the loss is that of the teacher's logits, cut or filled
    up with what never comes.
    """
    config = tiny_models.config_of("llama")
    config.vocab_size = 100
    wide, narrow, words = LlamaForCausalLM(config).eval(), llama(), models.load_tokenizer()
    with pytest.raises(CompressionError, match="only padding differs"):
        distillation.train(narrow, wide, IDS, steps=1)
    for student, teacher in ((narrow, wide), (wide, narrow)):
        found = distillation.train(student, teacher, IDS, steps=1, batch=4,
                                   loss=distillation.objectives.Response(alpha=0.0,
                                       temperature=1.0),
                                   tokenizers=(words, words), progress=False)  # fmt: skip
        with torch.no_grad():
            log_s, log_t = (m(input_ids=IDS).logits[:, :-1] for m in (student, teacher))
        shared = log_t[..., :96].double().log_softmax(-1)
        wanted = (shared.exp() * (shared - log_s.double().log_softmax(-1)[..., :96])).sum(-1).mean()
        assert found.history[0]["loss"] == pytest.approx(float(wanted), rel=1e-3)


def test_heads_of_a_model_whose_config_has_no_head_size():
    with pytest.raises(CompressionError, match="stablelm's config has no head size"):
        METHODS["prune_heads"](tiny_models.model_of("stablelm"))


def test_a_tokenizer_is_not_made_up(tmp_path):
    llama().save_pretrained(tmp_path)
    for kind in ("LlamaTokenizer", "GPT2Tokenizer"):
        (tmp_path / "tokenizer_config.json").write_text(f'{{"tokenizer_class": "{kind}"}}')
        with pytest.raises(CompressionError, match="without the vocabulary of a tokenizer"):
            models.load_tokenizer(tmp_path)


def with_eyes(kind):
    """A language model behind a tower for pictures."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
    }
    if kind == "llava":
        eyes = CLIPVisionConfig(**sizes, projection_dim=32)
        return LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=eyes, text_config=tiny_models.config_of("llama"), image_token_index=90
            )
        ).eval()
    eyes, text = SiglipVisionConfig(**sizes), tiny_models.config_of("gemma3_text")
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text, vision_config=eyes, mm_tokens_per_image=4, image_token_index=90
        )
    ).eval()


@pytest.mark.parametrize(
    "method", ["rtn", "gptq", "wanda", "prune_mlp", "prune_heads", "prune_layers"]
)
@pytest.mark.parametrize("kind", ["llava", "gemma3"])
def test_the_language_model_behind_a_tower(kind, method, tmp_path):
    model = with_eyes(kind)
    made = METHODS[method](model)
    towers = {n: p for n, p in model.named_parameters() if "vision_tower" in n or "projector" in n}
    now = dict(made.model.named_parameters())
    assert towers and all(torch.equal(now[n], p) for n, p in towers.items())
    inside = {n for n in made.coverage["left"] if "vision_tower" in n}
    assert inside and {made.coverage["left"][n][1] for n in inside} <= {
        "outside the blocks",
        "embedding",
    }
    assert made.coverage["share_of_blocks"] > 0.95 or sum(
        p.numel() for p in now.values()
    ) < 0.92 * sum(p.numel() for p in model.parameters())
    made.save(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(
            compressed.load(tmp_path / "model")(input_ids=IDS).logits,
            made.model(input_ids=IDS).logits,
            atol=1e-5,
            rtol=1e-5,
        )


def test_channels_under_a_norm_of_their_own_are_refused():
    """BitNet's layers are called like Llama's,
    but a norm mixes the channels before they are read.
    """
    with pytest.raises(
        CompressionError, match="no layer was found that reads the channels of an MLP one by one"
    ):
        structured.prune_mlp(tiny_models.model_of("bitnet", layers=1), IDS)


def test_names_of_layers_are_not_taken_for_those_of_the_config(tmp_path):
    """BioGPT's layers are called like OPT's, and its config's number of channels is not."""
    made = structured.prune_mlp(tiny_models.model_of("biogpt", layers=2), IDS)
    assert made.model.config.intermediate_size == 24
    made.save(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(
            compressed.load(tmp_path / "model")(input_ids=IDS).logits,
            made.model(input_ids=IDS).logits,
            atol=1e-5,
            rtol=1e-5,
        )
