"""Products with MXFP4 and NVFP4, every variant and the reference, against a decode number by number
in float64.
"""

import ctypes
import mmap

import pytest
import torch
from packed_weights import (
    TOLERANCE,
    block_error,
    blocks_by_hand,
    by_hand,
    make_blocks,
    scale_by_hand,
)

from course_utils import kernels
from course_utils.errors import CompressionError
from course_utils.kernels.formats import block_scales

RUNS = [*kernels.cpu.variants(), "reference"]
SHAPES = (
    (1, 1),
    (3, 7),
    (2, 16),
    (9, 31),
    (5, 33),
    (17, 160),
    (8, 257),
    (16, 80),
    (7, 512),
    (20, 1000),
)


def run(name, x, weight, bias=None, activations="float"):
    if name == "reference":
        return kernels.reference.linear(x, weight, bias, activations=activations)
    return kernels.linear(x, weight, bias, activations=activations, variant=name)


@pytest.fixture(scope="module")
def cases():
    """Shapes with blocks that end inside a byte, in a step of 16 or 64 bytes, or in no full block;
    matrices by hand.
    """
    made = {}
    for kind in kernels.BLOCKS:
        made[kind] = [(make_blocks(*shape, kind, seed=i), *shape) for i, shape in enumerate(SHAPES)]
        made[kind] = [(weight, *blocks_by_hand(weight)) for weight, *_ in made[kind]]
    return made


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("activations", kernels.ACTIVATIONS)
@pytest.mark.parametrize("kind", kernels.BLOCKS)
def test_shapes_and_batches(name, activations, kind, cases):
    g = torch.Generator().manual_seed(3)
    for weight, matrix, size in cases[kind]:
        bias = torch.randn(weight.rows, generator=g)
        for tokens in (1, 2, 3, 4, 9):
            x = torch.randn(tokens, weight.columns, generator=g)
            rounded = x.double() if activations == "float" else by_hand(x)
            wanted, scale = rounded @ matrix.T + bias, rounded.abs() @ size.T + bias.abs()
            found = run(name, x, weight, bias, activations)
            assert ((found - wanted).abs() / scale).max() < TOLERANCE, (
                weight.rows,
                weight.columns,
                tokens,
            )


@pytest.mark.parametrize("kind", kernels.BLOCKS)
def test_every_pattern_of_a_scale(kind):
    """All 256, NaN among them, one for each row; a row of one block that holds the number 1."""
    patterns = torch.arange(256, dtype=torch.uint8)[:, None]
    wanted = torch.tensor([scale_by_hand(p, kind) for p in range(256)], dtype=torch.float64)
    assert torch.equal(
        block_scales(patterns, kind)[:, 0].double().nan_to_num(7), wanted.nan_to_num(7)
    )
    weight = kernels.BlockWeight(
        torch.full((256, 1), 0x02, dtype=torch.uint8), patterns, None, kind, 2
    )
    for name in RUNS:
        for activations in kernels.ACTIVATIONS:
            found = run(name, torch.tensor([[127.0, 0.0]]), weight, None, activations)[0]
            small = wanted.abs() < 2.0**112  # what is summed reaches 2¹² times as much
            torch.testing.assert_close(
                found.double()[small] / 127, wanted[small], rtol=1e-6, atol=0
            )
            assert found[wanted.isnan()].isnan().all(), name


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("activations", kernels.ACTIVATIONS)
@pytest.mark.parametrize(
    "kind, patterns", [("E8M0", [0, 1, 3]), ("E8M0", [90, 200]), ("E4M3", [0, 1, 7, 9, 126, 129])]
)
def test_the_smallest_and_the_largest_scales(name, activations, kind, patterns):
    """Subnormal ones with inputs so large, or large ones with inputs so small, that the sums are
    ordinary numbers.
    """
    weight = make_blocks(9, 160, kind, scales=patterns)
    for tokens in (1, 3):
        x = torch.randn(tokens, 160) * (2.0**100 if patterns[0] == 0 and kind == "E8M0" else 1e-6)
        rounded = x if activations == "float" else by_hand(x)
        assert (
            block_error(run(name, x, weight, None, activations), rounded, weight, None) < TOLERANCE
        )


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("kind, pattern", [("E8M0", 255), ("E4M3", 127), ("E4M3", 255)])
def test_a_scale_of_nan_reaches_its_row_and_no_other(name, kind, pattern):
    weight = make_blocks(9, 96, kind)
    weight.scale[4, -1] = pattern
    for activations in kernels.ACTIVATIONS:
        for tokens in (1, 2):
            # 0 times NaN is NaN
            found = run(name, torch.zeros(tokens, 96), weight, None, activations)
            assert (
                found[:, 4].isnan().all() and (found[:, [i for i in range(9) if i != 4]] == 0).all()
            )


@pytest.mark.parametrize("name", RUNS)
def test_nan_and_infinity_of_an_input(name):
    weight, x = make_blocks(9, 64, "E4M3"), torch.randn(3, 64)
    x[0, 5], x[1, 7] = torch.inf, torch.nan
    wanted = x.double() @ blocks_by_hand(weight)[0].T
    torch.testing.assert_close(
        run(name, x, weight).double(), wanted, equal_nan=True, rtol=1e-4, atol=1e-5
    )
    assert run(name, x, weight, None, "int8")[:2].isnan().all()


@pytest.mark.parametrize("name", kernels.cpu.variants())
@pytest.mark.parametrize("kind", kernels.BLOCKS)
def test_nothing_is_read_behind_codes_and_scales(name, kind):
    libc, page = ctypes.CDLL(None), mmap.PAGESIZE
    for rows, columns in ((1, 1), (9, 40), (3, 257), (17, 112)):
        weight, x = make_blocks(rows, columns, kind), torch.randn(2, columns)
        told, rooms = kernels.cpu.describe(weight), []
        for field, tensor in (("codes", weight.codes), ("scale", weight.scale)):
            whole = -(-tensor.nbytes // page) * page
            rooms.append((room := mmap.mmap(-1, whole + page), whole))
            start = ctypes.addressof(ctypes.c_char.from_buffer(room))
            assert libc.mprotect(ctypes.c_void_p(start + whole), page, 0) == 0
            ctypes.memmove(start + whole - tensor.nbytes, tensor.data_ptr(), tensor.nbytes)
            setattr(told, field, start + whole - tensor.nbytes)
        for tokens in (1, 2):
            for int8 in (False, True):
                found = kernels.cpu.product(
                    x[:tokens], told, int8=int8, kernel=kernels.cpu.variants().index(name)
                )
                assert torch.equal(
                    found, run(name, x[:tokens], weight, None, "int8" if int8 else "float")
                )
        for room, whole in rooms:
            libc.mprotect(
                ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(room)) + whole), page, 3
            )


@pytest.mark.parametrize(
    "change, words",
    [
        ({"kind": "E5M2"}, "E8M0, E4M3"),
        ({"columns": 66}, r"codes: expected bytes of shape \(6, 33\)"),
        ({"kind": "E4M3"}, r"scale: expected bytes of shape \(6, 4\)"),
        ({"scale": torch.ones(6, 2)}, "scale: expected bytes"),
        ({"tensor_scale": torch.ones(2)}, "one float32"),
    ],
)
def test_errors_name_what_does_not_fit(change, words):
    weight = make_blocks(6, 64, "E8M0")
    with pytest.raises(CompressionError, match=words):
        kernels.BlockWeight(
            **{
                "codes": weight.codes,
                "scale": weight.scale,
                "tensor_scale": None,
                "kind": "E8M0",
                "columns": 64,
                **change,
            }
        )
