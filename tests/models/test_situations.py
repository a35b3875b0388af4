"""What practitioners bring (situations.yaml): every situation has tests, and these are there; those
that had no better place are here.
"""

import ast
from pathlib import Path

import pytest
import tiny_models
import torch
import yaml
from torch import nn

from course_utils.errors import CompressionError, CompressionWarning
from course_utils.pruning import sparsegpt, structured, wanda
from course_utils.quantization import gptq, rtn

TESTS = Path(__file__).parents[1]
SITUATIONS = yaml.safe_load(Path(__file__).with_name("situations.yaml").read_text(encoding="utf-8"))
IDS = torch.randint(3, tiny_models.VOCABULARY, (8, 20), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_situation_has_its_tests(situation):
    told = SITUATIONS[situation]
    assert told["right"] and told["tests"]
    for place in told["tests"]:
        file, _, name = place.partition("::")
        found = [
            node.name
            for node in ast.parse((TESTS / file).read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef)
        ]
        assert name in found, place


class OnlyForTwos(nn.Module):
    """An adapter in a block that only runs for a token that calibration does not have."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.rare = inner, nn.Linear(32, 32, bias=False)

    def forward(self, x):
        return self.inner(x)


def test_a_layer_that_no_token_reaches_is_named():
    model = tiny_models.model_of("llama", layers=2)
    model.model.layers[1].mlp = OnlyForTwos(model.model.layers[1].mlp)
    name = "model.layers.1.mlp.rare"
    assert gptq.quantize(model, IDS, group_size=8).details["few_tokens"] == {name: 0}
    for prune in (wanda.prune, sparsegpt.prune):
        made = prune(model, IDS)
        assert made.details["unreached"] == [name]
        assert (made.model.get_submodule(name).weight == 0).float().mean() == 0.5, "by magnitude"


def test_a_refit_by_few_tokens_is_warned_of():
    model = tiny_models.model_of("llama", layers=1)
    with pytest.warns(
        CompressionWarning,
        match=r"calibration: 20 tokens for the 48 inputs of mlp\.down_proj.*give 384 or more",
    ):
        structured.prune_mlp(model, IDS[:1])
    with pytest.warns(
        CompressionWarning, match=r"calibration: 20 tokens for the 32 inputs of self_attn\.o_proj"
    ):
        structured.prune_heads(model, IDS[:1])


def test_a_group_size_that_does_not_divide_one_layer():
    model = tiny_models.model_of("llama", layers=1)  # 32 wide, 48 channels
    sentence = (
        r"mlp\.down_proj: group_size=32 does not divide the 48 columns; choose one of \[16\], "
        r"or -1 for whole rows \(in a model, per_layer"
    )
    for quantize in (rtn.quantize, lambda m, **s: gptq.quantize(m, IDS, **s)):
        with pytest.raises(CompressionError, match=sentence):
            quantize(model, group_size=32)
        made = (
            quantize(model, group_size=32, per_layer={"down_proj": {"group_size": 16}})
            .model.model.layers[0]
            .mlp
        )
        assert (made.up_proj.groups, made.down_proj.groups) == (1, 3)
