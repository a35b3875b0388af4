"""Lesson 4.1: bits of a quantized model, water-filling, the gap in decibels, mutual information, which coder."""

import math
from collections import Counter

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.theory import entropy as coder

from ..draws import pick

# --- bits of a quantized model ---


def model_inputs(rng: torch.Generator) -> dict:
    """Matrices of codes of very unlike sizes and spreads; one of them may hold a single value."""
    codes = []
    for _ in range(pick(rng, 2, 3, 4)):
        rows, columns = int(torch.randint(3, 40, (), generator=rng)), int(torch.randint(2, 23, (), generator=rng))
        spread = float(torch.rand((), generator=rng)) * 4 + 0.2
        codes.append((torch.randn(rows, columns, generator=rng) * spread).round().to(torch.int64))
    if pick(rng, True, False):
        codes.append(torch.full((5, 7), int(torch.randint(-3, 4, (), generator=rng))))
    return {"codes": codes, "side_bytes": int(torch.randint(20, 400, (), generator=rng))}


def entropy_of(codes: Tensor, log=math.log2) -> float:
    counts = Counter(codes.flatten().tolist())
    total = sum(counts.values())
    return -sum(n / total * log(n / total) for n in counts.values())


def coded_bits(codes: list[Tensor], side_bytes: int) -> float:
    """(Σ_l n_l H_l + 8 · side_bytes) / Σ_l n_l, with H_l the entropy of matrix l's own codes."""
    weights = sum(c.numel() for c in codes)
    return (sum(c.numel() * entropy_of(c) for c in codes) + 8 * side_bytes) / weights


def bits_with(rate, side=8.0):
    def answer(codes, side_bytes):
        return (sum(c.numel() * rate(c) for c in codes) + side * side_bytes) / sum(c.numel() for c in codes)

    return answer


def width(codes: Tensor) -> float:
    return math.ceil(math.log2(int(codes.max() - codes.min()) + 1))


def unweighted(codes, side_bytes):
    weights = sum(c.numel() for c in codes)
    return sum(map(entropy_of, codes)) / len(codes) + 8 * side_bytes / weights


def pooled(codes, side_bytes):
    every = torch.cat([c.flatten() for c in codes])
    return entropy_of(every) + 8 * side_bytes / len(every)


def whole_model(codes, side_bytes):
    return coded_bits(codes, side_bytes) * sum(c.numel() for c in codes)


# --- reverse water-filling ---


def parts_inputs(rng: torch.Generator) -> dict:
    """Variances over four orders of magnitude; the level covers some of them, all but one, or none."""
    n = pick(rng, 2, 3, 5, 8, 13)
    variances = 10 ** (4 * torch.rand(n, generator=rng, dtype=torch.float64) - 2)
    if pick(rng, True, False):
        variances[1] = variances[0]
    share = pick(rng, 0.02, 0.2, 0.5, 0.9)
    least = n * float(variances.min())
    total = pick(rng, share * float(variances.sum()), 0.5 * least)
    return {"variances": variances, "distortion": total}


def water_filling(variances: Tensor, distortion: float) -> Tensor:
    """R_i = max(0, ½ log₂ σ_i²/θ) with the θ at which Σ min(θ, σ_i²) is the distortion; θ by halving an interval."""
    low, high = 0.0, float(variances.max())
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if sum(min(level, v) for v in variances.tolist()) < distortion else (low, level)
    return torch.tensor([max(0.0, 0.5 * math.log2(v / high)) for v in variances.tolist()], dtype=torch.float64)


def level_of(variances: Tensor, distortion: float) -> float:
    rates = water_filling(variances, distortion)
    first = int(rates.argmax())
    return float(variances[first] / 4 ** rates[first])


def equal_distortion(variances, distortion):
    return 0.5 * torch.log2(variances * len(variances) / distortion)


def equal_clamped(variances, distortion):
    return equal_distortion(variances, distortion).clamp(min=0)


def equal_rates(variances, distortion):
    return torch.full_like(variances, 0.5 * math.log2(max(1.0, float(variances.sum()) / distortion)))


def rates_with(change):
    def answer(variances, distortion):
        return change(variances, level_of(variances, distortion))

    return answer


# --- the gap in decibels ---


def gap_inputs(rng: torch.Generator) -> dict:
    bits = float(torch.rand((), generator=rng)) * 6 + 0.3
    variance = 10 ** float(torch.rand((), generator=rng) * 4 - 2)
    gap = 1 + 2 * float(torch.rand((), generator=rng))
    return {"bits": bits, "distortion": variance * 4**-bits * gap, "variance": variance}


def gap_db(bits: float, distortion: float, variance: float) -> float:
    """10 log₁₀(D / (σ² 4^−R)): how far the error lies above the least one at this rate."""
    return 10 * math.log10(distortion / (variance * 4**-bits))


# --- mutual information ---


