"""Grids against brute force in exact arithmetic, torch's own quantizers, and hypothesis."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.errors import CompressionError
from course_utils.quantization import grids

BITS = range(2, 9)
# torch calls its own reference deprecated
pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per")


def matrix(rows=6, columns=32, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=g, dtype=dtype) + 0.3


def groups_of(x, granularity, size):
    """Every set of entries that shares a scale, as (row slice, column slice)."""
    rows, columns = x.shape
    if granularity == "per_tensor":
        return [(slice(None), slice(None))]
    if granularity in ("per_channel", "per_token"):
        return [(slice(r, r + 1), slice(None)) for r in range(rows)]
    return [
        (slice(r, r + 1), slice(c, c + size)) for r in range(rows) for c in range(0, columns, size)
    ]


@pytest.mark.parametrize("granularity", grids.GRANULARITIES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_scale_and_zero_follow_the_formula_for_each_set(granularity, symmetric):
    """s from the extremes of each set in Fractions, within the 1/1000 of storing it in float16; z =
    round(−low / s).
    """
    x, bits, size = matrix(), 4, 8
    grid = grids.make_grid(
        x, bits=bits, symmetric=symmetric, granularity=granularity, group_size=size
    )
    sets = groups_of(x, granularity, size)
    assert grid.scale.numel() == len(sets)
    scale = grid.scale[:, grid.group_index].expand_as(x)
    zero = grid.zero_point[:, grid.group_index].expand_as(x)
    for where in sets:
        low, high = (
            min(Fraction(float(x[where].min())), Fraction(0)),
            max(Fraction(float(x[where].max())), Fraction(0)),
        )
        wanted = (
            max(-low, high) / Fraction(2**bits - 1, 2)
            if symmetric
            else (high - low) / (2**bits - 1)
        )
        (s,), (z,) = scale[where].unique().tolist(), zero[where].unique().tolist()
        assert abs(Fraction(s) / wanted - 1) <= Fraction(1, 1000)
        assert float(torch.tensor(s).half()) == s
        assert z == (2 ** (bits - 1) if symmetric else round(-low / Fraction(s)))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_value_goes_to_the_nearest_grid_point(bits, symmetric):
    """Brute force over all 2^b points, in float64. Values beyond the ends are included."""
    x = matrix(4, 32, seed=bits)
    grid = grids.make_grid(x, bits=bits, symmetric=symmetric, group_size=16)
    y = 1.3 * x
    scale, zero = (
        t[:, grid.group_index].double()[..., None] for t in (grid.scale, grid.zero_point)
    )
    points = scale * (torch.arange(2**bits, dtype=torch.float64) - zero)
    nearest = (points - y.double()[..., None]).abs().amin(-1)
    codes = grids.quantize(y, grid)
    assert codes.dtype == torch.uint8 and int(codes.max()) < 2**bits
    distance = (grids.dequantize(codes, grid).double() - y.double()).abs()
    assert (distance <= nearest + 1e-6 * scale[..., 0]).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_agrees_with_torch_quantize_per_channel(bits, symmetric):
    x = matrix(5, 64, seed=10 + bits)
    grid = grids.make_grid(x, bits=bits, symmetric=symmetric, granularity="per_channel")
    scale, zero = grid.scale[:, 0], grid.zero_point[:, 0]
    fake = torch.fake_quantize_per_channel_affine(x, scale, zero.int(), 0, 0, 2**bits - 1)
    ours = grids.dequantize(grids.quantize(x, grid), grid)
    # torch multiplies by 1/s where we divide: a value within rounding of a tie may fall to the
    # other side
    ratio = x.double() / scale.double()[:, None]
    tie = ((ratio - ratio.floor()) - 0.5).abs() < 1e-4
    assert tie.float().mean() < 0.01
    torch.testing.assert_close(ours[~tie], fake[~tie], rtol=1e-6, atol=1e-7)
    if bits == 8:
        theirs = torch.quantize_per_channel(x, scale.double(), zero.long(), 0, torch.quint8)
        assert torch.equal(grids.quantize(x, grid)[~tie], theirs.int_repr()[~tie])


def test_agrees_with_torch_per_tensor():
    x = matrix(5, 64, seed=3)
    grid = grids.make_grid(x, bits=8, granularity="per_tensor")
    theirs = torch.quantize_per_tensor(x, float(grid.scale), int(grid.zero_point), torch.quint8)
    assert (grids.quantize(x, grid).int() - theirs.int_repr().int()).abs().max() <= 1
    assert (grids.quantize(x, grid) == theirs.int_repr()).float().mean() > 0.99


def test_ties_go_to_the_even_code():
    grid = grids.Grid(
        torch.ones(1, 1), torch.full((1, 1), 8.0), torch.zeros(7, dtype=torch.long), 4, True
    )
    x = torch.tensor([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]])
    assert (grids.quantize(x, grid).int() - 8).tolist() == [[-2, -2, 0, 0, 2, 2, 4]]


def test_zero_is_always_exact():
    for symmetric in (False, True):
        x = matrix(8, 32) + 5
        x[:, ::4] = 0
        y = grids.fake_quantize(x, bits=3, symmetric=symmetric, group_size=16)
        assert (y[:, ::4] == 0).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    "row",
    [0.0, 1.0, -1.0, 0.1, 1e-45, -1e-45, 1e-40, 1e-30, 7e37, -7e37, 3e-8],
    ids=lambda v: f"constant {v:g}",
)
def test_degenerate_rows_stay_finite_and_close(bits, symmetric, row):
    x = torch.full((2, 16), row)
    y = grids.fake_quantize(x, bits=bits, symmetric=symmetric, group_size=16)
    assert torch.isfinite(y).all()
    # the widest step that a grid takes
    step = max(abs(row) / (2 ** (bits - 1) - 1), torch.finfo(torch.float32).tiny)
    assert (y - x).abs().max() <= 0.51 * step
    if row == 0:
        assert (y == 0).all()


def test_rows_of_every_size_beside_each_other():
    """The scale of one row says nothing about its neighbours'."""
    sizes = torch.tensor([0.0, 1e-42, 1e-20, 1e-5, 1.0, 1e6, 1e30])[:, None]
    x = sizes * matrix(7, 32, seed=5)
    y = grids.fake_quantize(x, bits=8, granularity="per_channel")
    alone = torch.cat(
        [grids.fake_quantize(row[None], bits=8, granularity="per_channel") for row in x]
    )
    assert torch.equal(y, alone)
    relative = ((y - x).double().norm(dim=1) / x.double().norm(dim=1))[2:]
    assert (relative < 0.01).all()


