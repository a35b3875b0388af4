"""Sensitivities against a loop by hand, and the prediction that they are for."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from course_utils.errors import CompressionError
from course_utils.evaluation import by_window, sensitivity
from course_utils.models import walk
from course_utils.quantization import rtn
from course_utils.theory import noise


@pytest.fixture(params=["llama", "gpt2"])
def model(request):
    torch.manual_seed(0)
    if request.param == "llama":
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
        )
        return LlamaForCausalLM(config).eval()
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ).eval()


@pytest.fixture
def ids():
    return torch.randint(64, (4, 20), generator=torch.Generator().manual_seed(1))


def test_alpha_is_the_divergence_over_the_energy(model, ids):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = sensitivity.noise_sensitivities(model, ids, level=0.1, seeds=(0, 3))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert list(found) == list(walk.compressible(model))
    i, name = 2, list(found)[2]
    original, weight, alphas = (
        by_window.predictions(model, ids),
        model.get_submodule(name).weight.data,
        [],
    )
    for seed in (0, 3):
        noisy = noise.noisy(weight, 0.1, "additive", torch.Generator().manual_seed(1000 * seed + i))
        model.get_submodule(name).weight.data = noisy
        q = torch.log_softmax(model(input_ids=ids).logits, -1)
        kl = float((original.exp() * (original - q)).sum(-1).mean())
        alphas.append(kl / float((noisy - weight).pow(2).sum() / weight.pow(2).sum()))
    assert abs(found[name] - sum(alphas) / 2) < 1e-3 * found[name]


def test_errors_are_those_of_the_weights(model):
    compressed = rtn.quantize(model, bits=3, group_size=16)
    for name, found in sensitivity.relative_errors(model, compressed.model).items():
        a, b = (
            walk.weight_of(model.get_submodule(name)),
            walk.weight_of(compressed.model.get_submodule(name)),
        )
        assert abs(found - float(((b - a) ** 2).sum() / (a**2).sum())) < 1e-9
    with pytest.raises(CompressionError, match="no weight of this shape"):
        sensitivity.relative_errors(model, torch.nn.Linear(3, 3))
    with pytest.raises(CompressionError, match="level"):
        sensitivity.noise_sensitivities(model, torch.zeros(1, 4).long(), level=0.0)


def test_the_prediction_holds_for_small_errors(model, ids):
    """Six bits: every layer's error is small, so that the sum of the parts is near the whole."""
    alphas = sensitivity.noise_sensitivities(model, ids, seeds=(0, 1, 2, 3))
    compressed = rtn.quantize(model, bits=6, group_size=16)
    predicted = noise.predicted(alphas, sensitivity.relative_errors(model, compressed.model))
    measured = float(by_window.kl_by_window(model, compressed, ids).mean())
    assert 0.5 < predicted / measured < 2


def test_stream_errors_are_those_of_the_hidden_states(model, ids):
    compressed = rtn.quantize(model, bits=3, group_size=16).model
    with torch.no_grad():
        a, b = (
            m(input_ids=ids, output_hidden_states=True).hidden_states for m in (compressed, model)
        )
    found = sensitivity.stream_errors(model, compressed, ids)
    # the last has the norm on it
    assert len(found) == 2 and abs(found[0] - float((a[1] - b[1]).norm() / b[1].norm())) < 1e-6
    alone = sensitivity.stream_errors(model, compressed, ids, only=1)
    assert alone[0] == 0 and alone[1] > 0
    assert abs(sensitivity.stream_errors(model, compressed, ids, only=0)[0] - found[0]) < 1e-6


def test_part_of_an_error_moves_the_weights_by_that_part(model, ids):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    compressed = rtn.quantize(model, bits=3, group_size=16).model
    original = by_window.predictions(model, ids)
    whole = sensitivity.part_way(original, model, compressed, ids, 1.0)
    assert torch.allclose(whole, by_window.kl_by_window(original, compressed, ids), rtol=1e-3)
    assert float(sensitivity.part_way(original, model, compressed, ids, 0.0).abs().max()) < 1e-9
    tenth = float(sensitivity.part_way(original, model, compressed, ids, 0.1).mean()) * 100
    fifth = float(sensitivity.part_way(original, model, compressed, ids, 0.2).mean()) * 25
    assert abs(tenth / fifth - 1) < 0.2  # quadratic while small
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
