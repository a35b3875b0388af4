"""Symmetric grids against the official GPTQ algorithm, written from its description in float64.

The reference is as plain as the paper's code: a min-max grid with all 2^b levels (scale 2 max|w| /
(2^b − 1), zero point 2^(b−1)), the inverse Hessian by `inv` and its upper factor by numpy, one
column after the other, blocks of 128.
It knows nothing of `course_utils`.
"""

import numpy as np
import pytest
import torch

from course_utils.quantization import QuantizedLinear, awq, gptq, grids, observers, rtn, w8a8


def official(W, H, bits, group, act_order, damping=0.01, block=128):
    """Ŵ of the official GPTQ code, symmetric grids; group −1: whole rows.

    Static groups are not used.
    """
    W, H = np.array(W, dtype=np.float64), np.array(H, dtype=np.float64)
    rows, columns = W.shape
    levels = 2**bits

    def grid_of(part):
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        reach = np.maximum(-low, high)
        return np.where(reach == 0, 1, 2 * reach / (levels - 1))

    scale = grid_of(W)
    order = np.argsort(-np.diag(H), kind="stable") if act_order else np.arange(columns)
    W, H = W[:, order], H[np.ix_(order, order)]
    H = H + damping * np.diag(H).mean() * np.eye(columns)
    upper = np.linalg.cholesky(np.linalg.inv(H)).T
    found = np.zeros_like(W)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        inside, errors = W[:, start:end].copy(), np.zeros((rows, end - start))
        for i in range(end - start):
            if group != -1 and (start + i) % group == 0:
                scale = grid_of(W[:, start + i : start + i + group])
            code = np.clip(np.rint(inside[:, i] / scale) + levels // 2, 0, levels - 1)
            found[:, start + i] = scale * (code - levels // 2)
            errors[:, i] = (inside[:, i] - found[:, start + i]) / upper[start + i, start + i]
            inside[:, i:] -= np.outer(errors[:, i], upper[start + i, start + i : end])
        W[:, end:] -= errors @ upper[start:end, end:]
    back = np.argsort(order)
    return found[:, back]


def layer(seed, rows=48, columns=256):
    g = torch.Generator().manual_seed(seed)
    mix = (
        torch.eye(columns).double()
        + torch.randn(columns, columns, generator=g).double() / columns**0.5
    )
    x = (
        torch.randn(4 * columns, columns, generator=g).double()
        @ mix
        * (0.7 * torch.randn(columns, generator=g)).exp().double()
    )
    return torch.randn(rows, columns, generator=g).double(), gptq.hessian(x)


def error(weight, other, H):
    d = weight - torch.as_tensor(other)
    return float(((d @ H) * d).sum())


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", [-1, 16, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_layer_error_is_the_official_algorithms(bits, group, act_order):
    """Over five layers at most 1 % more, with the safeguard against rounding off (`never_worse` can
    only lower it).
    """
    ours = theirs = 0.0
    for seed in range(5):
        weight, H = layer(seed)
        found = gptq.quantize_layer(
            weight,
            H,
            bits=bits,
            group_size=group,
            symmetric=True,
            act_order=act_order,
            never_worse=False,
        )
        ours += error(weight, found.weight, H)
        theirs += error(weight, official(weight, H, bits, group, act_order), H)
    assert ours <= 1.01 * theirs


@pytest.mark.parametrize("bits", range(2, 9))
def test_all_levels_of_a_weights_grid(bits):
    """Scale 2 max|w| / (2^b − 1) to float16's precision, codes from 0 to 2^b − 1, both ends half a
    step inside.
    """
    row = torch.linspace(-1, 1, 4001, dtype=torch.float64)[None]
    result = rtn.quantize_layer(row, bits=bits, group_size=-1, symmetric=True)
    assert set(result.codes.flatten().tolist()) == set(range(2**bits))
    assert float(result.grid.scale) == pytest.approx(2 / (2**bits - 1), rel=1e-3)
    assert (result.grid.zero_point == 2 ** (bits - 1)).all()
    # the scale is stored in float16
    assert float((result.weight - row).abs().max()) <= (0.5 + 2**bits / 1000) * 2 / (2**bits - 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_rows_of_one_sign(sign):
    """A row without negative numbers reaches to its largest one, too."""
    row = sign * torch.linspace(0, 3, 50)[None]
    for bits in (2, 4, 8):
        back = rtn.quantize_layer(row, bits=bits, group_size=-1, symmetric=True).weight
        assert float((back - row).abs().max()) <= 0.51 * 6 / (2**bits - 1)


def test_every_weight_method_shares_the_grid():
    """GPTQ's first group, rounding and AWQ without shrinking have the same scales."""
    weight, H = layer(3, rows=8, columns=64)
    wanted = 2 * weight.abs().amax(1, keepdim=True) / 15
    for found in (
        gptq.quantize_layer(weight, H, group_size=-1, symmetric=True, never_worse=False).grid,
        rtn.quantize_layer(weight, group_size=-1, symmetric=True).grid,
        awq.search_clip(weight, H, group_size=-1, symmetric=True, shrink=(1.0,)),
    ):
        torch.testing.assert_close(found.scale, wanted, rtol=1e-3, atol=0)


def test_packed_layers_hold_every_code():
    weight = torch.linspace(-1, 1, 256).repeat(4, 1)
    for bits in (2, 3, 4, 8):
        result = rtn.quantize_layer(weight, bits=bits, group_size=-1, symmetric=True)
        packed = QuantizedLinear.of(result, None)
        assert (
            torch.equal(packed.codes, result.codes)
            and int(packed.codes.max()) == 2**bits - 1
            and int(packed.codes.min()) == 0
        )
        torch.testing.assert_close(packed.weight, result.weight)


def test_integer_activations_and_the_weights_they_meet_reach_127():
    """The narrow range of bitsandbytes, SmoothQuant and torchao's activations: ±max|x| are ±127
    exactly.
    """
    x = torch.tensor([[-2.0, 0.5, 1.0], [0.1, 3.0, -3.0]])
    codes, scale, zero = w8a8.to_int8(x, bits=8, symmetric=True, granularity="per_token")
    assert codes[0, 0] == -127 and codes[1, 1] == 127 and codes[1, 2] == -127 and not zero.any()
    torch.testing.assert_close(scale, x.abs().amax(1, keepdim=True) / 127, rtol=1e-3, atol=0)
    watched = observers.make("min_max")
    watched.observe(x)
    assert float(observers.grid(watched, 3).scale) == pytest.approx(3 / 127, rel=1e-3)
    eight, four = w8a8.Int8Linear(3, 2), w8a8.Int8Linear(3, 2)
    eight.set_weight(x)
    four.set_weight(x, bits=4)
    torch.testing.assert_close(
        eight.weight_scale, x.abs().amax(1, keepdim=True) / 127, rtol=1e-3, atol=0
    )
    torch.testing.assert_close(
        four.weight_scale, x.abs().amax(1, keepdim=True) / 7.5, rtol=1e-3, atol=0
    )


def test_narrow_says_nothing_about_asymmetric_grids():
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    for narrow in (False, True):
        grid = grids.make_grid(x, bits=4, group_size=16, narrow=narrow)
        assert torch.equal(grid.scale, grids.make_grid(x, bits=4, group_size=16).scale)
    narrow = grids.make_grid(x, bits=4, group_size=16, symmetric=True, narrow=True)
    torch.testing.assert_close(narrow.scale, x.view(4, 2, 16).abs().amax(-1) / 7, rtol=1e-3, atol=0)