def test_opposite_extremes_do_not_overflow():
    x = torch.tensor([[8e37, -8e37, 0.0, 1.0]])
    for bits in BITS:
        for symmetric in (False, True):
            grid = grids.make_grid(x, bits=bits, symmetric=symmetric, group_size=-1)
            codes = torch.arange(0, 2**bits, dtype=torch.uint8).clamp(max=2**bits - 1)[None]
            every = grids.Grid(
                grid.scale,
                grid.zero_point,
                torch.zeros(codes.shape[1], dtype=torch.long),
                bits,
                symmetric,
            )
            assert torch.isfinite(grids.dequantize(codes, every)).all()


def test_half_precision_and_double_inputs():
    x = matrix(4, 32)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        y = grids.fake_quantize(x.to(dtype), bits=4, group_size=16)
        assert y.dtype == dtype
        wide = grids.fake_quantize(x.to(dtype).double(), bits=4, group_size=16)
        assert (y.double() - wide).abs().max() <= torch.finfo(dtype).eps * wide.abs().max() + 1e-6


@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(st.floats(-1e30, 1e30), min_size=16, max_size=16),
    bits=st.integers(2, 8), symmetric=st.booleans(), size=st.sampled_from([4, 8, 16, -1]),
)  # fmt: skip
def test_property_error_is_at_most_half_a_step(values, bits, symmetric, size):
    """|x − x̂| ≤ s/2 inside, plus what rounding s to float16 and z to an integer may cut off at the
    ends.
    """
    x = torch.tensor([values], dtype=torch.float64)
    grid = grids.make_grid(x, bits=bits, symmetric=symmetric, group_size=size)
    y = grids.dequantize(grids.quantize(x, grid), grid)
    scale = grid.scale[:, grid.group_index]
    assert ((y - x).abs() <= scale * (0.5 + 0.001 * 2**bits + 1e-6)).all()
    again = grids.dequantize(grids.quantize(y, grid), grid)
    assert torch.equal(again, y)  # grid points are fixed points


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), power=st.integers(-10, 10), bits=st.integers(2, 8))
def test_property_scaling_by_a_power_of_two_scales_the_result(seed, power, bits):
    x = matrix(2, 16, seed=seed, dtype=torch.float64)
    y = grids.fake_quantize(x, bits=bits, group_size=8)
    scaled = grids.fake_quantize(x * 2.0**power, bits=bits, group_size=8)
    if power >= -4:  # below, float16 has fewer digits for the scale
        assert torch.equal(scaled, y * 2.0**power)
    assert torch.equal(
        scaled, grids.fake_quantize(x.flip(0) * 2.0**power, bits=bits, group_size=8).flip(0)
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_values_that_no_grid_holds_are_refused(bad):
    x = matrix()
    grid = grids.make_grid(x, bits=4, group_size=16)
    x[1, 2] = bad
    with pytest.raises(CompressionError, match="x: "):
        grids.make_grid(x, bits=4, group_size=16)
    with pytest.raises(CompressionError, match="x: "):
        grids.quantize(x, grid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 1}, "bits=1"),
        ({"bits": 9}, "bits=9"),
        ({"bits": 4.0}, "bits=4.0"),
        ({"group_size": 7}, "group_size=7.*16"),
        ({"group_size": 0}, "group_size=0"),
        ({"group_size": 8.0}, "group_size=8.0"),
        ({"granularity": "per_row"}, "per_row.*per_channel"),
        ({"x": torch.ones(4)}, r"x: .*\(4,\)"),
        ({"x": torch.ones(2, 16, dtype=torch.int32)}, "floating-point"),
        ({"x": torch.empty(0, 16)}, "non-empty"),
        ({"x": [[1.0]]}, "list"),
    ],
)
def test_bad_arguments_name_themselves(change, message):
    arguments = {"x": matrix(), "bits": 4, "group_size": 16, **change}
    with pytest.raises(CompressionError, match=message):
        grids.make_grid(arguments.pop("x"), **arguments)


def test_a_matrix_of_another_width_is_refused():
    grid = grids.make_grid(matrix(6, 32), bits=4, group_size=16)
    with pytest.raises(CompressionError, match="6 rows and 32 columns"):
        grids.quantize(matrix(6, 16), grid)
    with pytest.raises(CompressionError, match="6 rows and 32 columns"):
        grids.quantize(matrix(5, 32), grid)
