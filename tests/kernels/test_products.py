"""Every compiled variant and the reference against float64, within `packed_weights.TOLERANCE`."""

import ctypes
import mmap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_weights import SHAPES, TOLERANCE, by_hand, error, make_weight

from course_utils import kernels
from course_utils.errors import CompressionError

RUNS = [*kernels.cpu.variants(), "reference"]


def run(name, x, weight, bias=None, activations="float"):
    if name == "reference":
        return kernels.reference.linear(x, weight, bias, activations=activations)
    return kernels.linear(x, weight, bias, activations=activations, variant=name)


def test_this_machine_runs_what_its_processor_has():
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    assert kernels.cpu.variants()[-1] == "portable"
    assert not known.get("avx2") or "avx2" in kernels.cpu.variants()
    assert not known.get("avx512_vnni") or "avx512" in kernels.cpu.variants()


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("bits", kernels.BITS)
@pytest.mark.parametrize("activations", kernels.ACTIVATIONS)
def test_shapes(name, bits, activations):
    g = torch.Generator().manual_seed(1)
    for i, (rows, columns, groups) in enumerate(SHAPES):
        weight = make_weight(
            rows, columns, groups, bits, symmetric=i % 3 == 0, half=i % 2 == 0, seed=i
        )
        bias = torch.randn(rows, generator=g)
        for tokens in (1, 3):
            x = torch.randn(tokens, columns, generator=g)
            rounded = x if activations == "float" else by_hand(x)
            assert (
                error(run(name, x, weight, bias, activations), rounded, weight, bias) < TOLERANCE
            ), (rows, columns, groups, tokens)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_one_token_and_codes_of_one_bit(name, symmetric, half):
    """What goes through tables: groups of 32 to 256 and whole rows, more than 512 groups, rows
    that are no multiple of 32; beside what does not: INT8 in larger groups.
    """
    for rows, columns, groups in (
        (1, 32, 1),
        (33, 96, 3),
        (70, 2080, 13),
        (5, 16640, 520),
        (40, 4160, 65),
        (2, 992, 1),
        (34, 1024, 4),
        (34, 1152, 4),
    ):
        weight = make_weight(rows, columns, groups, 1, symmetric=symmetric, half=half)
        x, bias = (
            torch.randn(1, columns, generator=torch.Generator().manual_seed(rows)),
            torch.randn(rows),
        )
        assert error(run(name, x, weight, bias), x, weight, bias) < TOLERANCE, (
            rows,
            columns,
            groups,
        )
        assert error(run(name, x, weight, None, "int8"), by_hand(x), weight, None) < TOLERANCE


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("group", [32, 224, 256, 288, 512])
def test_groups_of_the_largest_numbers(name, group):
    """All ones times ±127: a group of 256 just fits in the 16 bits of a table's sums."""
    weight = kernels.from_codes(
        torch.ones(40, 2 * group), torch.ones(40, 2), torch.zeros(40, 2), bits=1
    )
    for large in (127.0, -127.0):
        x = torch.full((1, 2 * group), large)
        assert (run(name, x, weight, None, "int8") == 2 * group * large).all()


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("large", [0, 0.99, 1.01, 30])
def test_floats_are_as_good_as_float32(name, bits, large):
    """The bound that `cpu.product` states, on both sides of √n max |x| = Σ |x|, where a token gets
    another digit.
    """
    columns = 4096
    weight = make_weight(12, columns, 64, bits)
    x = torch.randn(1, columns, generator=torch.Generator().manual_seed(bits))
    if large:  # max = large · (sum + max) / √n
        x[0, 9] = 0
        share = min(large / columns**0.5, 0.9)
        x[0, 9] = float(x.abs().sum()) * share / (1 - share)
    wanted = x.double() @ kernels.reference.dequantize(weight, torch.float64).T
    unit = 1e-6 if name == "portable" else 4e-7  # portable sums go column by column
    allowed = unit * float(x.double().abs().sum()) * float(weight.scale.max()) * 2**bits
    assert (run(name, x, weight).double() - wanted).abs().max() < allowed


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8])
def test_one_token_and_large_groups(name, bits):
    """Long sums, all codes and activations as large as they can be."""
    for columns in (4096, 9000, 65536):
        weight = kernels.from_codes(
            torch.full((9, columns), 2**bits - 1),
            torch.full((9, 1), 0.5),
            torch.zeros(9, 1),
            bits=bits,
        )
        for x in (torch.ones(1, columns), -torch.ones(1, columns), torch.randn(1, columns)):
            assert error(run(name, x, weight), x, weight, None) < TOLERANCE, columns


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("activations", kernels.ACTIVATIONS)
def test_batches(name, activations):
    weight = make_weight(12, 160, 5, 4)
    for tokens in range(1, 34):
        x = torch.randn(tokens, 160, generator=torch.Generator().manual_seed(tokens))
        rounded = x if activations == "float" else by_hand(x)
        assert error(run(name, x, weight, None, activations), rounded, weight, None) < TOLERANCE, (
            tokens
        )


