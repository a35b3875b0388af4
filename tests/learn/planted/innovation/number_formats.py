"""Right and wrong answers to the exercises of number_formats."""

import functools
import math
from fractions import Fraction

import numpy as np
import torch

from course_utils.quantization import formats, microscaling, posit

# --- the values of a small float format ---


def by_decoding(exponent, mantissa):
    made = formats.Format("own", 1 + exponent + mantissa, "float", exponent, mantissa)
    return [float(v) for v in formats.values(made) if v >= 0]


def by_spacing(exponent, mantissa):
    """The first binade starts at 0; each further one has steps twice as wide."""
    step = 2.0 ** (1 - (2 ** (exponent - 1) - 1) - mantissa)
    found = [i * step for i in range(2 ** (mantissa + 1))]
    for _ in range(2**exponent - 2):
        step *= 2
        found += [(2**mantissa + i) * step for i in range(2**mantissa)]
    return found


def by_fractions(exponent, mantissa):
    bias, found = 2 ** (exponent - 1) - 1, set()
    for code in range(2 ** (exponent + mantissa)):
        E, M = divmod(code, 2**mantissa)
        lead = Fraction(1 if E else 0)
        found.add((lead + Fraction(M, 2**mantissa)) * Fraction(2) ** (max(E, 1) - bias))
    return torch.tensor([float(v) for v in sorted(found)], dtype=torch.float64)


def values(rule):
    """Of each (E, M, e, m), sorted."""

    def answer(exponent, mantissa):
        return sorted(
            rule(E, M / 2**mantissa, exponent)
            for E in range(2**exponent)
            for M in range(2**mantissa)
        )

    return answer


def usual(E, f, e, bias=None):
    b = 2 ** (e - 1) - 1 if bias is None else bias
    return 2.0 ** (E - b) * (1 + f) if E else 2.0 ** (1 - b) * f


# --- one posit ---


def by_library(pattern):
    return float(posit.decode(int(pattern, 2), len(pattern)))


def by_characters(pattern):
    bits = list(pattern)
    sign = 1
    if bits[0] == "1":
        sign = -1
        flipped = ["1" if b == "0" else "0" for b in bits]
        for i in reversed(range(len(flipped))):  # plus one
            if flipped[i] == "0":
                flipped[i] = "1"
                break
            flipped[i] = "0"
        bits = flipped
    i, first = 1, bits[1]
    while i < len(bits) and bits[i] == first:
        i += 1
    k = i - 1
    r = k - 1 if first == "1" else -k
    i += 1
    e = 0
    for weight in (2, 1):
        if i < len(bits):
            e += weight * int(bits[i])
        i += 1
    f, weight = 0.0, 0.5
    for b in bits[i:]:
        f, weight = f + weight * int(b), weight / 2
    return sign * math.ldexp(1 + f, 4 * r + e)


def by_neighbours(pattern):
    """Posits of one size are ordered as their patterns: the place among all, found by the library's
    list.
    """
    n = len(pattern)
    ordered = posit.decode(
        torch.cat([torch.arange(2 ** (n - 1) + 1, 2**n), torch.arange(2 ** (n - 1))]), n
    )
    code = int(pattern, 2)
    signed = code - 2**n if code >= 2 ** (n - 1) else code
    return ordered[signed + 2 ** (n - 1) - 1]


def fields(pattern, negate=True):
    n, code = len(pattern), int(pattern, 2)
    negative = pattern[0] == "1"
    body = np.binary_repr(2**n - code if negative and negate else code, n)[1:]
    stop = body.find("0" if body[0] == "1" else "1")
    run = len(body) if stop < 0 else stop
    return -1 if negative else 1, body[0] == "1", run, body[run + 1 :]


def posits(value, negate=True):
    def answer(pattern):
        return value(*fields(pattern, negate))

    return answer


def parts(rest, es=2):
    return int((rest + "0" * es)[:es] or "0", 2), int("0" + rest[es:], 2) / 2 ** len(rest[es:])


# --- the length of a stream ---


def by_counting_up(x, y, error, bipolar):
    r = (1 + x * y) / 2 if bipolar else x * y
    one = r * (1 - r) * (4 if bipolar else 1)
    n = max(1, int(one / error**2) - 2)
    while math.sqrt(one / n) > error * (1 + 1e-9):
        n += 1
    return n


