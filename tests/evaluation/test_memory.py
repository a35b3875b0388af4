"""Bytes against closed forms, published counts, and tensors that are really there."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
)

from course_utils.errors import CompressionError
from course_utils.evaluation import memory
from course_utils.evaluation.configs import CONFIGS
from course_utils.quantization import rtn

# total parameters as their model pages on the hub state them (GPT-2 and OPT: with tied heads
# counted once)
PUBLISHED = {
    "GPT-2": 124_439_808, "OPT-125M": 125_239_296, "Qwen2.5-0.5B": 494_032_768,
    "Llama-3.2-1B": 1_235_814_400, "Llama-2-7B": 6_738_415_616, "Mistral-7B": 7_241_732_096,
    "Qwen2.5-7B": 7_615_616_512, "Llama-3-8B": 8_030_261_248, "Llama-2-13B": 13_015_864_320,
    "Llama-2-70B": 68_976_648_192,
}  # fmt: skip


def counted_by_hand(c):
    """Llama, Mistral and Qwen2: embeddings, head, and for each layer four projections, a gated MLP
    and two norms.
    """
    h, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    width = c.get("head_dim", h // c["num_attention_heads"])
    q, k = c["num_attention_heads"] * width, c["num_key_value_heads"] * width
    bias = q + 2 * k if c["model_type"] == "qwen2" else 0
    layer = 2 * h * q + 2 * h * k + bias + 3 * h * f + 2 * h
    return c["num_hidden_layers"] * layer + v * h * (1 if c["tie_word_embeddings"] else 2) + h


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_known_models(name):
    counts = memory.parameter_counts(name)
    assert counts["total"] == PUBLISHED[name] == sum(v for k, v in counts.items() if k != "total")
    if "intermediate_size" in CONFIGS[name]:
        assert counts["total"] == counted_by_hand(CONFIGS[name])
    assert memory.budget(name, dtype_bits=32)["weights"] == 4 * PUBLISHED[name]


def test_every_known_configuration_names_its_source():
    assert set(CONFIGS) == set(PUBLISHED)
    assert all("/" in c["source"] for c in CONFIGS.values())


def test_nothing_is_allocated():
    assert all(p.device.type == "meta" for p in memory.skeleton("Llama-2-70B").parameters())


def test_the_seven_billion_question():
    """28 GB in 32 bits, 14 in 16, 3.5 in 4 (decimal)."""
    for bits, gigabytes in ((32, 26.95), (16, 13.48), (8, 6.74), (4, 3.37)):
        assert memory.budget("Llama-2-7B", dtype_bits=bits)["weights"] / 1e9 == pytest.approx(
            gigabytes, abs=0.01
        )


@pytest.fixture(params=["llama", "qwen2", "opt", "gpt2"])
def small(request):
    return {
        "llama": lambda: LlamaConfig(
            vocab_size=300, hidden_size=128, num_hidden_layers=4, num_attention_heads=8,
            num_key_value_heads=2, intermediate_size=320, head_dim=16,
        ),
        "qwen2": lambda: Qwen2Config(
            vocab_size=300, hidden_size=128, num_hidden_layers=4, num_attention_heads=8,
            num_key_value_heads=4, intermediate_size=320,
        ),
        "opt": lambda: OPTConfig(
            vocab_size=300, hidden_size=128, num_hidden_layers=4, num_attention_heads=8,
            ffn_dim=512, dropout=0.0, word_embed_proj_dim=128, max_position_embeddings=512,
        ),
        "gpt2": lambda: GPT2Config(
            vocab_size=300, n_embd=128, n_layer=4, n_head=8, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        ),
    }[request.param]()  # fmt: skip


def test_kv_cache_equals_a_real_one(small):
    model = AutoModelForCausalLM.from_config(small).eval()
    with torch.no_grad():
        cache = model(torch.randint(0, 300, (3, 50)), use_cache=True).past_key_values
    real = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert memory.budget(small, context=50, batch=3, kv_bits=32)["kv_cache"] == real
    assert memory.budget(model, context=50, batch=3, kv_bits=16)["kv_cache"] == real // 2


def test_training_activations_are_what_autograd_keeps(small):
    """Within 10 %: the last norm and the norms' statistics are left out."""
    model = AutoModelForCausalLM.from_config(small).train()
    weights, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # the tensor too, so that its address is not used again
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.randint(0, 300, (2, 256))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = model(input_ids=ids, labels=ids).loss
    real = sum(size for size, _ in kept.values())
    counted = memory.budget(small, dtype_bits=32, context=256, batch=2, training=True)[
        "activations"
    ]
    assert loss.requires_grad and counted == pytest.approx(real, rel=0.1)


