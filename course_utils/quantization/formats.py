"""Number formats: which real numbers a pattern of bits stands for.

A floating-point pattern is sign | exponent E | mantissa M. With m mantissa bits and the exponent
bias B it means

    (−1)^sign · 2^(E − B) · (1 + M / 2^m)      for E > 0,
    (−1)^sign · 2^(1 − B) · M / 2^m            for E = 0 (subnormal numbers).

An integer pattern is a two's complement number. A table pattern is an index into a list of values
(NF4, binary).
Sources: IEEE 754 (FP32, FP16); OCP 8-bit Floating Point Specification 1.0 (E4M3, E5M2); OCP
Microscaling Formats Specification 1.0 (E2M1); Dettmers et al., 2023, QLoRA (NF4).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.errors import CompressionError

from .grids import check_group_size, check_matrix


@dataclass(frozen=True)
class Format:
    """One format.

    `kind` is 'float', 'integer' or 'table'; `specials` says which patterns are not numbers.

    specials 'ieee': an exponent of ones is infinity (mantissa 0) or NaN; 'nan': only the pattern of
    ones is NaN;
    'none': every pattern is a number. `saturate`: too large numbers become the largest one, not
    infinity or NaN.
    """

    name: str
    bits: int
    kind: str
    exponent: int = 0
    mantissa: int = 0
    specials: str = "none"
    saturate: bool = True
    table: tuple[float, ...] = ()

    @property
    def bias(self) -> int:
        """B = 2^(exponent bits − 1) − 1."""
        return 2 ** (self.exponent - 1) - 1 if self.kind == "float" else 0

    @property
    def largest_code(self) -> int:
        """The pattern of the largest finite number (sign bit 0)."""
        ones = 2 ** (self.bits - 1) - 1
        return ones - {"ieee": 2**self.mantissa, "nan": 1, "none": 0}[self.specials]

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return max(self.table) if self.kind == "table" else float(decode(self.largest_code, self))


def normal_float_values(bits: int = 4) -> Tensor:
    """The 2^bits values of NormalFloat, float64, ascending: quantiles of the normal distribution
    over [−1, 1].

    2^(b−1) + 1 quantiles from 1/2 up to p and 2^(b−1) from 1 − p up to 1/2, where p is the mean of
    1 − 1/(2 (2^b − 1)) and 1 − 1/2^(b+1). The two halves share the value 0; the whole is divided by
    its largest value. (Dettmers et al., 2023, section 3 and the code published with it.)
    """
    n = 2**bits
    p = 1 - (1 / (2 * (n - 1)) + 1 / (2 * n)) / 2
    upper = torch.special.ndtri(torch.linspace(0.5, p, n // 2 + 1, dtype=torch.float64))
    lower = torch.special.ndtri(torch.linspace(1 - p, 0.5, n // 2, dtype=torch.float64))
    return torch.cat([lower[:-1], torch.zeros(1, dtype=torch.float64), upper[1:]]) / upper[-1]


FORMATS = {
    f.name: f
    for f in (
        Format("FP32", 32, "float", 8, 23, "ieee", saturate=False),
        Format("FP16", 16, "float", 5, 10, "ieee", saturate=False),
        Format("BF16", 16, "float", 8, 7, "ieee", saturate=False),
        Format("FP8 E4M3", 8, "float", 4, 3, "nan"),
        Format("FP8 E5M2", 8, "float", 5, 2, "ieee", saturate=False),
        Format("FP4 E2M1", 4, "float", 2, 1),
        Format("INT8", 8, "integer"),
        Format("INT4", 4, "integer"),
        Format("NF4", 4, "table", table=tuple(normal_float_values().float().tolist())),
        Format("binary", 1, "table", table=(1.0, -1.0)),
    )
}


def find(name: str | Format) -> Format:
    """The format of a name, as in FORMATS. Raises CompressionError for an unknown one."""
    if isinstance(name, Format):
        return name
    if name not in FORMATS:
        raise CompressionError(f"format={name!r}: choose one of {', '.join(FORMATS)}.")
    return FORMATS[name]


def layout(format: str | Format) -> dict[str, int]:
    """Bits of each field, from the left: sign, exponent and mantissa of a float; sign and magnitude
    of an integer;
    sign of a binary number; index of a table.
    """
    f = find(format)
    if f.kind == "float":
        return {"sign": 1, "exponent": f.exponent, "mantissa": f.mantissa}
    if f.kind == "integer":
        return {"sign": 1, "magnitude": f.bits - 1}
    return {"sign": 1} if f.bits == 1 else {"index": f.bits}


def fields(code: int, format: str | Format) -> dict[str, int]:
    """The number in each field of one pattern."""
    _check_codes(torch.tensor(code), find(format))
    left, found = find(format).bits, {}
    for name, width in layout(format).items():
        left -= width
        found[name] = code >> left & (2**width - 1)
    return found


def _check_codes(codes: Tensor, f: Format) -> None:
    if codes.is_floating_point() or codes.is_complex():
        raise CompressionError(
            "codes: expected integers (bit patterns), got real numbers; did you mean encode?"
        )
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= 2**f.bits):
        raise CompressionError(
            f"codes: {f.name} has the patterns 0 to {2**f.bits - 1}; mask the others away first."
        )


def power_of_two(n: Tensor) -> Tensor:
    """2^n exactly, float64, for integers −1022 ≤ n ≤ 1023: the exponent field is written down
    directly.
    """
    return ((n.long() + 1023) << 52).view(torch.float64)


def decode(codes: Tensor | int, format: str | Format) -> Tensor:
    """The numbers (float32, same shape) that bit patterns stand for.

    Every format here fits float32 exactly.

    Raises CompressionError for an unknown format or a pattern that does not have the format's
    number of bits.
    """
    f = find(format)
    codes = torch.as_tensor(codes)
    _check_codes(codes, f)
    codes = codes.long()
    if f.kind == "table":
        return torch.tensor(f.table, device=codes.device)[codes]
    if f.kind == "integer":
        return torch.where(codes >= 2 ** (f.bits - 1), codes - 2**f.bits, codes).float()
    M, E = codes & (2**f.mantissa - 1), codes >> f.mantissa & (2**f.exponent - 1)
    magnitude = torch.where(E > 0, M + 2**f.mantissa, M) * power_of_two(
        E.clamp(min=1) - f.bias - f.mantissa
    )
    size = codes & (2 ** (f.bits - 1) - 1)
    if f.specials == "ieee":
        magnitude = torch.where(size == f.largest_code + 1, torch.inf, magnitude)
        magnitude = torch.where(size > f.largest_code + 1, torch.nan, magnitude)
    else:
        magnitude = torch.where(size > f.largest_code, torch.nan, magnitude)
    return torch.where(codes >> (f.bits - 1) == 1, -magnitude, magnitude).float()


def encode(x: Tensor | float, format: str | Format, *, saturate: bool | None = None) -> Tensor:
    """The bit patterns (int64, same shape) of the numbers nearest to x.

    A number halfway between two neighbours goes to the one whose last bit is 0 (in a table: to the
    smaller index).
    Beyond the largest number: infinity, in E4M3 NaN, or with `saturate` the largest number; None
    takes the format's own custom. Integers, tables and E2M1 always saturate: they have nothing
    else.
    Raises CompressionError for an unknown format, or NaN where the format has no pattern for it.
    """
    f = find(format)
    x = torch.as_tensor(x, dtype=torch.float64)
    if f.specials == "none" and torch.isnan(x).any():
        raise CompressionError(
            f"x: contains NaN, and {f.name} has no pattern for it; repair the values first."
        )
    if f.kind == "table":
        return _nearest_in_table(x, f)
    if f.kind == "integer":
        half = 2 ** (f.bits - 1)
        return torch.round(x).clamp(-half, half - 1).long() & (2**f.bits - 1)
    size = x.abs()
    finite = size.clamp(max=2.0**200)  # any number above the largest one will do
    exponent = torch.frexp(finite).exponent.long() - 1  # floor(log2 |x|)
    exponent = torch.where(finite > 0, exponent, 1 - f.bias).clamp(min=1 - f.bias)
    # |x| in units of the last mantissa bit
    steps = torch.round(finite / power_of_two(exponent - f.mantissa)).long()
    code = (exponent + f.bias - 1) * 2**f.mantissa + steps
    saturate = f.saturate if saturate is None else saturate or f.specials == "none"
    over = f.largest_code + (0 if saturate else 1)
    code = code.clamp(max=over)
    code = torch.where(torch.isnan(x), 2 ** (f.bits - 1) - 1, code)
    return code | (torch.signbit(x).long() << (f.bits - 1))


def _nearest_in_table(x: Tensor, f: Format) -> Tensor:
    table = torch.tensor(f.table, dtype=torch.float64, device=x.device)
    points, order = table.sort()
    middles = (points[1:] + points[:-1]) / 2
    below, above = torch.searchsorted(middles, x), torch.searchsorted(middles, x, right=True)
    return torch.minimum(order[below], order[above])


def cast(x: Tensor | float, format: str | Format, *, saturate: bool | None = None) -> Tensor:
    """X rounded to the format: decode(encode(x)), float32."""
    return decode(encode(x, format, saturate=saturate), format)


def values(format: str | Format) -> Tensor:
    """Every finite number of a format of at most 16 bits: float32, ascending,
    each once (−0 is 0).
    """
    f = find(format)
    if f.bits > 16:
        raise CompressionError(
            f"format={f.name!r}: {2**f.bits} patterns are too many to list; "
            "choose one of at most 16 bits."
        )
    found = decode(torch.arange(2**f.bits), f)
    return torch.unique(found[torch.isfinite(found)] + 0.0)


def scaled_cast(
    weight: Tensor, format: str | Format, *, group_size: int | None = 64
) -> tuple[Tensor, Tensor]:
    """A matrix (out, in) rounded to a format with one scale for each `group_size` inputs of a row.

    ŵ = s · cast(w / s) with s = max|w| / (largest number of the format), rounded to float16, the
    form in which scales are stored, unless that loses it; for binary s = mean|w|, which is best in
    the squared error. A group of zeros has the scale 1. Returns ŵ (out, in) and the scales (out,
    groups), both float32.
    Raises CompressionError for NaN, infinity or a group size that does not divide the columns.
    """
    f = find(format)
    weight = check_matrix(weight)
    rows, columns = weight.shape
    groups = weight.double().reshape(rows, -1, check_group_size(group_size, columns))
    scale = (
        groups.abs().mean(-1, keepdim=True)
        if f.bits == 1
        else groups.abs().amax(-1, keepdim=True) / f.largest
    )
    half = scale.half().double()
    scale = torch.where((half > 0) & torch.isfinite(half), half, scale.float().double())
    scale = torch.where(scale > 0, scale, 1.0)
    rounded = cast(groups / scale, f, saturate=True) * scale
    return rounded.reshape(rows, columns).float(), scale.squeeze(-1).float()
