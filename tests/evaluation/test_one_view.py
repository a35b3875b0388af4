"""½ δᵀFδ against F built from its definition, and against measured KL in the limit of small δ, on
several architectures.
"""

import copy

import pytest
import torch
from tiny_models import stirred

from course_utils.errors import CompressionError
from course_utils.evaluation import by_window, one_view, sensitivity
from course_utils.models import walk
from course_utils.pruning import magnitude, structured
from course_utils.quantization import rtn

IDS = torch.randint(3, 96, (3, 10), generator=torch.Generator().manual_seed(0))
KINDS = ("llama", "gpt2", "gemma2", "opt")


@pytest.fixture(scope="module")
def llama():
    return stirred("llama", 0.2, 2).eval()


def test_against_the_matrix_itself(llama):
    """F = mean over tokens of Jᵀ(diag p − p pᵀ)J, J by central differences, for a few weights of
    the last layer.
    """
    model = copy.deepcopy(llama).double()  # norms compute in single precision all the same
    name = list(walk.compressible(model))[-1]
    weight, places = model.get_submodule(name).weight.data, [(0, 0), (1, 3), (5, 2), (7, 7)]
    J = []
    with torch.no_grad():
        logits = model(input_ids=IDS, use_cache=False).logits
        for i, j in places:
            sides = []
            for h in (0.02, -0.02):
                weight[i, j] += h
                sides.append(model(input_ids=IDS, use_cache=False).logits)
                weight[i, j] -= h
            J.append((sides[0] - sides[1]) / 0.04)
    J = torch.stack(J, -1)  # (windows, tokens, words, weights)
    p = logits.softmax(-1)
    F = torch.einsum("wtva,wtv,wtvb->wab", J, p, J) - torch.einsum(
        "wta,wtb->wab", *[torch.einsum("wtva,wtv->wta", J, p)] * 2
    )
    F = F / IDS.shape[1]
    d = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
    delta = torch.zeros_like(weight)
    for (i, j), value in zip(places, d, strict=True):
        delta[i, j] = value
    torch.testing.assert_close(
        one_view.predicted_kl(model, {name: delta}, IDS),
        0.5 * torch.einsum("a,wab,b->w", d, F, d),
        rtol=2e-3,
        atol=1e-9,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_small_changes_of_many_models(kind):
    """KL of a part of the error, divided by the square of that part."""
    model = stirred(kind, 0.2, 2).eval()
    compressed = rtn.quantize(model, bits=4, group_size=-1).model
    predicted = one_view.predicted_kl(model, one_view.change(model, compressed), IDS)
    logits = model(input_ids=IDS, use_cache=False).logits.detach()
    for name, delta in one_view.change(model, compressed).items():
        weight = model.get_submodule(name).weight.data
        weight += 0.1 * (
            delta
            if weight.shape == delta.shape and type(model.get_submodule(name)).__name__ != "Conv1D"
            else delta.T
        ).to(weight)
    moved = model(input_ids=IDS, use_cache=False).logits.detach()
    p, q = logits.log_softmax(-1), moved.log_softmax(-1)
    measured = (p.exp() * (p - q)).sum(-1).mean(1).double() * 1e2
    torch.testing.assert_close(predicted, measured, rtol=0.1, atol=1e-6)


def test_it_is_what_part_way_measures(llama):
    compressed = rtn.quantize(llama, bits=3, group_size=-1)
    predicted = one_view.predicted_kl(llama, one_view.change(llama, compressed), IDS)
    original = by_window.predictions(llama, IDS)
    measured = sensitivity.part_way(original, llama, compressed.model, IDS, 0.2) / 0.2**2
    assert float((predicted - measured).abs().max()) < 0.1 * float(measured.max())


def test_it_is_a_quadratic_form_and_nothing_costs_nothing(llama):
    delta = one_view.change(llama, magnitude.prune(llama, 0.5))
    one = one_view.predicted_kl(llama, delta, IDS)
    twice = one_view.predicted_kl(llama, {n: 2 * d for n, d in delta.items()}, IDS, batch=1)
    torch.testing.assert_close(twice, 4 * one, rtol=1e-4, atol=1e-9)
    nothing = one_view.predicted_kl(llama, {n: torch.zeros_like(d) for n, d in delta.items()}, IDS)
    assert nothing.abs().max() == 0 and (one > 0).all()


def test_the_model_is_left_as_it_was(llama):
    before = {k: v.clone() for k, v in llama.state_dict().items()}
    llama.train()
    one_view.predicted_kl(
        llama, one_view.change(llama, rtn.quantize(llama, bits=4, group_size=-1)), IDS
    )
    assert llama.training
    llama.eval()
    assert all(torch.equal(v, before[k]) for k, v in llama.state_dict().items())


def test_experts_that_have_no_derivative_are_refused_by_name():
    model = stirred("mixtral", 0.2, 2).eval()
    with pytest.raises(CompressionError, match="MixtralForCausalLM has no derivative"):
        one_view.predicted_kl(model, one_view.change(model, model), IDS)


def test_bad_input_is_named(llama):
    name = next(iter(walk.compressible(llama)))
    smaller = structured.keep_layers(llama, [0])
    with pytest.raises(CompressionError, match="no weight of this shape"):
        one_view.change(llama, smaller)
    with pytest.raises(CompressionError, match="is no linear layer"):
        one_view.predicted_kl(llama, {"head": torch.zeros(2, 2)}, IDS)
    with pytest.raises(CompressionError, match="is no linear layer"):
        one_view.predicted_kl(llama, {name: torch.zeros(2, 2)}, IDS)
    with pytest.raises(CompressionError, match="windows, context"):
        one_view.predicted_kl(llama, {}, IDS[0])
