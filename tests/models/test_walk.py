"""Walking by hand gives what the model gives."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError
from course_utils.models import walk


def outputs_of_blocks(model, ids):
    """What each block gave when the whole model ran."""
    found, handles = [], []
    for block in walk.blocks(model):
        handles.append(
            block.register_forward_hook(
                lambda m, a, out: found.append(out[0] if isinstance(out, tuple) else out)
            )
        )
    with torch.no_grad():
        model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def test_blocks_run_one_by_one_reproduce_the_hidden_states(tiny, ids):
    expected = outputs_of_blocks(tiny, ids)
    with torch.no_grad():
        official = tiny(ids, output_hidden_states=True, use_cache=False).hidden_states
    assert len(expected) == len(walk.blocks(tiny)) == 3
    seen = 0
    for part, (hidden, kwargs) in zip(
        ids.split(2), walk.first_block_inputs(tiny, ids, batch=2), strict=True
    ):
        rows = slice(seen, seen + len(part))
        torch.testing.assert_close(hidden, official[0][rows], atol=1e-5, rtol=0)
        for i, block in enumerate(walk.blocks(tiny)):
            hidden = walk.run_block(block, hidden, kwargs)
            torch.testing.assert_close(hidden, expected[i][rows], atol=1e-5, rtol=0)
            if i < 2:  # the last official one has gone through the final norm
                torch.testing.assert_close(hidden, official[i + 1][rows], atol=1e-5, rtol=0)
        seen += len(part)
    assert seen == len(ids)


def test_no_hook_stays(tiny, ids):
    list(walk.first_block_inputs(tiny, ids))
    stopped = walk.first_block_inputs(tiny, ids, batch=1)
    next(stopped)
    stopped.close()
    assert not any(m._forward_pre_hooks for m in tiny.modules())
    with torch.no_grad():
        assert tiny(ids).logits.shape == (3, 20, 1024)


@pytest.mark.parametrize("bare", [True, False])
def test_an_encoder_is_walked_too(make, ids, bare):
    model = make("bert").bert if bare else make("bert")
    expected = outputs_of_blocks(model, ids)
    (hidden, kwargs), *rest = walk.first_block_inputs(model, ids)
    assert not rest and len(expected) == 2
    for block, wanted in zip(walk.blocks(model), expected, strict=True):
        hidden = walk.run_block(block, hidden, kwargs)
        torch.testing.assert_close(hidden, wanted, atol=1e-5, rtol=0)


def test_what_has_no_blocks_is_refused():
    with pytest.raises(CompressionError, match="no transformer blocks"):
        walk.blocks(nn.Sequential(nn.Linear(2, 2)))


def test_compressible_layers_are_those_of_the_blocks(tiny):
    """All matrices of the blocks, and neither embeddings nor the head."""
    found = {id(m.weight) for m in walk.compressible(tiny).values()}
    matrices = {id(p) for p in walk.blocks(tiny).parameters() if p.dim() == 2}
    assert found == matrices
    assert (
        id(tiny.get_input_embeddings().weight) not in found
        and id(tiny.get_output_embeddings().weight) not in found
    )


def test_weight_of_is_out_by_in(tiny):
    torch.manual_seed(0)
    kinds = set()
    for name, module in walk.compressible(tiny).items():
        weight = walk.weight_of(module)
        x = torch.randn(5, weight.shape[1])
        bias = 0 if module.bias is None else module.bias
        torch.testing.assert_close(module(x), x @ weight.T + bias, atol=1e-5, rtol=1e-5, msg=name)
        kinds.add(type(module))
    assert kinds == ({Conv1D} if tiny.config.model_type == "gpt2" else {nn.Linear})


def test_replace(tiny, ids):
    name, module = list(walk.compressible(tiny).items())[-1]
    weight = walk.weight_of(module)
    new = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        new.weight.copy_(weight)
        new.bias.copy_(torch.zeros(len(weight)) if module.bias is None else module.bias)
        before = tiny(ids).logits
        walk.replace(tiny, name, new)
        assert tiny.get_submodule(name) is new and not new.training
        torch.testing.assert_close(tiny(ids).logits, before, atol=1e-5, rtol=1e-5)
    with pytest.raises(CompressionError, match="nn.Sequential"):
        walk.replace(new, "", module)


def test_a_change_is_felt_by_the_blocks_behind_it(tiny, ids):
    visited = []
    for i, (block, states) in enumerate(walk.through_blocks(tiny, ids)):
        visited.append(torch.cat([hidden for hidden, _ in states]))
        if i == 0:
            with torch.no_grad():
                for parameter in block.parameters():
                    parameter.mul_(1.5)
    changed = outputs_of_blocks(tiny, ids)
    torch.testing.assert_close(visited[1], changed[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(visited[2], changed[1], atol=1e-5, rtol=0)


def test_watched_inputs_are_those_of_the_whole_model(tiny, ids):
    block = walk.blocks(tiny)[1]
    expected = {}
    handles = [
        m.register_forward_pre_hook(
            lambda m, a: expected.__setitem__(m, a[0].detach().flatten(0, -2))
        )
        for m in walk.linears(block).values()
    ]
    with torch.no_grad():
        tiny(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    seen = {}
    for i, (found, states) in enumerate(walk.through_blocks(tiny, ids)):
        if i == 1:
            walk.watch_inputs(found, states, lambda m, x: seen.__setitem__(m, x))
    assert set(seen) == set(expected)
    for module, x in seen.items():
        assert x.dim() == 2 and x.dtype == torch.float32
        torch.testing.assert_close(x, expected[module], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "bad", [None, torch.zeros(0, 5).long(), torch.zeros(5).long(), [[]], torch.ones(2, 3)]
)
def test_calibration_must_be_there(tiny, bad):
    with pytest.raises(CompressionError, match="calibration"):
        walk.check_calibration(bad, tiny)


def test_token_ids_must_be_in_the_vocabulary(tiny, ids):
    assert torch.equal(walk.check_calibration(ids.int(), tiny), ids)
    rows = tiny.get_input_embeddings().num_embeddings
    for wrong in (rows, -1):
        bad = ids.clone()
        bad[-1, -1] = wrong
        with pytest.raises(
            CompressionError, match=f"calibration: holds token ids outside 0 to {rows - 1}"
        ):
            walk.check_calibration(bad, tiny)


def test_sequences_must_fit_into_the_context(tiny, ids):
    """One token too many is an index error of torch with learned positions, and a silent guess with
    rotary ones.
    """
    longest = walk.longest_context(tiny)
    whole = ids[:1].repeat(1, longest)[:, : longest + 1]
    walk.check_calibration(whole[:, :-1], tiny)
    with pytest.raises(
        CompressionError, match=f"calibration: sequences of {longest + 1} tokens.*at most {longest}"
    ):
        walk.check_calibration(whole, tiny)


def test_parameters_must_be_finite(tiny):
    walk.check_finite(tiny)
    path, parameter = list(tiny.named_parameters())[4]
    for bad in (torch.nan, torch.inf):
        parameter.data.view(-1)[-1] = bad
        with pytest.raises(
            CompressionError,
            match=f"{path.rpartition('.')[0]}: {path.rpartition('.')[2]}: contains NaN",
        ):
            walk.check_finite(tiny)


def test_what_has_no_linear_layer_is_refused():
    with pytest.raises(CompressionError, match=r"nn\.Linear"):
        walk.compressible(nn.Sequential(nn.ReLU()))


def test_inputs_of_named_layers(tiny, ids):
    """Each layer's own product of these inputs is its output."""
    names = list(walk.compressible(tiny))[1::3]
    outputs = {name: [] for name in names}
    handles = [
        tiny.get_submodule(n).register_forward_hook(
            lambda _, args, out, n=n: outputs[n].append(out.flatten(0, -2))
        )
        for n in names
    ]
    found = walk.inputs_of(tiny, ids, names)
    for handle in handles:
        handle.remove()
    for name in names:
        module = tiny.get_submodule(name)
        assert found[name].shape == (ids.numel(), walk.weight_of(module).shape[1])
        bias = 0 if module.bias is None else module.bias
        assert torch.allclose(
            found[name] @ walk.weight_of(module).T + bias, torch.cat(outputs[name]), atol=1e-5
        )
    with pytest.raises(CompressionError, match="'nothing'"):
        walk.inputs_of(tiny, ids, ["nothing"])


def test_two_walks_at_once(tiny, ids):
    """Each stops at every block once, and sees its own states."""
    alone = [(block, states[0][0]) for block, states in walk.through_blocks(tiny, ids[:1])]
    both = list(
        zip(walk.through_blocks(tiny, ids[:1]), walk.through_blocks(tiny, ids[1:]), strict=True)
    )
    assert (
        [block for block, _ in alone]
        == [a[0] for a, _ in both]
        == [b[0] for _, b in both]
        == list(walk.blocks(tiny))
    )
    for (_, wanted), ((_, states), _) in zip(alone, both, strict=True):
        assert torch.equal(states[0][0], wanted)
