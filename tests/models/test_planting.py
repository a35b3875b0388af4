"""Planted outliers: large activations in a few channels, the same function."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
)

from course_utils.errors import CompressionError
from course_utils.models import load, planting, walk
from course_utils.models.planting import plant_outliers

SIZES = {
    "llama": lambda: LlamaConfig(hidden_size=32, intermediate_size=48, num_attention_heads=4,
                                 num_key_value_heads=2,
                                 num_hidden_layers=2, vocab_size=64, pad_token_id=0),
    "qwen2": lambda: Qwen2Config(hidden_size=32, intermediate_size=48, num_attention_heads=4,
                                 num_key_value_heads=2,
                                 num_hidden_layers=2, vocab_size=64, pad_token_id=0),
    "opt": lambda: OPTConfig(hidden_size=32, ffn_dim=48, num_attention_heads=4, num_hidden_layers=2,
                             vocab_size=64,
                             max_position_embeddings=32),
    "gpt2": lambda: GPT2Config(n_embd=32, n_head=4, n_layer=2, vocab_size=64, n_positions=32),
}  # fmt: skip


@pytest.fixture(params=list(SIZES))
def tiny(request):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SIZES[request.param]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


def largest_inputs(model, ids) -> list[torch.Tensor]:
    """For every layer that reads a norm's output: the largest |x| of each channel."""
    found = []
    for block, states in walk.through_blocks(model, ids):
        readers = [r for _, group in planting._pairs(block) for r in group]
        walk.watch_inputs(block, states, lambda _, x: found.append(x.abs().amax(0)), readers)
    return found


@pytest.mark.parametrize("factor", [64.0, 100.0])
def test_same_function_larger_activations(tiny, factor):
    ids = torch.randint(2, 64, (3, 12))
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    planted = plant_outliers(tiny, channels=3, factor=factor)
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())
    wanted, found = logits(tiny, ids), logits(planted, ids)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    chosen = planting.influential(tiny, 3)
    others = [j for j in range(32) if j not in chosen]
    for old, new in zip(largest_inputs(tiny, ids), largest_inputs(planted, ids), strict=True):
        assert torch.allclose(new[chosen], old[chosen] * factor, rtol=1e-4)
        assert torch.allclose(new[others], old[others], rtol=1e-3, atol=1e-6)
        assert new[chosen].min() > new[others].max()


def test_the_bundled_model_keeps_its_function():
    model, tokenizer = load()
    ids = tokenizer(["Where is the ball? It is in the"], return_tensors="pt")["input_ids"]
    planted = plant_outliers(model, channels=8, factor=50.0)
    wanted = logits(model, ids)
    assert (logits(planted, ids) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    for old, new in zip(largest_inputs(model, ids), largest_inputs(planted, ids), strict=True):
        assert new.max() / new.median() > 10 * old.max() / old.median()


def test_influential_channels_are_those_of_the_loop_and_survive_planting(tiny):
    total = [0.0] * 32
    for block in walk.blocks(tiny):
        for norm, readers in planting._pairs(block):
            for reader in readers:
                energy = (walk.weight_of(reader).double() * norm.weight.detach().double()) ** 2
                for j in range(32):
                    total[j] += float(energy[:, j].sum() / energy.sum())
    wanted = sorted(sorted(range(32), key=lambda j: -total[j])[:5])
    assert (
        planting.influential(tiny, 5)
        == wanted
        == planting.influential(plant_outliers(tiny, channels=5), 5)
    )


def test_bad_input_is_named(tiny):
    with pytest.raises(CompressionError, match="channels=0"):
        plant_outliers(tiny, channels=0)
    with pytest.raises(CompressionError, match="factor=-1"):
        plant_outliers(tiny, factor=-1)


def test_models_it_does_not_know_are_refused():
    after = AutoModelForCausalLM.from_config(OPTConfig(
        hidden_size=32, ffn_dim=48, num_attention_heads=4, num_hidden_layers=1, vocab_size=64,
        do_layer_norm_before=False))  # fmt: skip
    with pytest.raises(CompressionError, match="before the layers"):
        plant_outliers(after)
    gemma = AutoModelForCausalLM.from_config(GemmaConfig(
        hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=1, vocab_size=64))  # fmt: skip
    with pytest.raises(CompressionError, match="1 \\+ weight"):
        plant_outliers(gemma)
