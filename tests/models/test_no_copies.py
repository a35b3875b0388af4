"""No method copies a whole model, and none changes the one that it is given: every function of the
package that makes a `Compressed`.

The list is read from the package, so that a new method is tried too; what it must be given beside a
model stands in GIVEN.
"""

import methods
import pytest
import torch
from methods import IDS, llama
from peak_memory import peak_of

from course_utils import quantization
from course_utils.models import sharing, walk

# blocks: what a method needs beside its result is the same for both, and a whole copy would be
# three blocks more
FEW, MANY = 2, 5
GROWTH = 1.5
OTHERS = (*methods.TRAINED, *methods.SHARED, "trellis.quantize")  # test_streaming; slow, and as e8
METHODS = {
    name: (made, signature) for name, made, signature in methods.found() if name not in OTHERS
}


def test_methods_are_found():
    assert {
        "gptq.quantize",
        "awq.quantize",
        "smoothquant.quantize",
        "sparsegpt.prune",
        "structured.prune_heads",
    } <= METHODS.keys()
    assert set(OTHERS) <= {name for name, *_ in methods.found()}


def bytes_of(*models):
    return sum(
        {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for m in models
            for t in (*m.parameters(), *m.buffers())
        }.values()
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore::course_utils.errors.CompressionWarning")
def test_what_is_new_is_the_result_and_the_same_for_every_depth(name, monkeypatch):
    monkeypatch.setattr(quantization.entropy_coded, "ATTEMPTS", 1)
    few, many = (blocks_beside_the_result(name, blocks) for blocks in (FEW, MANY))
    assert many - few <= GROWTH, f"{few:.1f} and {many:.1f} blocks beside the result"


def blocks_beside_the_result(name, blocks):
    made, signature = METHODS[name]
    model = methods.model_for(name, blocks)
    given = methods.given(name, signature, model)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    objects = list(map(id, (*model.parameters(), *model.buffers())))
    result, most = peak_of(lambda: made(model, **given))
    now = model.state_dict()
    assert list(now) == list(before) and all(torch.equal(now[key], before[key]) for key in before)
    assert objects == list(map(id, (*model.parameters(), *model.buffers())))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not sharing.memory_of(model) & {p for p in sharing.memory_of(result.model) if p}
    block = (
        bytes_of(model) / blocks if name == "sequential.prune" else bytes_of(walk.blocks(model)[0])
    )
    return (most - bytes_of(result.model)) / block


@pytest.mark.parametrize("observer", [None, "min_max"])
def test_smoothquant_is_w8a8_of_the_smoothed_model(observer):
    """Scaled only when used, layer by layer, or all of them beforehand: the same bits; also where
    layers are left as they are.
    """
    model = llama(MANY)
    settings = {"observer": observer, "ignore": "3.*(q_proj|up_proj)"}
    result = quantization.smoothquant.quantize(model, IDS, **settings)
    smoothed = quantization.smoothquant.smooth(model, IDS)
    wanted = quantization.w8a8.quantize(
        smoothed, IDS if observer else None, activations="per_tensor", **settings
    )
    first, second = result.model.state_dict(), wanted.model.state_dict()
    assert first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )
    assert {type(m).__name__ for m in result.model.modules()} == {
        type(m).__name__ for m in wanted.model.modules()
    }
    with torch.no_grad():
        torch.testing.assert_close(smoothed(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-4)
