"""MLP channels of any architecture: the smaller model computes what the whole one does with these
channels silent.
"""

import pytest
import tiny_models
import torch

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import mlp, structured

IDS = torch.randint(3, tiny_models.VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(1))
FUSED = "gate and up in one matrix"
KINDS = {
    "gemma": 2, "gemma2": 2, "granite": 2, "olmo2": 2, "olmo3": 2, "phi3": FUSED, "glm4": FUSED,
    "falcon": 1, "gpt_neox": 1, "gptj": 1, "starcoder2": 1, "nemotron": 1, "stablelm": 2,
    "cohere2": 2,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_is_silenced(kind):
    model = tiny_models.stirred(kind, 0.1, layers=2)
    parts = mlp.of(model)
    rows = {name: made.shape[1] for name, made in parts.made.items()}
    assert list(rows.values()) == ([2] if KINDS[kind] == FUSED else [1] * KINDS[kind])
    result = structured.prune_mlp(model, IDS, keep=0.4, compensate=False)
    kept = result.details["kept"]
    handles = []
    for block, columns in zip(walk.blocks(model), kept, strict=True):
        layer = block.get_submodule(parts.out)
        silent = torch.zeros(walk.weight_of(layer).shape[1])
        silent[columns] = 1
        handles.append(
            layer.register_forward_pre_hook(lambda _, args, silent=silent: (args[0] * silent,))
        )
    with torch.no_grad():
        wanted = model(input_ids=IDS, use_cache=False).logits
        torch.testing.assert_close(
            result.model(input_ids=IDS, use_cache=False).logits, wanted, rtol=1e-4, atol=1e-5
        )
    for handle in handles:
        handle.remove()
    assert result.model.num_parameters() < model.num_parameters() and type(result.model) is type(
        model
    )
    assert getattr(result.model.config, parts.width) == result.settings["channels"] == len(kept[0])


def test_what_cannot_be_written_down_or_found_is_refused():
    for kind, sentence in (
        ("bloom", "config of bloom has no number of MLP channels"),
        ("mixtral", "MixtralForCausalLM is a mixture of experts"),
    ):
        with pytest.raises(CompressionError, match=sentence):
            structured.prune_mlp(tiny_models.model_of(kind, layers=1), IDS)
