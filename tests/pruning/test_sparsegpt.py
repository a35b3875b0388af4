"""SparseGPT against its float64 specification, least squares, and brute force."""

import copy
import itertools

import pytest
import torch
from hooked import inputs_of
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import apply, masks, sparsegpt
from course_utils.quantization import QuantizedLinear, gptq, grids, hessians


def case(rows, columns, seed=0, tokens=64, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(tokens, columns, generator=g, dtype=dtype) @ torch.randn(
        columns, columns, generator=g, dtype=dtype
    )
    return torch.randn(rows, columns, generator=g, dtype=dtype), X, gptq.hessian(X)


def close(a, b, tolerance=1e-9):
    return (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("pattern, block", [(None, 4), (None, 5), (None, 128), ("per_row", 4),
    ("2:4", 128), ("2:4", 4),
                                            ("1:3", 7), ("4:6", 5), ("per_layer", 1)])  # fmt: skip
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 1.0])
def test_equals_the_specification(pattern, block, sparsity):
    W, _, H = case(6, 12)
    fast = sparsegpt.prune_layer(W, H, sparsity=sparsity, pattern=pattern, block_size=block)
    slow = sparsegpt.prune_layer_spec(W, H, sparsity=sparsity, pattern=pattern, block_size=block)
    assert torch.equal(fast.mask, slow.mask)
    assert close(fast.weight, slow.weight) if slow.mask.any() else (fast.weight == 0).all()
    assert (fast.weight[~fast.mask] == 0).all()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 7), st.integers(1, 13), st.floats(0, 1), st.integers(1, 14), st.integers(0, 1000)
)
def test_counts_are_exact(rows, columns, sparsity, block, seed):
    W, _, H = case(rows, columns, seed)
    mask = sparsegpt.prune_layer(W, H, sparsity=sparsity, block_size=block, damping=0.1).mask
    assert int((~mask).sum()) == masks.removed(W.numel(), sparsity)
    mask = sparsegpt.prune_layer(
        W, H, sparsity=sparsity, block_size=block, damping=0.1, pattern="per_row"
    ).mask
    assert ((~mask).sum(1) == masks.removed(columns, sparsity)).all()


def test_one_row_one_weight_is_the_best_choice_of_all():
    """One weight of the first block goes: of those candidates, the one with the least error after
    adapting the columns after it.
    """
    W, X, H = case(1, 6)
    result = sparsegpt.prune_layer(
        W, H, sparsity=1 / 6, pattern="per_row", block_size=6, damping=0.0
    )
    error = {}
    for j in range(6):
        after = list(range(j + 1, 6))
        target = X[:, j:] @ W[0, j:]
        fit = (
            torch.linalg.lstsq(X[:, after], target[:, None]).solution
            if after
            else torch.zeros(0, 1, dtype=W.dtype)
        )
        error[j] = float((X[:, after] @ fit - target[:, None]).square().sum())
    assert (~result.mask).nonzero()[0, 1] == min(error, key=error.get)


def test_pruning_the_first_columns_is_least_squares():
    """If only the first columns go, the columns that stay have all seen the error: the exact
    optimum.
    """
    W, X, H = case(5, 10)
    mask = torch.ones(5, 10, dtype=torch.bool)
    mask[:, :4] = False
    result = sparsegpt.prune_layer(W, H, mask=mask, damping=0.0)
    fit = torch.linalg.lstsq(X[:, 4:], X @ W.T).solution.T
    assert close(result.weight[:, 4:], fit, 1e-8)


def test_pruning_the_last_column_moves_nothing():
    W, _, H = case(5, 10)
    mask = torch.ones(5, 10, dtype=torch.bool)
    mask[:, 9] = False
    assert torch.equal(sparsegpt.prune_layer(W, H, mask=mask).weight, W * mask)


@pytest.mark.parametrize("seed", range(5))
def test_error_lies_between_the_optimum_and_no_update(seed):
    W, X, H = case(8, 16, seed)
    result = sparsegpt.prune_layer(W, H, damping=0.0)
    best = 0.0
    for row, keep in zip(W, result.mask, strict=True):
        fit = torch.linalg.lstsq(X[:, keep], (X @ row)[:, None]).solution
        best += float((X[:, keep] @ fit - (X @ row)[:, None]).square().sum()) * 2 / len(X)
    found = gptq.layer_error(W, result.weight, H)
    assert best * (1 - 1e-9) <= found < gptq.layer_error(W, W * result.mask, H)


def test_a_diagonal_hessian_is_a_ranking_without_movement():
    W, _, _ = case(6, 8)
    H = torch.diag(torch.arange(1.0, 9.0, dtype=torch.float64))
    result = sparsegpt.prune_layer(W, H, damping=0.0)
    assert torch.equal(result.mask, masks.per_layer(W**2 * H.diagonal(), 0.5))
    assert torch.equal(result.weight, W * result.mask)


def test_two_of_four_takes_the_best_pair():
    W, _, H = case(4, 4)
    result = sparsegpt.prune_layer(W, H, pattern="2:4", damping=0.0)
    for row, keep in zip(W, result.mask, strict=True):
        loss = [float(row[j] ** 2 / torch.linalg.inv(H[j:, j:])[0, 0]) for j in range(4)]
        best = min(itertools.combinations(range(4), 2), key=lambda gone: sum(loss[j] for j in gone))
        assert tuple((~keep).nonzero().flatten().tolist()) == best