def by_shares(x, y, error, bipolar):
    shares = [(v + 1) / 2 if bipolar else v for v in (x, y)]
    r = (
        shares[0] * shares[1] + (1 - shares[0]) * (1 - shares[1])
        if bipolar
        else shares[0] * shares[1]
    )
    return int(np.ceil(r * (1 - r) * (2 if bipolar else 1) ** 2 / error**2 - 1e-9))


def by_negative_floor(x, y, error, bipolar):
    variance = (1 - x * y) * ((1 + x * y) if bipolar else x * y)
    return -int(-variance / error / error // 1)


def streams(variance, whole=math.ceil):
    return lambda x, y, error, bipolar: whole(variance(x, y, bipolar) / error**2)


# --- a block of MXFP4 ---


def by_package(block):
    made = microscaling.encode(block[None], "MXFP4")
    return float(microscaling.scale_values(made.scales, "MXFP4")[0, 0]), microscaling.decode(made)[
        0
    ].double()


def by_frexp(block):
    _, power = torch.frexp(block.abs().max())
    scale = torch.ldexp(torch.tensor(1.0, dtype=torch.float64), power - 3)
    return scale, formats.cast(block / scale, "FP4 E2M1").double() * scale


def by_edges(block):
    scale = 4.0**-1 * 2.0 ** math.floor(math.log(float(block.abs().max()), 2) + 1e-12)
    edges = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], dtype=torch.float64)
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    return scale, scale * torch.from_numpy(
        table[torch.bucketize(block.abs() / scale, edges).numpy()]
    ) * torch.sign(block)


def blocks(scale_of, elements=(0, 0.5, 1, 1.5, 2, 3, 4, 6), back=True):
    def answer(block):
        scale, table = scale_of(block), torch.tensor(elements, dtype=torch.float64)
        size = table[(block.abs()[:, None] / scale - table).abs().argmin(1)]
        return scale, size * torch.sign(block) * (scale if back else 1)

    return answer


def down(peak):
    return 2.0 ** math.floor(math.log2(peak))


# --- the cheapest format that is good enough ---


def by_loop(x, rounded, bits, target):
    best = None
    for name in sorted(rounded, key=bits.get):
        signal = noise = 0.0
        for row, other in zip(x.tolist(), rounded[name].tolist(), strict=True):
            for a, b in zip(row, other, strict=True):
                signal, noise = signal + a * a, noise + (a - b) ** 2
        if signal / noise >= 10 ** (target / 10):
            best = name, 10 * math.log10(signal / noise)
            break
    return best


def by_norms(x, rounded, bits, target):
    level = {n: 20 * torch.log10(x.norm() / (rounded[n] - x).norm()) for n in bits}
    chosen = min((n for n in bits if level[n] >= target), key=bits.get)
    return [chosen, level[chosen]]


def by_table(x, rounded, bits, target):
    noise, signal = (
        {n: float((r - x).square().mean()) for n, r in rounded.items()},
        float(x.square().mean()),
    )
    _, name = sorted(
        (bits[n], n) for n in rounded if noise[n] <= signal * 10 ** (-target / 10) * (1 + 1e-12)
    )[0]
    return name, -10 * np.log10(noise[name] / signal)


def level(x, found, power=10):
    return power * math.log10(float((x * x).sum() / ((found - x) ** 2).sum()))


def cheap(decibels, choose=None):
    def answer(x, rounded, bits, target):
        found = {n: decibels(x, r) for n, r in rounded.items()}
        good = [n for n, v in found.items() if v >= target] or [max(found, key=found.get)]
        name = choose(good, bits, found) if choose else min(good, key=bits.get)
        return name, found[name]

    return answer


# --- a format of one's own ---


def zero_in(points):
    points = points.clone()
    points[points.abs().argmin()] = 0.0
    return points


def walk(x, points, steps=60):
    """Lloyd's steps with the value 0 held."""
    for _ in range(steps):
        cell = torch.bucketize(x, (points[1:] + points[:-1]) / 2)
        count = torch.bincount(cell, minlength=len(points))
        mean = torch.bincount(cell, x, minlength=len(points)) / count.clamp(min=1)
        points = torch.where((count > 0) & (points != 0), mean, points).sort().values
    return points


