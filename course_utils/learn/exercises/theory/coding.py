"""Lesson 4.1: bits of a quantized model, which coder is enough,
an entropy measured on few numbers.
"""

import math
from collections import Counter

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.theory import entropy as coder

from ..draws import pick, turn

# --- bits of a quantized model ---


def model_inputs(rng: torch.Generator) -> dict:
    """Matrices of codes of very unlike sizes and spreads; one of them may hold a single value."""
    codes = []
    for _ in range(pick(rng, 2, 3, 4)):
        rows, columns = (
            int(torch.randint(3, 40, (), generator=rng)),
            int(torch.randint(2, 23, (), generator=rng)),
        )
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
        return (sum(c.numel() * rate(c) for c in codes) + side * side_bytes) / sum(
            c.numel() for c in codes
        )

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
    """The simplest of "fixed", "huffman", "arithmetic" whose mean length is at most (1 + slack)
    times the entropy.
    """
    found = lengths(counts)
    for name in ("fixed", "huffman"):
        if found[name] <= (1 + slack) * found["entropy"]:
            return name
    return "arithmetic"


def unlike_fixed(counts, slack):
    return "fixed" if len(set(counts)) == 1 else "huffman"


def bits_of_slack(counts, slack):
    found = lengths(counts)
    return next(
        (n for n in ("fixed", "huffman") if found[n] <= found["entropy"] + slack), "arithmetic"
    )


def of_huffman(counts, slack):
    found = lengths(counts)
    if found["fixed"] <= (1 + slack) * found["huffman"]:
        return "fixed"
    return "huffman" if found["huffman"] <= (1 + slack) * found["entropy"] else "arithmetic"


def shortest(counts, slack):
    found = lengths(counts)
    return (
        "arithmetic"
        if found["entropy"] < min(found["fixed"], found["huffman"]) - 1e-12
        else "huffman"
    )


def one_more(counts, slack):
    found = lengths(counts)
    return "fixed" if found["fixed"] <= (1 + slack) * found["entropy"] else "huffman"


def whole_of_none(counts, slack):
    """Takes log₂ of the number of symbols for the length of a code, which is a whole number."""
    return (
        "fixed"
        if math.log2(len(counts)) <= (1 + slack) * lengths(counts)["entropy"]
        else choose_coder(counts, slack)
    )


def slack_of_the_length(counts, slack):
    """At most `slack` of the code's own length, not of the entropy."""
    found = lengths(counts)
    return next(
        (n for n in ("fixed", "huffman") if (1 - slack) * found[n] <= found["entropy"]),
        "arithmetic",
    )


def any_counts(rng: torch.Generator) -> dict:
    """Counts for which a fixed length, a Huffman code or only an arithmetic code will do."""
    kind = pick(rng, "even", "powers", "middle", "sharp", "alone")
    if kind == "even":
        counts = [
            100 + int(torch.randint(60, (), generator=rng))
            for _ in range(pick(rng, 4, 8, 11, 13, 15, 16))
        ]
    elif kind == "powers":
        counts = [2**k for k in range(pick(rng, 5, 7))]
    elif kind == "middle":
        width = 1 + 6 * float(torch.rand((), generator=rng))
        counts = [int(1 + 900 * math.exp(-(((k - 7) / width) ** 2))) for k in range(15)]
    elif kind == "sharp":
        counts = [30 + int(torch.randint(300, (), generator=rng)), 2000, 30, 3]
    else:
        counts = [
            int(torch.randint(50, 90, (), generator=rng)),
            int(torch.randint(1, 50, (), generator=rng)),
        ]
    order = torch.randperm(len(counts), generator=rng).tolist()
    return {"counts": [counts[i] for i in order], "slack": pick(rng, 0.02, 0.05, 0.1, 0.25)}


CODER_MISTAKES = {
    "fixed_never": unlike_fixed,
    "slack_in_bits": bits_of_slack,
    "against_huffman": of_huffman,
    "shortest": shortest,
    "no_arithmetic": one_more,
    "not_whole": whole_of_none,
    "slack_of_the_length": slack_of_the_length,
}


def coder_inputs(rng: torch.Generator) -> dict:
    """Counts on which one of the mistakes shows, each in its turn."""
    mistake = turn(rng, *CODER_MISTAKES.values())
    while True:
        drawn = any_counts(rng)
        if mistake(**drawn) != choose_coder(**drawn):
            return drawn


# --- a measured entropy ---


def small_sample(rng: torch.Generator) -> dict:
    """A few rounded numbers; one of them stands apart, so that not all codes between the least and
    the largest occur.
    """
    n, spread = pick(rng, 20, 50, 144, 300), 1 + 6 * float(torch.rand((), generator=rng))
    codes = (torch.randn(n, generator=rng) * spread).round().to(torch.int64)
    codes[int(torch.randint(n, (), generator=rng))] = codes.max() + pick(rng, 3, 5)
    return {"codes": codes}


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
        "coding.coded_bits", model_inputs, coded_bits,
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
        "coding.choose_coder", coder_inputs, choose_coder, CODER_MISTAKES,
        lesson="4.1-information-and-rate-distortion", kind="decide", difficulty=2,
        minutes=10, trials=16,
    ),
    Exercise(
        "coding.corrected_entropy", small_sample, corrected_entropy,
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
