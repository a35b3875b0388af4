"""Number formats against torch's own types, bitsandbytes' tables and exact rational arithmetic."""

import math
from fractions import Fraction

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.quantization import formats

TORCH = {
    "FP16": torch.float16, "BF16": torch.bfloat16, "FP8 E4M3": torch.float8_e4m3fn,
    "FP8 E5M2": torch.float8_e5m2,
}  # fmt: skip
SMALL = [name for name, f in formats.FORMATS.items() if f.bits <= 8]


def reals(n: int = 200_000, seed: int = 0) -> torch.Tensor:
    """Float32 numbers of every size: random bit patterns, and sizes that the small formats hold."""
    g = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (n,), generator=g).to(torch.int32).view(torch.float32)
    usual = torch.randn(n, generator=g) * 2.0 ** torch.randint(-30, 20, (n,), generator=g)
    x = torch.cat([bits[~bits.isnan()], usual, torch.tensor([0.0, -0.0, torch.inf, -torch.inf])])
    return x


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit, zeros' signs included; any NaN equals any NaN."""
    both = a.isnan() & b.isnan()
    return bool((both | (a.float().view(torch.int32) == b.float().view(torch.int32))).all())


def patterns(name: str) -> torch.Tensor:
    dtype = TORCH[name]
    codes = torch.arange(2 ** formats.find(name).bits)
    return codes.to(torch.uint8 if dtype.itemsize == 1 else torch.int16).view(dtype)


@pytest.mark.parametrize("name", TORCH)
def test_every_pattern_decodes_as_in_torch_and_encodes_back(name):
    codes = torch.arange(2 ** formats.find(name).bits)
    decoded = formats.decode(codes, name)
    assert same(decoded, patterns(name).float())
    number = ~decoded.isnan()
    assert torch.equal(formats.encode(decoded, name)[number], codes[number])


@pytest.mark.parametrize("name", TORCH)
def test_rounding_agrees_with_torch(name):
    """Random reals, every value of the format, every midpoint of two neighbours, and what lies just
    beside it.
    """
    grid = formats.values(name)
    ties = ((grid[1:].double() + grid[:-1].double()) / 2).float()
    beside = [
        torch.nextafter(ties, torch.full_like(ties, side)) for side in (-torch.inf, torch.inf)
    ]
    x = torch.cat([reals(), grid, ties, *beside])
    # torch versions differ beyond its range; the saturated value is the specification's
    if name == "FP8 E4M3":
        x = x.clamp(-448, 448)
    assert same(formats.cast(x, name), x.to(TORCH[name]).float())


def test_fp32_is_float32():
    x = reals()
    assert torch.equal(formats.encode(x, "FP32"), x.view(torch.int32).long() & 0xFFFFFFFF)
    assert same(formats.decode(formats.encode(x, "FP32"), "FP32"), x)
    doubles = torch.randn(100_000, dtype=torch.float64) * 2.0 ** torch.randint(
        -160, 140, (100_000,)
    )
    assert same(formats.cast(doubles, "FP32"), doubles.float())


def test_overflow():
    x = torch.tensor([448.0, 463.9, 464.0, 464.1, 1e9, torch.inf, -1e9])
    assert formats.cast(x, "FP8 E4M3").tolist() == [448.0] * 6 + [-448.0]
    loud = formats.cast(x, "FP8 E4M3", saturate=False)
    # 464 is halfway between 448 and the 480 that the NaN pattern would be: the even one of the two
    # is 448
    assert loud[:3].tolist() == [448.0] * 3 and loud[3:].isnan().all()
    assert (
        formats.cast(1e6, "FP8 E5M2") == torch.inf
        and formats.cast(1e6, "FP8 E5M2", saturate=True) == 57344
    )
    assert formats.cast(65520.0, "FP16") == torch.inf and formats.cast(65519.0, "FP16") == 65504
    assert formats.cast(torch.tensor([99.0, -torch.inf]), "FP4 E2M1").tolist() == [6.0, -6.0]
    assert formats.cast(torch.tensor([99.0, -99.0]), "INT4").tolist() == [7.0, -8.0]


