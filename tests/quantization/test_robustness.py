"""Every model-level method: NaN refused before any work, and an interrupt at any moment leaves the
model as it was.
"""

import copy

import pytest
import torch
from torch import nn

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import (
    awq,
    codebooks,
    extreme,
    floats,
    gptq,
    llm_int8,
    nf4,
    qat,
    rtn,
    smoothquant,
    w8a8,
)

METHODS = {
    "rtn": lambda model, ids: rtn.quantize(model, bits=4, group_size=16),
    "gptq": lambda model, ids: gptq.quantize(model, ids, bits=4, group_size=16),
    "awq": lambda model, ids: awq.quantize(model, ids, bits=4, group_size=16, alphas=(0.0, 0.5)),
    "smoothquant": lambda model, ids: smoothquant.quantize(model, ids),
    "smoothquant static": lambda model, ids: smoothquant.quantize(model, ids, observer="min_max"),
    "w8a8": lambda model, ids: w8a8.quantize(model),
    "w8a8 static": lambda model, ids: w8a8.quantize(
        model, ids, observer="min_max", activations="per_tensor"
    ),
    "llm.int8": lambda model, ids: llm_int8.quantize(model),
    "nf4": lambda model, ids: nf4.quantize(model, block_size=32),
    "fp8": lambda model, ids: floats.quantize(model),
    "k-means": lambda model, ids: codebooks.quantize(model, bits=2),
    "binary": lambda model, ids: extreme.quantize(model, kind="binary"),
    "ternary": lambda model, ids: extreme.quantize(model),
    "qat": lambda model, ids: qat.quantize(model, ids, steps=2, batch=2, group_size=16),
}
CALIBRATED = ("gptq", "awq", "smoothquant", "smoothquant static", "w8a8 static", "qat")


def state_of(model):
    """All that a caller can see: parameters by identity and value, mode, hooks, what is trained."""
    hooks = [
        n
        for n, m in model.named_modules()
        if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks
    ]
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    kinds = [type(m) for m in model.modules()]
    return hooks, trained, kinds, model.training, [id(p) for p in model.parameters()]


@pytest.mark.parametrize("method", METHODS)
def test_models_without_values_are_refused(method, make, ids):
    with pytest.raises(CompressionError, match="meta device"):
        METHODS[method](make("llama").to("meta"), ids)


@pytest.mark.parametrize("method", METHODS)
def test_nan_is_refused_before_any_work(method, make, ids, monkeypatch):
    """In a weight, a norm, the embedding, a bias of the last block: the message names the place."""
    model = make("opt")
    monkeypatch.setattr(copy, "deepcopy", lambda *_: pytest.fail("work began"))
    monkeypatch.setattr(walk, "replace", lambda *_: pytest.fail("work began"))
    places = [
        n
        for n, _ in model.named_parameters()
        if n.endswith(("layers.2.fc2.bias", "layers.1.self_attn.q_proj.weight"))
    ]
    places += [
        n
        for n, _ in model.named_parameters()
        if "embed_tokens" in n or n.endswith("layers.0.final_layer_norm.weight")
    ]
    assert len(places) == 4
    for place, value in zip(places, (torch.nan, torch.inf, -torch.inf, torch.nan), strict=True):
        parameter = model.get_parameter(place)
        kept = parameter.detach().clone()
        parameter.data.view(-1)[-1] = value
        with pytest.raises(
            CompressionError, match=rf"{place.rpartition('.')[0]}: .*NaN or infinity"
        ):
            METHODS[method](model, ids)
        parameter.data.copy_(kept)
    monkeypatch.undo()
    assert METHODS[method](model, ids).settings


@pytest.mark.parametrize("method", CALIBRATED)
def test_sequences_that_are_too_long_are_refused(method, make):
    for kind in ("gpt2", "opt"):
        with pytest.raises(
            CompressionError, match="calibration: sequences of 65 tokens.*at most 64"
        ):
            METHODS[method](make(kind), torch.zeros(2, 65, dtype=torch.long))


@pytest.mark.parametrize("method", CALIBRATED)
def test_token_ids_that_the_model_lacks_are_refused(method, make, ids):
    model = make("llama")
    before = state_of(model)
    for bad in (96, -1):
        wrong = ids.clone()
        wrong[3, 5] = bad
        with pytest.raises(CompressionError, match="calibration: holds token ids outside 0 to 95"):
            METHODS[method](model, wrong)
    assert state_of(model) == before


class Fuse:
    """Stands before functions that every method passes through; burns at the given call."""

    def __init__(self, monkeypatch, at=None):
        self.calls, self.at = 0, at
        monkeypatch.setattr(walk, "weight_of", self.before(walk.weight_of))
        monkeypatch.setattr(walk, "replace", self.before(walk.replace))
        monkeypatch.setattr(nn.Linear, "forward", self.before(nn.Linear.forward))

    def before(self, function):
        def call(*args, **kwargs):
            self.calls += 1
            if self.calls == self.at:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_anywhere(method, make, ids, monkeypatch):
    """The model is the same and works, nothing is left hanging on it, and a second run gives what a
    first would have.
    """
    model = make("qwen2").train()
    before, values = state_of(model), copy.deepcopy(model.state_dict())
    with monkeypatch.context() as patched:
        clean = Fuse(patched)
        wanted = METHODS[method](model, ids)
    assert clean.calls > 20
    for at in (1, clean.calls // 3, clean.calls // 2, clean.calls - 1):
        with monkeypatch.context() as patched:
            Fuse(patched, at)
            with pytest.raises(KeyboardInterrupt):
                METHODS[method](model, ids)
        assert state_of(model) == before, at
        assert all(torch.equal(values[k], v) for k, v in model.state_dict().items()), at
    again = METHODS[method](model, ids)
    with torch.no_grad():
        assert torch.isfinite(model(ids).logits).all()
        assert torch.equal(again.model(ids).logits, wanted.model(ids).logits)
