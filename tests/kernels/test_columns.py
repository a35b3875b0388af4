"""The compiled walk over GPTQ's columns against the readable one."""

import pytest
import torch

from course_utils.kernels import columns, cpu
from course_utils.quantization import gptq
from course_utils.quantization.grids import make_grid

compiled = pytest.mark.skipif(not cpu.variants(), reason="no C++ compiler")


def both(rows, width, bits, first, last, *, seed, scattered=False):
    draws = torch.Generator().manual_seed(seed)
    W = torch.randn(width, rows, generator=draws)
    W[first + 1] = 1e6  # far outside every other column's range
    W[first + 2] = 0
    U = torch.triu(0.2 * torch.randn(width, width, generator=draws))
    U.diagonal().abs_().add_(0.5)
    grid = make_grid(torch.randn(rows, width, generator=draws), bits=bits, group_size=16)
    index = (
        grid.group_index[torch.randperm(width, generator=draws)] if scattered else grid.group_index
    )
    found = []
    for walk in (columns.walk, columns.walk_in_torch):
        moved, codes = W.clone(), torch.full((width, rows), 99, dtype=torch.uint8)
        errors = walk(
            moved,
            U,
            grid.scale.T.contiguous(),
            grid.zero_point.T.contiguous(),
            index,
            codes,
            first,
            last,
            2**bits - 1,
        )
        found.append((moved, codes, errors))
    return W, found


@compiled
@pytest.mark.parametrize("shape", [(64, 64), (33, 48), (7, 32), (300, 32)])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scattered", [False, True])
def test_both_walks_agree(shape, bits, scattered):
    """Sums are rounded in another order on some processors: a weight in a thousand may then lie
    across a tie.
    """
    first, last = 3, shape[1] - 5
    W, ((moved, codes, errors), (slow, slow_codes, slow_errors)) = both(
        *shape, bits, first, last, seed=shape[0] + bits, scattered=scattered
    )
    alike = (codes == slow_codes).all(0)
    assert alike.float().mean() > 0.95
    assert torch.allclose(moved[:, alike], slow[:, alike], rtol=1e-4, atol=1e-3) and torch.allclose(
        errors[:, alike], slow_errors[:, alike], rtol=1e-4, atol=1e-3
    )
    outside = [*range(first), *range(last, shape[1])]
    assert torch.equal(moved[outside], W[outside]) and (codes[outside] == 99).all()


@compiled
def test_layers_come_out_equally_good(monkeypatch):
    draws = torch.Generator().manual_seed(0)
    H = gptq.hessian(torch.randn(300, 96, generator=draws) @ torch.randn(96, 96, generator=draws))
    weight = torch.randn(50, 96, generator=draws)
    for settings in (
        {"bits": 3, "group_size": 32},
        {"bits": 4, "group_size": -1, "act_order": True},
        {"bits": 2, "group_size": 32, "act_order": True, "static_groups": True},
    ):
        fast = gptq.quantize_layer(weight, H, never_worse=False, **settings)
        with monkeypatch.context() as patch:
            patch.setattr(columns, "walk", columns.walk_in_torch)
            slow = gptq.quantize_layer(weight, H, never_worse=False, **settings)
        assert gptq.layer_error(weight, fast.weight, H) == pytest.approx(
            gptq.layer_error(weight, slow.weight, H), rel=0.01
        )


def test_double_precision_and_no_compiler_take_the_readable_walk(monkeypatch):
    asked = []
    monkeypatch.setattr(columns, "_function", lambda: asked.append(1))
    weight, H = torch.randn(4, 16, dtype=torch.float64), torch.eye(16, dtype=torch.float64)
    assert gptq.quantize_layer(weight, H, group_size=8).weight.dtype == torch.float64 and not asked
    gptq.quantize_layer(weight.float(), H, group_size=8)
    assert asked
