"""The Triton kernels through its interpreter.

Tolerances as in test_products, wider where Ŵ is rounded to half first.
"""

import subprocess
import sys

import pytest
import torch
from packed_weights import make_weight, spec

from course_utils.errors import CompressionError

if sys.platform != "linux":
    pytest.skip("Triton is for Linux", allow_module_level=True)
from course_utils.kernels import gpu  # noqa: E402

SHAPES = [(1, 1, 1), (5, 96, 3), (17, 66, 1), (9, 40, 5), (4, 33, 3), (20, 256, 4), (3, 30, 2)]


def error(y, x, weight, bias):
    matrix, size = spec(weight)
    wanted, scale = (
        x.double() @ matrix.T + bias.double(),
        x.double().abs() @ size.T + bias.double().abs(),
    )
    return float(((y.double() - wanted).abs() / scale).max())


@pytest.mark.parametrize("bits", gpu.BITS)
@pytest.mark.parametrize("tokens", [1, 2, 19])
def test_shapes(bits, tokens):
    for i, (rows, columns, groups) in enumerate(SHAPES):
        weight = make_weight(
            rows, columns, groups, bits, symmetric=i % 2 == 1, half=i % 3 > 0, seed=i
        )
        g = torch.Generator().manual_seed(i)
        x, bias = torch.randn(tokens, columns, generator=g), torch.randn(rows, generator=g)
        assert error(gpu.linear(x, weight, bias), x, weight, bias) < 4e-7, (rows, columns, groups)


@pytest.mark.parametrize("tokens", [1, 3])
def test_half_precision(tokens):
    weight, x, bias = make_weight(6, 64, 2, 4), torch.randn(tokens, 64).half(), torch.zeros(6)
    y = gpu.linear(x, weight, bias)
    assert y.dtype == torch.float16 and error(y, x, weight, bias) < 2e-3


@pytest.mark.parametrize("blocks", [{"ROWS": 2, "BYTES": 16}, {"ROWS": 64, "BYTES": 64}])
def test_blocks_change_only_the_order_of_the_sum(blocks):
    weight, x = make_weight(20, 96, 3, 4), torch.randn(1, 96)
    torch.testing.assert_close(
        gpu.linear(x, weight, blocks=blocks), gpu.linear(x, weight), atol=1e-4, rtol=1e-5
    )


def test_empty_and_not_contiguous():
    weight, wide = make_weight(20, 96, 3, 4), torch.randn(96, 3)
    assert gpu.linear(torch.empty(0, 96), weight).shape == (0, 20)
    assert torch.equal(gpu.linear(wide.T, weight), gpu.linear(wide.T.contiguous(), weight))


@pytest.mark.parametrize("x, words", [
    (torch.randn(2, 95), r"\(tokens, 96\)"), (torch.randn(2, 96).double(), "torch.bfloat16"),
    (torch.randn(96), "tokens"),
    (torch.randn(2, 96, device="meta"), "meta"),
])  # fmt: skip
def test_errors(x, words):
    with pytest.raises(CompressionError, match=words):
        gpu.linear(x, make_weight(20, 96, 3, 4))


def test_other_widths_are_refused():
    with pytest.raises(CompressionError, match="3 bits; these kernels read 4 and 8"):
        gpu.linear(torch.randn(2, 96), make_weight(20, 96, 3, 3))


def test_without_a_gpu_and_without_the_interpreter_the_remedy_is_named():
    code = (
        "import torch; from course_utils.kernels import from_codes, gpu; "
        "gpu.linear(torch.ones(1, 2), from_codes(torch.ones(1, 2), torch.ones(1, 1)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"TRITON_INTERPRET": "0", "COURSE_KERNELS": "torch"},
        capture_output=True,
        text=True,
    )
    assert "TRITON_INTERPRET=1" in done.stderr