def loss(x, points):
    return float((points[torch.bucketize(x, (points[1:] + points[:-1]) / 2)] - x).square().mean())


def by_swaps(sample, bits):
    """Lloyd's steps; then as long as it helps, the value that is missed least moves to where one is
    needed most.
    """
    x = sample.sort().values
    start = torch.quantile(
        x, (torch.arange(2**bits - 1, dtype=torch.float64) + 0.5) / (2**bits - 1)
    )
    start = torch.where(start == 0, 1e-3 * x.std(), start)  # one value is held at 0, no more
    found = walk(x, torch.cat([start, torch.zeros(1, dtype=x.dtype)]).sort().values, 20)
    places = torch.cat([x[::10], x[-12:], x[:12]])
    places = places[places != 0]
    while True:
        others = []
        for i in torch.nonzero(found)[:, 0].tolist():
            rest = torch.cat([found[:i], found[i + 1 :]])
            tried = torch.cat([rest.expand(len(places), -1), places[:, None]], 1)
            off = (x[:, None, None] - tried).abs().amin(-1).square().mean(0)
            others.append((float(off.min()), tried[off.argmin()]))
        best = walk(x, min(others, key=lambda pair: pair[0])[1].sort().values, 20)
        if loss(x, best) > loss(x, found) * 0.999:
            return found.tolist()
        found = best


def by_recursion(sample, bits):
    """The least cost of the numbers before j in k cells, asked for from the end and remembered; one
    cell is that of 0.
    """
    x = sample.double().sort().values
    n, sums = len(x), [torch.cat([x.new_zeros(1), (x**p).cumsum(0)]) for p in (1, 2)]

    @functools.cache
    def least(k, zero):
        """For every j the cost, the cut and whether the last cell is that of 0."""
        if k == 0:
            cost = torch.full((n + 1,), math.inf, dtype=torch.float64)
            cost[0] = 0.0 if not zero else math.inf
            return cost, None, None
        i, j = torch.arange(n + 1)[:, None], torch.arange(n + 1)
        energy = sums[1] - sums[1][:, None]
        spread = energy - (sums[0] - sums[0][:, None]) ** 2 / (j - i).clamp(min=1)
        usual = torch.where(j > i, least(k - 1, zero)[0][:, None] + spread, math.inf).min(0)
        if not zero:
            return usual.values, usual.indices, torch.zeros(n + 1, dtype=torch.bool)
        special = torch.where(j >= i, least(k - 1, False)[0][:, None] + energy, math.inf).min(0)
        pick = special.values < usual.values
        return (
            torch.minimum(special.values, usual.values),
            torch.where(pick, special.indices, usual.indices),
            pick,
        )

    points, j, zero = [], n, True
    for k in range(2**bits, 0, -1):
        _, cut, special = least(k, zero)
        i, is_zero = int(cut[j]), bool(special[j])
        points.append(0.0 if is_zero else float(x[i:j].mean()))
        j, zero = i, zero and not is_zero
    return torch.tensor(points, dtype=torch.float64)


def by_tables_of_costs(sample, bits):
    """Dynamic programming over the sorted numbers,
    in plain loops over cells and NumPy over places.
    """
    x = np.sort(sample.numpy())
    n, s1, s2 = len(x), np.r_[0, np.cumsum(x)], np.r_[0, np.cumsum(x**2)]
    best, back = {(0, False): np.r_[0.0, np.full(n, np.inf)]}, {}
    best[0, True] = np.full(n + 1, np.inf)
    for k in range(1, 2**bits + 1):
        for zero in (False, True):
            row, trace = np.full(n + 1, np.inf), [None] * (n + 1)
            for j in range(n + 1):
                i = np.arange(j)
                if j:
                    cost = best[k - 1, zero][:j] + s2[j] - s2[i] - (s1[j] - s1[i]) ** 2 / (j - i)
                    row[j], trace[j] = cost.min(), (int(cost.argmin()), False)
                if zero:
                    cost = best[k - 1, False][: j + 1] + s2[j] - s2[: j + 1]
                    if cost.min() < row[j]:
                        row[j], trace[j] = cost.min(), (int(cost.argmin()), True)
            best[k, zero], back[k, zero] = row, trace
    points, j, zero = [], n, True
    for k in range(2**bits, 0, -1):
        i, is_zero = back[k, zero][j]
        points.append(0.0 if is_zero else (s1[j] - s1[i]) / (j - i))
        j, zero = i, zero and not is_zero
    return np.array(points[::-1])


