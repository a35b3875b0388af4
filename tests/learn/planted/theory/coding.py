"""Right and wrong answers to the exercises of coding."""

import math
from collections import Counter

import numpy as np
import torch

from course_utils.theory import entropy

# --- bits of a quantized model ---


def by_unique(codes, side_bytes):
    bits = 8 * side_bytes
    for c in codes:
        n = torch.unique(c, return_counts=True)[1].double()
        bits += float(-(n * (n / n.sum()).log2()).sum())
    return bits / sum(c.numel() for c in codes)


def by_course(codes, side_bytes):
    sizes = torch.tensor([c.numel() for c in codes], dtype=torch.float64)
    rates = torch.tensor([entropy.entropy(c) for c in codes], dtype=torch.float64)
    return (sizes @ rates + 8 * side_bytes) / sizes.sum()


def by_counter(codes, side_bytes):
    total = 0.0
    for c in codes:
        seen = Counter(c.reshape(-1).tolist())
        total += sum(n * math.log2(c.numel() / n) for n in seen.values())
    return np.float64((total + 8 * side_bytes) / sum(c.numel() for c in codes))


def plan(rate, side=8):
    def answer(codes, side_bytes):
        return (sum(rate(c) * c.numel() for c in codes) + side * side_bytes) / sum(
            c.numel() for c in codes
        )

    return answer


def H(codes):
    return entropy.entropy(codes)


# --- which coder ---


def mean_lengths(counts):
    total = sum(counts)
    h = sum(n / total * math.log2(total / n) for n in counts)
    words = np.asarray(entropy.code_lengths(counts))
    return math.ceil(math.log2(len(counts))), float(np.average(words, weights=counts)), h


def by_table(counts, slack):
    fixed, huffman, h = mean_lengths(counts)
    return (
        "fixed"
        if fixed <= h * (1 + slack)
        else "huffman"
        if huffman <= h * (1 + slack)
        else "arithmetic"
    )


def by_excess(counts, slack):
    fixed, huffman, h = mean_lengths(counts)
    near = {"fixed": fixed / h - 1, "huffman": huffman / h - 1, "arithmetic": 0.0}
    return next(name for name, excess in near.items() if excess <= slack)


def by_heap(counts, slack):
    """Huffman's mean length is the sum of all joined weights."""
    import heapq

    heap, joined = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        joined += both
        heapq.heappush(heap, both)
    limit = (1 + slack) * mean_lengths(counts)[2]
    if (len(counts) - 1).bit_length() <= limit:
        return "fixed"
    return "huffman" if joined / sum(counts) <= limit else "arithmetic"


def one_too_far(counts, slack):
    fixed, _, h = mean_lengths(counts)
    return "huffman" if fixed <= (1 + slack) * h else "arithmetic"


def costliest(counts, slack):
    fixed, huffman, _ = mean_lengths(counts)
    return "fixed" if fixed >= huffman else "huffman"


def no_ceiling(counts, slack):
    _, huffman, h = mean_lengths(counts)
    limit = h + slack * h
    return (
        "fixed"
        if math.log2(len(counts)) <= limit
        else "huffman"
        if huffman <= limit
        else "arithmetic"
    )


def of_the_length(counts, slack):
    fixed, huffman, h = mean_lengths(counts)
    return (
        "fixed"
        if fixed - h <= slack * fixed
        else "huffman"
        if huffman - h <= slack * huffman
        else "arithmetic"
    )


def slack_added(counts, slack):
    fixed, huffman, h = mean_lengths(counts)
    return "fixed" if fixed <= h + slack else "huffman" if huffman <= h + slack else "arithmetic"


def against_huffman(counts, slack):
    fixed, huffman, h = mean_lengths(counts)
    return (
        "fixed"
        if fixed <= (1 + slack) * huffman
        else "huffman"
        if huffman <= (1 + slack) * h
        else "arithmetic"
    )


# --- a measured entropy ---


def with_bias(term):
    return lambda codes: H(codes) + term(len(codes.unique()), codes.numel())


RIGHT = {
    "coding.coded_bits": [by_unique, by_course, by_counter],
    "coding.choose_coder": [by_table, by_excess, by_heap],
    "coding.corrected_entropy": [
        with_bias(lambda k, n: (k - 1) / (2 * n * math.log(2))),
        lambda codes: (
            entropy.entropy(codes) + (codes.unique().numel() - 1) / codes.numel() / math.log(4)
        ),
        lambda codes: (
            (H(codes) * math.log(2) + (len(set(codes.tolist())) - 1) / (2 * len(codes)))
            / math.log(2)
        ),
    ],
}

WRONG = {
    "coding.coded_bits": [
        (plan(lambda c: math.ceil(math.log2(int(c.max() - c.min()) + 1))), "widths"),
        (plan(lambda c: H(c) * math.log(2)), "nats"),
        (
            lambda codes, side_bytes: (
                sum(map(H, codes)) / len(codes) + 8 * side_bytes / sum(c.numel() for c in codes)
            ),
            "unweighted",
        ),
        (
            lambda codes, side_bytes: (
                H(torch.cat([c.flatten() for c in codes]))
                + 8 * side_bytes / sum(c.numel() for c in codes)
            ),
            "pooled",
        ),
        (plan(H, 0), "side_forgotten"),
        (plan(H, 1), "side_in_bytes"),
        (
            lambda codes, side_bytes: sum(H(c) * c.numel() for c in codes) + 8 * side_bytes,
            "whole_model",
        ),
        (plan(lambda c: -H(c)), None),
    ],
    "coding.choose_coder": [
        (lambda counts, slack: "fixed" if len(set(counts)) == 1 else "huffman", "fixed_never"),
        (slack_added, "slack_in_bits"),
        (against_huffman, "against_huffman"),
        (
            lambda counts, slack: (
                "huffman"
                if mean_lengths(counts)[1] <= mean_lengths(counts)[2] + 1e-12
                else "arithmetic"
            ),
            "shortest",
        ),
        (
            lambda counts, slack: (
                "fixed"
                if mean_lengths(counts)[0] <= (1 + slack) * mean_lengths(counts)[2]
                else "huffman"
            ),
            "no_arithmetic",
        ),
        (no_ceiling, "not_whole"),
        (of_the_length, "slack_of_the_length"),
        (one_too_far, None),
        (costliest, None),
    ],
    "coding.corrected_entropy": [
        (H, "plain"),
        (with_bias(lambda k, n: (k - 1) / (2 * n)), "in_nats"),
        (with_bias(lambda k, n: -(k - 1) / (2 * n * math.log(2))), "sign"),
        (with_bias(lambda k, n: k / (2 * n * math.log(2))), "all_codes"),
        (
            lambda codes: (
                H(codes) + int(codes.max() - codes.min()) / (2 * len(codes) * math.log(2))
            ),
            "span",
        ),
        (with_bias(lambda k, n: (k - 1) / (n * math.log(2))), "half_forgotten"),
        (with_bias(lambda k, n: math.log2(k)), None),
    ],
}