def test_adamw_in_32_bits_equals_a_real_optimizer(small):
    model = AutoModelForCausalLM.from_config(small)
    optimizer = torch.optim.AdamW(model.parameters())
    model(
        torch.zeros(1, 4, dtype=torch.long), labels=torch.zeros(1, 4, dtype=torch.long)
    ).loss.backward()
    optimizer.step()
    moments = sum(s[k].nbytes for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq"))
    found = memory.budget(small, dtype_bits=32, training=True, context=8)
    assert found["optimizer"] == moments
    assert found["gradients"] == sum(p.grad.nbytes for p in model.parameters())
    assert found["weights"] == memory.bytes_in_memory(model) - sum(
        b.nbytes for b in model.buffers()
    )


def test_mixed_precision_is_sixteen_bytes_a_parameter():
    found = memory.budget("GPT-2", training=True, context=16)
    assert found["weights"] + found["gradients"] + found["optimizer"] == 16 * PUBLISHED["GPT-2"]
    assert found["kv_cache"] == 0 and found["total"] == sum(
        v for k, v in found.items() if k != "total"
    )


def test_group_scales_count_as_fractional_bits(llama):
    """4-bit codes with a 16-bit scale for each 16 weights are 5 bits a weight."""
    compressed = rtn.quantize(llama, bits=4, group_size=16, symmetric=True)
    inside = sum(p.numel() for n, p in llama.named_parameters() if n.endswith("proj.weight"))
    saved = memory.bytes_in_memory(llama) - memory.bytes_in_memory(compressed.model)
    scales = {m.scale.dtype for m in compressed.model.modules() if hasattr(m, "packed")}
    width = 4 + (32 if torch.float32 in scales else 16) / 16
    assert saved == inside * 4 - inside * width / 8


def test_shared_storage_counts_once(llama):
    unique = {id(p): p.nbytes for p in llama.parameters()}  # the tied head is the embedding
    buffers = {id(b): b.nbytes for b in llama.buffers()}
    assert llama.lm_head.weight is llama.model.embed_tokens.weight
    total = sum(unique.values()) + sum(buffers.values())
    assert total >= memory.bytes_in_memory(llama) >= sum(unique.values())
    module = torch.nn.Module()
    base = torch.zeros(100)
    module.a, module.b = torch.nn.Parameter(base[:50]), torch.nn.Parameter(base[50:])
    module.register_buffer("c", torch.zeros(3, dtype=torch.int8))
    assert memory.bytes_in_memory(module) == 403
    assert memory.bytes_in_memory(memory.skeleton("GPT-2")) >= 4 * PUBLISHED["GPT-2"]


def test_encoders_and_experts():
    """BERT-base without a head has 109,482,240 parameters, Mixtral-8x7B 46,702,792,704, and an
    encoder no cache.
    """
    bert = BertConfig()
    found = memory.budget(bert, dtype_bits=32, context=512)
    assert (
        found["weights"] == 4 * 109_482_240 and found["kv_cache"] == 0 and found["activations"] > 0
    )
    assert memory.parameter_counts({"model_type": "mixtral"})["total"] == 46_702_792_704


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [("GPT-9", {}, "known names"), ({"hidden_size": 3}, {}, "model_type"),
     ("GPT-2", {"context": 0}, "positive"),
     ("GPT-2", {"dtype_bits": 0}, "positive"),
     ("GPT-2", {"dtype_bits": 4, "training": True}, "mixed precision")],
)  # fmt: skip
def test_bad_arguments(config, options, message):
    with pytest.raises(CompressionError, match=message):
        memory.budget(config, **options)