RIGHT = {
    "number_formats.grid": [by_decoding, by_spacing, by_fractions],
    "number_formats.posit_value": [by_library, by_characters, by_neighbours],
    "number_formats.stream_length": [by_counting_up, by_shares, by_negative_floor],
    "number_formats.mxfp4": [by_package, by_frexp, by_edges],
    "number_formats.cheapest": [by_loop, by_norms, by_table],
    "number_formats.own_format": [by_swaps, by_recursion, by_tables_of_costs],
}

WRONG = {
    "number_formats.grid": [
        (values(lambda E, f, e: 2.0 ** (E - 2 ** (e - 1) + 1) * (1 + f)), "no_subnormals"),
        (values(lambda E, f, e: usual(E, f, e) if E else usual(0, f, e) / 2), "subnormal_power"),
        (values(lambda E, f, e: usual(E, f, e, 2 ** (e - 1))), "bias"),
        (lambda exponent, mantissa: by_fractions(exponent, mantissa)[: -(2**mantissa)], "reserved"),
        (lambda exponent, mantissa: by_fractions(exponent, mantissa)[1:], "no_zero"),
        (
            lambda exponent, mantissa: sorted(
                {s * float(v) for v in by_fractions(exponent, mantissa) for s in (1, -1)}
            ),
            "signed",
        ),
        (lambda exponent, mantissa: by_fractions(exponent, mantissa)[:-1], None),
        (lambda exponent, mantissa: by_fractions(exponent, mantissa).flip(0), None),
    ],
    "number_formats.posit_value": [
        (
            posits(
                lambda s, ones, k, rest: (
                    s
                    * 16.0 ** (k - 1 if ones else -k)
                    * 2.0 ** parts(rest)[0]
                    * (1 + parts(rest)[1])
                ),
                False,
            ),
            "not_negated",
        ),
        (
            posits(
                lambda s, ones, k, rest: (
                    s * 16.0 ** (k if ones else -k) * 2.0 ** parts(rest)[0] * (1 + parts(rest)[1])
                )
            ),
            "run_of_ones",
        ),
        (
            posits(
                lambda s, ones, k, rest: (
                    s
                    * 16.0 ** (k - 1 if ones else 1 - k)
                    * 2.0 ** parts(rest)[0]
                    * (1 + parts(rest)[1])
                )
            ),
            "run_of_zeros",
        ),
        (
            posits(
                lambda s, ones, k, rest: (
                    s
                    * 16.0 ** (k - 1 if ones else -k)
                    * 2.0 ** int("0" + rest[:2], 2)
                    * (1 + parts(rest)[1])
                )
            ),
            "not_padded",
        ),
        (
            posits(
                lambda s, ones, k, rest: (
                    s
                    * 2.0 ** (k - 1 if ones else -k)
                    * 2.0 ** parts(rest)[0]
                    * (1 + parts(rest)[1])
                )
            ),
            "regime_of_two",
        ),
        (
            posits(
                lambda s, ones, k, rest: (
                    s * 16.0 ** (k - 1 if ones else -k) * 2.0 ** parts(rest)[0] * parts(rest)[1]
                )
            ),
            "no_hidden_one",
        ),
        (
            posits(
                lambda s, ones, k, rest: (
                    s * 2.0 ** (k - 1 if ones else -k) * (1 + parts(rest, 0)[1])
                )
            ),
            "other_es",
        ),
        (
            posits(
                lambda s, ones, k, rest: (
                    16.0 ** (k - 1 if ones else -k) * 2.0 ** parts(rest)[0] * (1 + parts(rest)[1])
                )
            ),
            None,
        ),
    ],
    "number_formats.stream_length": [
        (
            lambda x, y, error, bipolar: math.ceil(
                (1 - (x * y) ** 2 if bipolar else x * y * (1 - x * y)) / error
            ),
            "variance_for_deviation",
        ),
        (streams(lambda x, y, bipolar: abs(x * y) * (1 - abs(x * y))), "unipolar_for_both"),
        (
            streams(
                lambda x, y, bipolar: (
                    (1 + x * y) / 2 * (1 - x * y) / 2 if bipolar else x * y * (1 - x * y)
                )
            ),
            "bipolar_share",
        ),
        (
            streams(
                lambda x, y, bipolar: 1 - (x * y) ** 2 if bipolar else x * y - (x * y) ** 2, int
            ),
            "rounded_down",
        ),
        (streams(lambda x, y, bipolar: 1 - x**2 if bipolar else x - x**2), "of_one_stream"),
        (streams(lambda x, y, bipolar: 1 - (x * y) ** 2), None),
    ],
    "number_formats.mxfp4": [
        (blocks(lambda b: down(float(b.abs().max()))), "no_e_max"),
        (blocks(lambda b: 2.0 ** (math.ceil(math.log2(float(b.abs().max()))) - 2)), "rounded_up"),
        (blocks(lambda b: down(float(b.max())) / 4), "largest_without_sign"),
        (blocks(lambda b: down(float(b.abs().max())) / 4, back=False), "not_scaled_back"),
        (blocks(lambda b: down(float(b.abs().max())) / 4, elements=range(8)), "even_steps"),
        (blocks(lambda b: 2.0 ** math.ceil(math.log2(float(b.max()))), back=False), "as_given"),
        (blocks(lambda b: float(b.abs().max()) / 6), None),
        (lambda block: (down(float(block.abs().max())) / 4, block.clone()), None),
    ],
    "number_formats.cheapest": [
        (cheap(lambda x, f: level(x, f, 20)), "twenty"),
        (cheap(lambda x, f: 10 * math.log10(float(x.norm() / (x - f).norm()))), "ratio_of_norms"),
        (
            cheap(lambda x, f: float(np.mean([level(a, b) for a, b in zip(x, f, strict=True)]))),
            "mean_of_rows",
        ),
        (cheap(level, lambda good, bits, found: max(found, key=found.get)), "best_of_all"),
        (cheap(level, lambda good, bits, found: max(good, key=bits.get)), "most_bits"),
        (cheap(level, lambda good, bits, found: min(bits, key=bits.get)), None),
        (lambda x, rounded, bits, target: by_loop(x, rounded, bits, target)[0], None),
    ],
    "number_formats.own_format": [
        (
            lambda sample, bits: zero_in(
                sample.min() + (sample.max() - sample.min()) * torch.arange(2**bits) / (2**bits - 1)
            ),
            "even",
        ),
        (
            lambda sample, bits: zero_in(
                sample.quantile((torch.arange(2**bits).double() + 0.5) / 2**bits)
            ),
            "equal_shares",
        ),
        (
            lambda sample, bits: [
                s * v for v in by_tables_of_costs(sample.abs(), bits - 1).tolist() for s in (1, -1)
            ],
            "mirrored",
        ),
        (
            lambda sample, bits: zero_in(
                torch.tensor(exact_free(sample, bits), dtype=torch.float64)
            ),
            "zero_afterwards",
        ),
        (lambda sample, bits: exact_free(sample, bits), "holds_zero"),
        (
            lambda sample, bits: zero_in(
                sample.sort().values[:: len(sample) // 2**bits][: 2**bits]
            ),
            "near_the_least",
        ),
        (lambda sample, bits: by_tables_of_costs(sample, bits)[1:], None),
    ],
}


def exact_free(sample, bits):
    """The best values without a condition, by the same table."""
    x = np.sort(sample.numpy())
    n, s1, s2 = len(x), np.r_[0, np.cumsum(x)], np.r_[0, np.cumsum(x**2)]
    best, cuts = np.r_[0.0, np.full(n, np.inf)], []
    for _ in range(2**bits):
        row, cut = np.full(n + 1, np.inf), np.zeros(n + 1, int)
        for j in range(1, n + 1):
            i = np.arange(j)
            cost = best[:j] + s2[j] - s2[i] - (s1[j] - s1[i]) ** 2 / (j - i)
            row[j], cut[j] = cost.min(), cost.argmin()
        best = row
        cuts.append(cut)
    points, j = [], n
    for cut in cuts[::-1]:
        points.append(float((s1[j] - s1[cut[j]]) / (j - cut[j])))
        j = cut[j]
    return points[::-1]