@pytest.mark.parametrize("name", RUNS)
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 9),
    st.sampled_from(kernels.BITS),
    st.booleans(),
)
def test_any_shape(name, rows, groups, size, tokens, bits, symmetric):
    weight = make_weight(rows, groups * size, groups, bits, symmetric=symmetric)
    x = torch.randn(tokens, groups * size, generator=torch.Generator().manual_seed(0))
    assert error(run(name, x, weight), x, weight, None) < TOLERANCE
    assert error(run(name, x, weight, None, "int8"), by_hand(x), weight, None) < TOLERANCE


@pytest.mark.parametrize("name", kernels.cpu.variants())
def test_integer_products_are_exact(name):
    for tokens, rows, columns in ((1, 1, 1), (3, 5, 16), (9, 7, 333), (33, 2, 64), (2, 3, 129)):
        q = torch.randint(-128, 128, (tokens, columns), dtype=torch.int8)
        w = torch.randint(-128, 128, (rows, columns), dtype=torch.int8)
        found = kernels.cpu.integer_product(q, w, variant=name)
        assert found.dtype == torch.int32 and torch.equal(found.long(), q.long() @ w.long().T)


@pytest.mark.parametrize("name", kernels.cpu.variants())
def test_integer_products_do_not_overflow_at_the_width_allowed(name):
    q, w = (
        torch.full((1, 65536), -128, dtype=torch.int8),
        torch.full((1, 65536), 127, dtype=torch.int8),
    )
    assert kernels.cpu.integer_product(q, w, variant=name).item() == -128 * 127 * 65536
    with pytest.raises(CompressionError, match="65536"):
        kernels.cpu.integer_product(
            torch.zeros(1, 65537, dtype=torch.int8), torch.zeros(1, 65537, dtype=torch.int8)
        )


@pytest.mark.parametrize("name", RUNS)
def test_no_rows_and_no_tokens(name):
    for rows, tokens in ((0, 2), (3, 0), (0, 0)):
        weight, x = (
            kernels.from_codes(torch.zeros(rows, 8), torch.ones(rows, 2)),
            torch.ones(tokens, 8),
        )
        for activations in kernels.ACTIVATIONS:
            assert run(name, x, weight, None, activations).shape == (tokens, rows)
        if name != "reference":
            found = kernels.cpu.integer_product(
                x.to(torch.int8), torch.ones(rows, 8, dtype=torch.int8), variant=name
            )
            assert found.shape == (tokens, rows)


