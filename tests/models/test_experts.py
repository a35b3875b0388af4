"""Mixtures of experts computed from a list of linear layers are those that transformers computes
from its fused tensors.
"""

import copy

import pytest
import tiny_models
import torch
import transformers
from torch import nn

from course_utils.errors import CompressionError
from course_utils.models import experts, walk

transformers.logging.set_verbosity_error()
KINDS = (
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "olmoe",
    "gpt_oss",
    "deepseek_v3",
    "phimoe",
    "jamba",
    "granitemoe",
    "ernie4_5_moe",
    "glm4_moe",
)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("kind", KINDS)
def test_listed_experts_compute_the_same_and_go_back(kind):
    model = tiny_models.model_of(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ids = torch.randint(3, 90, (3, 12), generator=torch.Generator().manual_seed(0))
    before, wanted = copy.deepcopy(model.state_dict()), logits(model, ids)
    found = experts.fused(model)
    assert found, "transformers keeps these experts fused"
    held = sum(p.numel() for m in found.values() for p in m.parameters() if p.dim() == 3)
    apart = experts.listed(model)
    torch.testing.assert_close(logits(apart, ids), wanted, atol=1e-5, rtol=1e-5)
    inside = sum(
        walk.weight_of(m).numel() for n, m in walk.compressible(apart).items() if ".listed." in n
    )
    assert inside == held and not experts.fused(apart)
    assert set(experts.names_of_listed(apart)) == set(found)
    experts.fuse(apart)
    assert type(apart) is type(model) and {k: v.shape for k, v in apart.state_dict().items()} == {
        k: v.shape for k, v in before.items()
    }
    assert all(torch.equal(v, before[k]) for k, v in apart.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    torch.testing.assert_close(logits(apart, ids), wanted, atol=1e-6, rtol=1e-6)


def test_dense_models_are_left_alone():
    model = tiny_models.model_of("llama")
    assert experts.listed(model) is model


def test_a_kind_that_cannot_be_taken_apart_is_refused_by_name():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_up_proj, self.down_proj = (
                nn.Parameter(torch.ones(2, 8, 4)),
                nn.Parameter(torch.ones(2, 4, 4)),
            )

    model = nn.Sequential(Odd())
    with pytest.raises(CompressionError, match="0: the experts of a Odd"):
        experts.listed(model)
