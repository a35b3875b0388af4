"""Quantizers copy no weight that they replace; what stays is the result's own."""

import pytest
import tiny_models
import torch
from torch import nn

from course_utils import quantization
from course_utils.models import sharing

IDS = torch.randint(3, tiny_models.VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(1))
METHODS = {
    "rtn": lambda m: quantization.rtn.quantize(m, group_size=8),
    "gptq": lambda m: quantization.gptq.quantize(m, IDS, group_size=8),
    "nf4": quantization.nf4.quantize,
    "w8a8": quantization.w8a8.quantize,
    "llm.int8": quantization.llm_int8.quantize,
}


def storages(model):
    return {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}


@pytest.mark.parametrize("kind", ["llama", "mixtral", "gemma"])
@pytest.mark.parametrize("method", METHODS)
def test_no_weight_is_copied_and_none_is_shared(kind, method, monkeypatch):
    model = tiny_models.model_of(kind, layers=2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    copied = []
    plain = nn.Parameter.__deepcopy__
    monkeypatch.setattr(
        nn.Parameter,
        "__deepcopy__",
        lambda self, memo: copied.append(self.numel()) or plain(self, memo),
    )
    result = METHODS[method](model)
    assert not copied
    assert not storages(model) & storages(result.model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    embeddings, head = result.model.get_input_embeddings(), result.model.get_output_embeddings()
    assert (embeddings.weight is head.weight) == model.config.tie_word_embeddings
    with torch.no_grad():
        embeddings.weight.zero_()
    assert model.get_input_embeddings().weight.any()


def test_structure_shares_numbers_but_no_modules():
    model = tiny_models.model_of("llama", layers=1)
    made = sharing.structure(model)
    assert all(a is b for a, b in zip(model.parameters(), made.parameters(), strict=True))
    assert not set(model.modules()) & set(made.modules()) and made.config is not model.config