@pytest.mark.parametrize("name", RUNS)
def test_groups_so_large_that_sums_leave_32_bits(name):
    columns = 2**17
    for code, zero in ((255, 0), (0, 255)):
        weight = kernels.from_codes(
            torch.full((9, columns), code), torch.ones(9, 1), torch.full((9, 1), zero), bits=8
        )
        found = run(name, torch.ones(1, columns), weight, None, "int8")
        torch.testing.assert_close(
            found, torch.full((1, 9), float(code - zero) * columns), rtol=1e-5, atol=0
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_reference_rounds_a_weight_once(dtype):
    weight = make_weight(8, 128, 2, 4)
    assert torch.equal(
        kernels.reference.dequantize(weight, dtype),
        kernels.reference.dequantize(weight, torch.float64).to(dtype),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activations", kernels.ACTIVATIONS)
def test_half_precisions_are_summed_in_float32_and_rounded_once(dtype, activations):
    weight, x = make_weight(8, 128, 2, 4), torch.randn(2, 128).to(dtype)
    wide = kernels.linear(x.float(), weight, activations=activations)
    found = kernels.linear(x, weight, activations=activations)
    assert found.dtype == dtype and torch.equal(found, wide.to(dtype))


def test_float64_keeps_its_precision():
    weight, x = make_weight(8, 128, 2, 4), torch.randn(2, 128, dtype=torch.float64)
    found = kernels.linear(x, weight)
    assert found.dtype == torch.float64 and error(found, x, weight, None) < 1e-15


@pytest.mark.parametrize("name", kernels.cpu.variants())
def test_inputs_that_are_not_contiguous(name):
    weight = make_weight(6, 64, 2, 4)
    wide = torch.randn(64, 5)
    skipping = torch.randn(5, 128)[:, ::2]
    for x in (wide.T, skipping, torch.randn(1, 64).expand(3, 64)):
        assert torch.equal(run(name, x, weight), run(name, x.contiguous(), weight))
    part = kernels.PackedWeight(weight.codes[::2], weight.scale[::2], weight.zero_point[::2], 4, 64)
    assert torch.equal(run(name, wide.T, part), run(name, wide.T, weight)[:, ::2])


def test_shapes_of_input_and_output():
    weight = make_weight(6, 64, 2, 8)
    assert kernels.linear(torch.randn(64), weight).shape == (6,)
    assert kernels.linear(torch.randn(2, 3, 64), weight).shape == (2, 3, 6)
    assert kernels.linear(torch.empty(0, 64), weight).shape == (0, 6)
    assert kernels.linear(torch.empty(0, 64), weight, activations="int8").shape == (0, 6)
    for name in kernels.cpu.variants():
        assert kernels.linear(torch.empty(2, 0, 64), weight, variant=name).shape == (2, 0, 6)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("activations", kernels.ACTIVATIONS)
def test_zeros_denormals_huge_numbers_and_nan_stay_in_their_token(name, activations):
    weight = make_weight(5, 64, 2, 4)
    x = torch.randn(5, 64)
    x[0], x[1], x[2], x[3, 7] = 0, 1e-42, 1e30, torch.nan
    y = run(name, x, weight, None, activations)
    assert (y[0] == 0).all() and y[3].isnan().all() and y[[1, 2, 4]].isfinite().all()
    torch.testing.assert_close(y[4], run(name, x[4:], weight, None, activations)[0])


@pytest.mark.parametrize("name", RUNS)
def test_infinity_reaches_the_rows_that_it_should(name):
    weight, x = make_weight(9, 64, 2, 3), torch.randn(2, 64)
    x[0, 5] = torch.inf
    wanted = x.double() @ kernels.reference.dequantize(weight, torch.float64).T
    torch.testing.assert_close(
        run(name, x, weight).double(), wanted, equal_nan=True, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("bits", [3, 4, 7])
def test_floats_beside_a_large_one_keep_their_digits(name, bits):
    """One number 1000 times as large as the others: what the others add is still exact to a part in
    10⁵.
    """
    weight, x = make_weight(16, 1024, 8, bits), torch.randn(1, 1024)
    x[0, 3] = 0
    large = torch.zeros(1, 1024)
    large[0, 3] = 1000
    matrix = kernels.reference.dequantize(weight, torch.float64)
    found = run(name, x + large, weight).double() - large.double() @ matrix.T
    assert (
        (found - x.double() @ matrix.T).abs() < 2e-5 * (x.abs().double() @ matrix.abs().T)
    ).all()


@pytest.mark.parametrize("name", kernels.cpu.variants())
@pytest.mark.parametrize("bits", kernels.BITS)
def test_nothing_is_read_behind_the_codes(name, bits):
    """The last byte of the codes is the last one before a page that nobody may read."""
    libc, page = ctypes.CDLL(None), mmap.PAGESIZE
    for rows, columns, groups in ((3, 7, 1), (9, 40, 5), (8, 36, 18), (17, 192, 3), (2, 768, 3)):
        weight, x = make_weight(rows, columns, groups, bits), torch.randn(2, columns)
        whole = -(-weight.codes.nbytes // page) * page
        room = mmap.mmap(-1, whole + page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(room))
        assert libc.mprotect(ctypes.c_void_p(start + whole), page, 0) == 0
        at = start + whole - weight.codes.nbytes
        ctypes.memmove(at, weight.codes.data_ptr(), weight.codes.nbytes)
        told = kernels.cpu.describe(weight)
        told.codes = at
        for tokens in (1, 2):
            for int8 in (False, True):
                found = kernels.cpu.product(
                    x[:tokens], told, int8=int8, kernel=kernels.cpu.variants().index(name)
                )
                assert torch.equal(
                    found, run(name, x[:tokens], weight, None, "int8" if int8 else "float")
                )
        libc.mprotect(ctypes.c_void_p(start + whole), page, 3)


@pytest.mark.parametrize("name", RUNS)
def test_ties_round_to_even(name):
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 3.0, 0.0]])
    weight = kernels.from_codes(torch.eye(8) + 8, torch.ones(8, 1))
    assert run(name, x, weight, None, "int8").tolist() == [[127, 0, 2, 2, 0, -2, 3, 0]]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda w: kernels.linear(torch.randn(2, 64), w, activations="int4"), "float, int8"),
        (lambda w: kernels.linear(torch.randn(2, 63), w), r"\(…, 64\)"),
        (lambda w: kernels.linear(torch.ones(2, 64, dtype=torch.int8), w), "real numbers"),
        (
            lambda w: kernels.linear(torch.randn(2, 64), w, torch.zeros(5)),
            r"bias: shape \(5,\); expected \(6,\)",
        ),
        (lambda w: kernels.linear(torch.randn(2, 64), w, variant="sse9"), "portable"),
        (
            lambda w: kernels.linear(torch.randn(2, 64).double(), w, variant="portable"),
            "float32, bfloat16 and float16",
        ),
        (lambda w: kernels.linear(torch.randn(2, 64, device="meta"), w), "meta"),
        (
            lambda w: kernels.cpu.integer_product(torch.zeros(2, 3), torch.zeros(2, 3)),
            "int8 matrices",
        ),
    ],
)
def test_errors_name_what_is_supported(call, words):
    with pytest.raises(CompressionError, match=words):
        call(make_weight(6, 64, 2, 4))


def test_threads_change_nothing():
    weight, x = make_weight(1030, 512, 8, 4), torch.randn(2, 512)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(kernels.linear(x, weight))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
