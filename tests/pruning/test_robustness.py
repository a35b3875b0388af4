"""What must hold for every pruning method: files, tied embeddings, interruptions, dead inputs,
nothing and everything.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM

from course_utils.models import walk
from course_utils.pruning import (
    apply,
    magnitude,
    recovery,
    schedules,
    sparsegpt,
    storage,
    structured,
    wanda,
    width,
)
from course_utils.quantization import load

METHODS = {
    "magnitude": lambda m, ids: magnitude.prune(m, 0.6),
    "wanda": lambda m, ids: wanda.prune(m, ids, 0.6),
    "sparsegpt 2:4": lambda m, ids: sparsegpt.prune(m, ids, pattern="2:4", damping=0.1),
    "sparsegpt with 4 bits": lambda m, ids: sparsegpt.prune(
        m, ids, bits=4, group_size=16, damping=0.1
    ),
    "mlp": lambda m, ids: structured.prune_mlp(m, ids, keep=0.5),
    "layers": lambda m, ids: structured.prune_layers(m, ids, keep=2),
    "blocks": lambda m, ids: structured.prune_blocks(m, ids, keep=2),
    "heads": lambda m, ids: (
        width if m.config.model_type in width.FIELDS else structured
    ).prune_heads(m, ids, keep=2),
    "gradual": lambda m, ids: schedules.gradual(m, ids, 0.6, steps=2, batch=2, progress=False),
}
WALKS = {
    "wanda": lambda m, ids: wanda.prune(m, ids),
    "sparsegpt": lambda m, ids: sparsegpt.prune(m, ids, damping=0.1),
    "mlp": lambda m, ids: structured.prune_mlp(m, ids),
    "heads": lambda m, ids: structured.prune_heads(m, ids, keep=2),
    "layers": lambda m, ids: structured.prune_layers(m, ids),
    "blocks": lambda m, ids: structured.prune_blocks(m, ids),
}


def bits_of(tensor):
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded_bit_for_bit(make, ids, tmp_path, method, name):
    result = METHODS[method](make(name), ids)
    result.save(tmp_path / "model")
    again = load(tmp_path / "model").state_dict()
    for key, tensor in result.model.state_dict().items():
        assert again[key].dtype == tensor.dtype and torch.equal(
            bits_of(again[key]), bits_of(tensor)
        ), key


@pytest.mark.parametrize("method", METHODS)
def test_tied_embeddings_are_whole_and_tied(tiny_llama, ids, tmp_path, method):
    before = tiny_llama.model.embed_tokens.weight.clone()
    result = METHODS[method](tiny_llama, ids)
    result.save(tmp_path / "model")
    for model in (result.model, load(tmp_path / "model")):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        if method != "gradual":  # which trains it
            assert torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize("method", ["mlp", "layers", "blocks", "heads"])
def test_smaller_tensors_own_their_memory(tiny, ids, method):
    """Contiguous, and no view of something larger: a small product reads small memory."""
    for name, tensor in METHODS[method](tiny, ids).model.state_dict().items():
        assert tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes, name


def test_a_pruned_model_stays_an_ordinary_one(tiny, ids, tmp_path):
    """Masks leave no trace but zeros: transformers alone saves and loads the model."""
    pruned = wanda.prune(tiny, ids, 0.5).model
    pruned.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=pruned.dtype)
    assert apply.zeros(again) == apply.zeros(pruned)
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), pruned.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("method", WALKS)
def test_an_interrupted_walk_leaves_the_model_as_it_was(tiny_llama, ids, monkeypatch, method):
    before, calls, original = (
        {k: v.clone() for k, v in tiny_llama.state_dict().items()},
        [],
        walk.run_block,
    )

    def killed(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(walk, "run_block", killed)
    with pytest.raises(KeyboardInterrupt):
        WALKS[method](tiny_llama, ids)
    assert all(torch.equal(v, before[k]) for k, v in tiny_llama.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in tiny_llama.modules()), (
        "no hook stays behind"
    )
    monkeypatch.setattr(walk, "run_block", original)
    assert WALKS[method](tiny_llama, ids).model(input_ids=ids).logits.isfinite().all()


def test_interrupted_recovery_ends_where_an_uninterrupted_one_does(
    tiny_llama, ids, tmp_path, monkeypatch
):
    pruned = magnitude.prune(tiny_llama, 0.5).model
    settings = {"steps": 8, "every": 3, "batch": 2, "progress": False}
    wanted = recovery.train(pruned, ids, **settings).model.state_dict()
    original, steps = recovery.next_token, []

    def killed(*args):
        inner = original(*args)

        def losses(rows):
            steps.append(rows)
            if len(steps) == 6:
                raise KeyboardInterrupt
            return inner(rows)

        return losses

    monkeypatch.setattr(recovery, "next_token", killed)
    with pytest.raises(KeyboardInterrupt):
        recovery.train(pruned, ids, folder=tmp_path / "run", **settings)
    monkeypatch.setattr(recovery, "next_token", original)
    found = recovery.train(pruned, ids, folder=tmp_path / "run", **settings).model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in wanted.items())


@pytest.mark.parametrize("prune", [wanda.prune, sparsegpt.prune])
def test_dead_channels_of_a_model_go_first(tiny_llama, ids, prune):
    """Every second MLP channel always gives 0: half of the weights that read them can go, and
    nothing changes there.
    """
    dead = torch.arange(0, 64, 2)
    for block in walk.blocks(tiny_llama):
        block.mlp.up_proj.weight.data[dead] = 0
    options = {"damping": 0.1} if prune is sparsegpt.prune else {}
    pruned = prune(tiny_llama, ids, 0.5, pattern="per_row", **options).model
    for old, new in zip(walk.blocks(tiny_llama), walk.blocks(pruned), strict=True):
        kept = new.mlp.down_proj.weight != 0
        assert not kept[:, dead].any() and kept[:, 1::2].all()
        assert (
            torch.equal(new.mlp.down_proj.weight[:, 1::2], old.mlp.down_proj.weight[:, 1::2])
            or prune is sparsegpt.prune
        )


@pytest.mark.parametrize("prune", [wanda.prune, sparsegpt.prune])
def test_nothing_and_everything(tiny, ids, prune):
    options = {"damping": 0.1} if prune is sparsegpt.prune else {}
    same, empty = (prune(tiny, ids, s, **options).model for s in (0.0, 1.0))
    assert all(
        torch.equal(a, b)
        for a, b in zip(same.state_dict().values(), tiny.state_dict().values(), strict=True)
    )
    assert apply.sparsity_of(empty) == 1
    with torch.no_grad():
        assert empty(input_ids=ids).logits.isfinite().all()
    small = storage.compress(empty).model
    with torch.no_grad():
        assert torch.allclose(small(input_ids=ids).logits, empty(input_ids=ids).logits, atol=1e-5)