@pytest.mark.parametrize("group, symmetric", [(-1, False), (4, False), (4, True)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_joint_quantization(bits, group, symmetric):
    W, _, H = case(6, 16)
    result = sparsegpt.prune_layer(W, H, bits=bits, group_size=group, symmetric=symmetric)
    assert (result.weight[~result.mask] == 0).all(), "zero is on the grid"
    alone = sparsegpt.prune_layer(W, H)
    assert torch.equal(alone.mask, result.mask)
    grid = grids.make_grid(alone.weight, bits=bits, group_size=group, symmetric=symmetric)
    assert torch.equal(grids.dequantize(result.codes, grid), result.weight), (
        "what stays is on the grid of the pruned weight"
    )
    U = gptq.inverse_cholesky(gptq.damped(H, 0.01))
    slow = W.clone()
    for i in range(16):  # the same walk for this mask, column by column
        q = grids.dequantize(grids.quantize(slow * result.mask, grid), grid)[:, i]
        slow[:, i + 1 :] -= ((slow[:, i] - q) / U[i, i])[:, None] * U[i, i + 1 :]
        slow[:, i] = q
    assert close(result.weight, slow)


@pytest.mark.parametrize("bits", [3, 4])
def test_together_beats_one_after_the_other(bits):
    joint, after = 0.0, 0.0
    for seed in range(4):
        W, _, H = case(16, 64, seed, tokens=256)
        joint += gptq.layer_error(W, sparsegpt.prune_layer(W, H, bits=bits).weight, H)
        after += gptq.layer_error(
            W, grids.fake_quantize(sparsegpt.prune_layer(W, H).weight, bits=bits), H
        )
    assert joint < {3: 0.96, 4: 0.985}[bits] * after, joint / after


def test_all_bits_of_precision_do_not_matter():
    W, _, H = case(6, 12)
    single = sparsegpt.prune_layer(W.float(), H.float())
    assert single.weight.dtype == torch.float32
    double = sparsegpt.prune_layer(W, H, mask=single.mask)
    assert close(single.weight.double(), double.weight, 1e-4)


def test_dead_inputs_go_first_and_sparse_weights_stay():
    W, X, _ = case(6, 8)
    X[:, ::2] = 0
    result = sparsegpt.prune_layer(W, gptq.hessian(X))
    assert torch.equal(result.mask, torch.tensor([[False, True] * 4] * 6))
    assert torch.equal(result.weight, W * result.mask), (
        "the inputs that live lose nothing, so nothing moves"
    )
    W, _, H = case(6, 8)
    W[:, 1::2] = 0
    result = sparsegpt.prune_layer(W, H)
    assert torch.equal(result.weight, W)


def test_models(tiny, ids):
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    result = sparsegpt.prune(tiny, ids, pattern="2:4", damping=0.1)
    assert all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())
    for kept in apply.nonzero(result.model).values():
        assert (kept.view(len(kept), -1, 4).sum(-1) <= 2).all()
    # every block by hand: the dense block sees what comes out of the blocks that are pruned already
    mixed = copy.deepcopy(tiny)
    for block, pruned in zip(walk.blocks(mixed), walk.blocks(result.model), strict=True):
        seen = inputs_of(mixed, block, ids)
        for name, module in walk.linears(block).items():
            H = hessians.shrunk(gptq.hessian(seen[module]), ids.numel())
            wanted = sparsegpt.prune_layer_spec(
                walk.weight_of(module), H, pattern="2:4", damping=0.1
            )
            found = walk.weight_of(walk.linears(pruned)[name])
            assert torch.equal(found != 0, wanted.mask) and close(
                found.double(), wanted.weight, 1e-3
            ), name
        for name, module in walk.linears(block).items():
            walk.weight_of(module).copy_(walk.weight_of(walk.linears(pruned)[name]))


def test_models_with_bits(tiny, ids):
    result = sparsegpt.prune(tiny, ids, bits=4, group_size=16, damping=0.1)
    packed = [m for m in result.model.modules() if isinstance(m, QuantizedLinear)]
    assert len(packed) == len(walk.compressible(tiny))
    assert all(float((m.weight == 0).float().mean()) >= 0.5 for m in packed)
    assert torch.isfinite(result.model(input_ids=ids).logits).all()


def test_bad_input_is_named(tiny_llama, ids):
    W, _, H = case(4, 8)
    bad: list = [
        ({"sparsity": 2}, "sparsity=2"), ({"pattern": "rows"}, "pattern='rows'"),
        ({"pattern": "2:5"}, "does not divide"), ({"damping": 2}, "damping=2"),
        ({"block_size": 0}, "block_size=0"), ({"mask": torch.ones(2, 2)}, "mask: shape"),
        ({"bits": 1}, "bits=1"), ({"bits": 4, "group_size": 3}, "group_size=3"),
    ]  # fmt: skip
    for settings_, named in bad:
        with pytest.raises(CompressionError, match=named):
            sparsegpt.prune_layer(W, H, **settings_)
    with pytest.raises(CompressionError, match="H: shape"):
        sparsegpt.prune_layer(W, H[:4, :4])
    with pytest.raises(CompressionError, match="NaN"):
        sparsegpt.prune_layer(W * float("nan"), H)
    with pytest.raises(CompressionError, match="H: contains NaN"):
        sparsegpt.prune_layer(W, H * float("nan"))
    with pytest.raises(CompressionError, match="not positive definite"):
        sparsegpt.prune_layer(W, -H)
    with pytest.raises(CompressionError, match="calibration"):
        sparsegpt.prune(tiny_llama, ids[:, :0])