def exact(code: int, f: formats.Format) -> Fraction | None:
    """The number behind a pattern from its definition; None for what is not a finite number."""
    bits = f"{code:0{f.bits}b}"
    if f.kind == "integer":
        return Fraction(code - 2**f.bits if bits[0] == "1" else code)
    if f.kind == "table":
        return Fraction(f.table[code])
    E, M = int(bits[1 : 1 + f.exponent], 2), int(bits[1 + f.exponent :], 2)
    if (f.specials == "nan" and "0" not in bits[1:]) or (
        f.specials == "ieee" and "0" not in bits[1 : 1 + f.exponent]
    ):
        return None
    lead = 0 if E == 0 else 1
    size = (lead + Fraction(M, 2**f.mantissa)) * Fraction(2) ** (
        max(E, 1) - (2 ** (f.exponent - 1) - 1)
    )
    return -size if bits[0] == "1" else size


@pytest.mark.parametrize("name", SMALL)
def test_small_formats_against_their_definition(name):
    """Every pattern's value; and for many reals no other pattern is nearer (brute force over all of
    them).
    """
    f = formats.find(name)
    table = [exact(code, f) for code in range(2**f.bits)]
    decoded = formats.decode(torch.arange(2**f.bits), f)
    assert all(v is None or Fraction(d) == v for v, d in zip(table, decoded.tolist(), strict=True))
    finite = torch.tensor([float(v) for v in table if v is not None], dtype=torch.float64)
    x = torch.cat(
        [
            torch.linspace(-1.2, 1.2, 4001, dtype=torch.float64) * f.largest,
            finite,
            torch.randn(2000).double(),
        ]
    )
    nearest = (x[:, None] - finite).abs().amin(1)
    assert torch.equal((formats.cast(x, f, saturate=True).double() - x).abs(), nearest)


@pytest.mark.parametrize("name", ["FP4 E2M1", "INT4", "INT8"])
def test_ties_go_to_the_even_pattern(name):
    grid = formats.values(name).double()
    codes = formats.encode((grid[1:] + grid[:-1]) / 2, name)
    assert (codes % 2 == 0).all()


def test_known_grids():
    assert formats.values("FP4 E2M1").tolist() == [
        -6,
        -4,
        -3,
        -2,
        -1.5,
        -1,
        -0.5,
        0,
        0.5,
        1,
        1.5,
        2,
        3,
        4,
        6,
    ]
    assert formats.values("INT4").tolist() == list(range(-8, 8))
    assert formats.values("binary").tolist() == [-1, 1]
    assert formats.decode(0, "binary") == 1  # the bit is the sign, as in every other format
    # OCP 8-bit Floating Point Specification, table 1: largest, smallest normal and smallest
    # subnormal number
    for name, largest, normal, subnormal in (
        ("FP8 E4M3", 448, -6, -9),
        ("FP8 E5M2", 57344, -14, -16),
    ):
        f = formats.find(name)
        assert f.largest == largest
        assert (
            formats.decode(1, f) == 2.0**subnormal
            and formats.decode(2**f.mantissa, f) == 2.0**normal
        )
    assert (
        len(formats.values("FP8 E4M3")) == 253 and len(formats.values("FP16")) == 2**16 - 2**11 - 1
    )


def test_normal_float_is_the_published_table():
    """bitsandbytes holds the table of the QLoRA paper,
    with p = 0.9677083 cut after seven digits.
    """
    import bitsandbytes.functional as bnb

    theirs = bnb.get_4bit_type("nf4", device="cpu").double()
    assert (formats.normal_float_values() - theirs).abs().max() < 1e-6
    assert torch.equal(formats.values("NF4"), formats.normal_float_values().float())
    # the same quantiles by bisection of Φ(x) = (1 + erf(x / √2)) / 2
    p = (Fraction(29, 30) + Fraction(31, 32)) / 2

    def quantile(probability: Fraction) -> float:
        low, high = -10.0, 10.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (
                (middle, high)
                if (1 + math.erf(middle / math.sqrt(2))) / 2 < probability
                else (low, middle)
            )
        return low

    half = Fraction(1, 2)
    upper = [quantile(half + (p - half) * i / 8) for i in range(1, 9)]
    lower = [quantile(1 - p + (p - half) * i / 7) for i in range(7)]
    expected = torch.tensor(lower + [0.0] + upper, dtype=torch.float64) / upper[-1]
    assert (formats.normal_float_values() - expected).abs().max() < 1e-12
    assert len(formats.normal_float_values(3)) == 8