def joint_inputs(rng: torch.Generator) -> dict:
    """A joint distribution with zeros, perhaps a whole column of them, perhaps a deterministic code."""
    rows, columns = pick(rng, 2, 3, 6), pick(rng, 2, 4, 5)
    p = torch.rand(rows, columns, generator=rng, dtype=torch.float64)
    kind = pick(rng, "zeros", "column", "code")
    if kind == "zeros":
        p[torch.rand(p.shape, generator=rng) < 0.3] = 0
        p[0, 0] = 1
    elif kind == "column":
        p[:, 1] = 0
    else:
        which = torch.randint(columns, (rows,), generator=rng)
        p = p * (torch.arange(columns) == which[:, None])
    p = p / p.sum()
    return {"joint": p} if mutual_information(p) > 0.02 else joint_inputs(rng)  # 0 has no relative error


def mutual_information(joint: Tensor) -> float:
    """Σ p(x, q) log₂ p(x, q) / (p(x) p(q)) over the pairs that occur."""
    total, x, q = 0.0, joint.sum(1).tolist(), joint.sum(0).tolist()
    for i, row in enumerate(joint.tolist()):
        for j, p in enumerate(row):
            if p > 0:
                total += p * math.log2(p / (x[i] * q[j]))
    return total


def entropy_of_p(p: Tensor) -> Tensor:
    p = p.flatten()
    return -(p[p > 0] * p[p > 0].log2()).sum()


# --- which coder ---


def lengths(counts: list[int]) -> dict[str, float]:
    """Mean bits a symbol: a fixed length, Huffman, and the entropy."""
    total = sum(counts)
    words = coder.code_lengths(counts)
    return {
        "fixed": float(math.ceil(math.log2(len(counts)))),
        "huffman": sum(n * int(w) for n, w in zip(counts, words, strict=True)) / total,
        "entropy": -sum(n / total * math.log2(n / total) for n in counts if n),
    }


def choose_coder(counts: list[int], slack: float) -> str:
    """The simplest of "fixed", "huffman", "arithmetic" whose mean length is at most (1 + slack) times the entropy."""
    found = lengths(counts)
    for name in ("fixed", "huffman"):
        if found[name] <= (1 + slack) * found["entropy"]:
            return name
    return "arithmetic"


def unlike_fixed(counts, slack):
    return "fixed" if len(set(counts)) == 1 else "huffman"


def bits_of_slack(counts, slack):
    found = lengths(counts)
    return next((n for n in ("fixed", "huffman") if found[n] <= found["entropy"] + slack), "arithmetic")


def of_huffman(counts, slack):
    found = lengths(counts)
    if found["fixed"] <= (1 + slack) * found["huffman"]:
        return "fixed"
    return "huffman" if found["huffman"] <= (1 + slack) * found["entropy"] else "arithmetic"


def shortest(counts, slack):
    found = lengths(counts)
    return "arithmetic" if found["entropy"] < min(found["fixed"], found["huffman"]) - 1e-12 else "huffman"


def one_more(counts, slack):
    found = lengths(counts)
    return "fixed" if found["fixed"] <= (1 + slack) * found["entropy"] else "huffman"


def any_counts(rng: torch.Generator) -> dict:
    """Counts for which a fixed length, a Huffman code or only an arithmetic code will do."""
    kind = pick(rng, "even", "powers", "middle", "sharp", "alone")
    if kind == "even":
        counts = [100 + int(torch.randint(60, (), generator=rng)) for _ in range(pick(rng, 4, 8, 15, 16))]
    elif kind == "powers":
        counts = [2**k for k in range(pick(rng, 5, 7))]
    elif kind == "middle":
        width = 1 + 6 * float(torch.rand((), generator=rng))
        counts = [int(1 + 900 * math.exp(-(((k - 7) / width) ** 2))) for k in range(15)]
    elif kind == "sharp":
        counts = [30 + int(torch.randint(300, (), generator=rng)), 2000, 30, 3]
    else:
        counts = [int(torch.randint(50, 90, (), generator=rng)), int(torch.randint(1, 50, (), generator=rng))]
    order = torch.randperm(len(counts), generator=rng).tolist()
    return {"counts": [counts[i] for i in order], "slack": pick(rng, 0.02, 0.05, 0.1, 0.25)}


CODER_MISTAKES = {
    "fixed_never": unlike_fixed,
    "slack_in_bits": bits_of_slack,
    "against_huffman": of_huffman,
    "shortest": shortest,
    "no_arithmetic": one_more,
}


def coder_inputs(rng: torch.Generator) -> dict:
    """Counts on which two of the mistakes, drawn by chance, show."""
    a, b = (pick(rng, *CODER_MISTAKES.values()) for _ in range(2))
    while True:
        drawn = any_counts(rng)
        right = choose_coder(**drawn)
        if a(**drawn) != right and (a is b or b(**drawn) != right or pick(rng, True, False)):
            return drawn


# --- a measured entropy ---


def small_sample(rng: torch.Generator) -> dict:
    n, spread = pick(rng, 20, 50, 144, 300), 1 + 6 * float(torch.rand((), generator=rng))
    return {"codes": (torch.randn(n, generator=rng) * spread).round().to(torch.int64)}


def corrected_entropy(codes: Tensor) -> float:
    """H + (K − 1) / (2 N ln 2) bits, K the number of different codes that occur (Miller, 1955)."""
    kinds = len(set(codes.flatten().tolist()))
    return entropy_of(codes) + (kinds - 1) / (2 * codes.numel() * math.log(2))


def correction_with(term):
    def answer(codes):
        kinds = len(codes.unique())
        return entropy_of(codes) + term(kinds, codes.numel(), int(codes.max() - codes.min()) + 1)

    return answer


EXERCISES = [
    Exercise(
        "rate_distortion.coded_bits", model_inputs, coded_bits,
        {
            "widths": bits_with(width),
            "nats": bits_with(lambda c: entropy_of(c, math.log)),
            "unweighted": unweighted,
            "pooled": pooled,
            "side_forgotten": bits_with(entropy_of, 0.0),
            "side_in_bytes": bits_with(entropy_of, 1.0),
            "whole_model": whole_model,
        },
        lesson="4.1-information-and-rate-distortion", kind="step", difficulty=2, minutes=8,
    ),
    Exercise(
        "rate_distortion.water_filling", parts_inputs, water_filling,
        {
            "equal_distortion": equal_distortion,
            "level_not_found": equal_clamped,
            "equal_rates": equal_rates,
            "negative": rates_with(lambda v, level: 0.5 * torch.log2(v / level)),
            "nats": rates_with(lambda v, level: 0.5 * torch.log(v / level).clamp(min=0)),
            "half_forgotten": rates_with(lambda v, level: torch.log2(v / level).clamp(min=0)),
            "deviations": rates_with(lambda v, level: 0.5 * torch.log2(v.sqrt() / level).clamp(min=0)),
            "distortions": rates_with(lambda v, level: v.clamp(max=level)),
        },
        lesson="4.1-information-and-rate-distortion", kind="design", difficulty=3, minutes=15, tolerance=1e-4,
    ),
    Exercise(
        "rate_distortion.gap_db", gap_inputs, gap_db,
        {
            "twenty": lambda bits, distortion, variance: 2 * gap_db(bits, distortion, variance),
            "inverted": lambda bits, distortion, variance: -gap_db(bits, distortion, variance),
            "natural": lambda bits, distortion, variance: 10 * math.log(distortion / (variance * 4**-bits)),
            "powers_of_two": lambda bits, distortion, variance: 10 * math.log10(distortion / (variance * 2**-bits)),
            "signal_to_noise": lambda bits, distortion, variance: 10 * math.log10(variance / distortion),
            "in_bits": lambda bits, distortion, variance: bits - 0.5 * math.log2(variance / distortion),
            "variance_forgotten": lambda bits, distortion, variance: 10 * math.log10(distortion / 4**-bits),
        },
        lesson="4.1-information-and-rate-distortion", kind="formula", difficulty=1, minutes=4,
    ),
    Exercise(
        "rate_distortion.mutual_information", joint_inputs, mutual_information,
        {
            "nats": lambda joint: mutual_information(joint) * math.log(2),
            "joint_entropy": lambda joint: entropy_of_p(joint),
            "sum_of_entropies": lambda joint: entropy_of_p(joint.sum(0)) + entropy_of_p(joint.sum(1)),
            "conditional": lambda joint: entropy_of_p(joint) - entropy_of_p(joint.sum(1)),
            "code_entropy": lambda joint: entropy_of_p(joint.sum(0)),
            "source_entropy": lambda joint: entropy_of_p(joint.sum(1)),
            "sign": lambda joint: -mutual_information(joint),
        },
        lesson="4.1-information-and-rate-distortion", kind="debug", difficulty=2, minutes=8,
    ),
    Exercise(
        "rate_distortion.choose_coder", coder_inputs, choose_coder, CODER_MISTAKES,
        lesson="4.1-information-and-rate-distortion", kind="decide", difficulty=2, minutes=10, trials=16,
    ),
    Exercise(
        "rate_distortion.corrected_entropy", small_sample, corrected_entropy,
        {
            "plain": lambda codes: entropy_of(codes),
            "in_nats": correction_with(lambda k, n, span: (k - 1) / (2 * n)),
            "sign": correction_with(lambda k, n, span: -(k - 1) / (2 * n * math.log(2))),
            "all_codes": correction_with(lambda k, n, span: k / (2 * n * math.log(2))),
            "span": correction_with(lambda k, n, span: (span - 1) / (2 * n * math.log(2))),
            "half_forgotten": correction_with(lambda k, n, span: (k - 1) / (n * math.log(2))),
        },
        lesson="4.1-information-and-rate-distortion", kind="confirm", difficulty=2, minutes=6,
    ),
]  # fmt: skip