def test_rounding_to_nf4_agrees_with_bitsandbytes():
    import bitsandbytes.functional as bnb

    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    theirs = bnb.dequantize_4bit(packed, state)
    scale = weight.reshape(-1, 64).abs().amax(1, keepdim=True)
    ours = (formats.cast(weight.reshape(-1, 64) / scale, "NF4") * scale).reshape(64, 128)
    assert (ours - theirs).abs().max() < 1e-5
    cast, scales = formats.scaled_cast(weight, "NF4", group_size=64)
    assert scales.shape == (64, 2) and torch.equal(scales, scales.half().float())
    # float16 scales move a value by 2^-11 of itself, and to the next value where that crosses a
    # midpoint
    near = (cast - theirs).abs() <= 2**-11 * cast.abs() + 1e-6
    assert near.double().mean() > 0.99


def test_bitsandbytes_fp4_differs_from_e2m1_in_one_size():
    """Scaled to the same largest value, 14 of its 16 values are E2M1's;
    for ±0.5 it has ±0.03125.
    """
    import bitsandbytes.functional as bnb

    theirs = torch.unique(bnb.get_4bit_type("fp4", device="cpu") * 6 + 0.0)
    ours = formats.values("FP4 E2M1")
    off = (theirs - ours).abs() > 1e-6
    assert ours[off].tolist() == [-0.5, 0.5]
    assert torch.allclose(theirs[off], torch.tensor([-1 / 32, 1 / 32]), atol=1e-4)


def test_layout_and_fields():
    for name, f in formats.FORMATS.items():
        assert sum(formats.layout(name).values()) == f.bits
    assert formats.fields(0b1_01111_1000000000, "FP16") == {
        "sign": 1,
        "exponent": 15,
        "mantissa": 512,
    }
    assert formats.decode(0b1_01111_1000000000, "FP16") == -1.5
    assert formats.fields(0b1010, "NF4") == {"index": 10} and formats.fields(1, "binary") == {
        "sign": 1
    }


@pytest.mark.parametrize("name", [n for n in formats.FORMATS if n != "FP32"])
def test_scaled_cast_is_a_loop_over_groups(name):
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(2)) * 0.05
    weight[2, :16] = 0
    cast, scales = formats.scaled_cast(weight, name, group_size=16)
    largest = formats.find(name).largest
    for r in range(6):
        for g in range(2):
            group = weight[r, 16 * g : 16 * g + 16].tolist()
            s = sum(map(abs, group)) / 16 if name == "binary" else max(map(abs, group)) / largest
            s16 = float(torch.tensor(s).half())
            s = s16 or float(torch.tensor(s, dtype=torch.float32)) or 1.0
            assert abs(float(scales[r, g]) - s) <= 2**-11 * s
            s = float(scales[r, g])
            grid = [s * v for v in formats.values(name).tolist()]
            for j, w in enumerate(group):
                error = min(abs(w - v) for v in grid)
                assert abs(abs(float(cast[r, 16 * g + j]) - w) - error) <= 1e-6 * max(abs(w), s)


def test_bad_input():
    with pytest.raises(CompressionError, match="FP7"):
        formats.decode(0, "FP7")
    with pytest.raises(CompressionError, match="NaN"):
        formats.encode(float("nan"), "FP4 E2M1")
    with pytest.raises(CompressionError, match="0 to 15"):
        formats.decode(torch.tensor([3, 16]), "INT4")
    with pytest.raises(CompressionError, match="encode"):
        formats.decode(torch.tensor([0.5]), "INT4")
    with pytest.raises(CompressionError, match="at most 16"):
        formats.values("FP32")
    with pytest.raises(CompressionError, match="group_size=5"):
        formats.scaled_cast(torch.randn(2, 8), "NF4", group_size=5)
    with pytest.raises(CompressionError, match="NaN"):
        formats.scaled_cast(torch.full((2, 8), torch.nan), "NF4", group_size=8)
