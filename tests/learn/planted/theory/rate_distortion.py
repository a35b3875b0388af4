"""Right and wrong answers to the exercises of rate_distortion."""

import math
from collections import Counter

import numpy as np
import torch

from course_utils.theory import entropy, rate_distortion

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
        return (sum(rate(c) * c.numel() for c in codes) + side * side_bytes) / sum(c.numel() for c in codes)

    return answer


def H(codes):
    return entropy.entropy(codes)


# --- reverse water-filling ---


def exact_level(variances, distortion):
    ordered = sorted(variances.tolist())
    for i, v in enumerate(ordered):
        level = (distortion - sum(ordered[:i])) / (len(ordered) - i)
        if level <= v:
            break
    return level


def by_sorting(variances, distortion):
    return (0.5 * torch.log2(variances / exact_level(variances, distortion))).clamp(min=0)


def by_library(variances, distortion):
    return rate_distortion.water_filling(variances, distortion)[0]


def by_brent(variances, distortion):
    from scipy.optimize import brentq

    v = variances.numpy()
    level = brentq(lambda t: np.minimum(t, v).sum() - distortion, 0, v.max(), xtol=1e-15)
    return torch.tensor([0.5 * math.log2(x / level) if x > level else 0.0 for x in v], dtype=torch.float64)


def rates(change):
    return lambda variances, distortion: change(variances, exact_level(variances, distortion))


# --- mutual information ---


def by_entropies(joint):
    def h(p):
        return -sum(x * math.log2(x) for x in p.flatten().tolist() if x)

    return h(joint.sum(0)) + h(joint.sum(1)) - h(joint)


def by_nan_to_num(joint):
    ratio = joint / (joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True))
    return float((joint * ratio.log2()).nan_to_num(0).sum())


def by_xlogy(joint):
    h = lambda p: -torch.xlogy(p, p).sum() / math.log(2)  # noqa: E731
    return h(joint.sum(0)) + h(joint.sum(1)) - h(joint)


def the_given_one(joint):
    product = joint.sum(1)[:, None] * joint.sum(0)[None]
    return float((joint * (joint / product).log()).sum())


def only_the_zeros_mended(joint):
    x, q = joint.sum(1), joint.sum(0)
    happens = joint > 0
    return float((joint * (joint / (x[:, None] * q)).log())[happens].sum())


def with_epsilon(joint):
    product = joint.sum(1)[:, None] * joint.sum(0)[None]
    return float((joint * ((joint + 0.01) / (product + 0.01)).log2()).sum())


# --- which coder ---


def mean_lengths(counts):
    total = sum(counts)
    h = sum(n / total * math.log2(total / n) for n in counts)
    words = np.asarray(entropy.code_lengths(counts))
    return math.ceil(math.log2(len(counts))), float(np.average(words, weights=counts)), h


def by_table(counts, slack):
    fixed, huffman, h = mean_lengths(counts)
    return "fixed" if fixed <= h * (1 + slack) else "huffman" if huffman <= h * (1 + slack) else "arithmetic"


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


def slack_added(counts, slack):
    fixed, huffman, h = mean_lengths(counts)
    return "fixed" if fixed <= h + slack else "huffman" if huffman <= h + slack else "arithmetic"


def against_huffman(counts, slack):
    fixed, huffman, h = mean_lengths(counts)
    return "fixed" if fixed <= (1 + slack) * huffman else "huffman" if huffman <= (1 + slack) * h else "arithmetic"


# --- a measured entropy ---


def with_bias(term):
    return lambda codes: H(codes) + term(len(codes.unique()), codes.numel())


RIGHT = {
    "rate_distortion.coded_bits": [by_unique, by_course, by_counter],
    "rate_distortion.water_filling": [by_sorting, by_library, by_brent],
    "rate_distortion.gap_db": [
        lambda bits, distortion, variance: 10 * math.log10(distortion / variance) + 20 * bits * math.log10(2),
        lambda bits, distortion, variance: torch.tensor(10 * math.log10(distortion / rate_distortion.gaussian_distortion(bits, variance))),
        lambda bits, distortion, variance: 20 * math.log10(2) * (bits - 0.5 * math.log2(variance / distortion)),
    ],
    "rate_distortion.mutual_information": [by_entropies, by_nan_to_num, by_xlogy],
    "rate_distortion.choose_coder": [by_table, by_excess, by_heap],
    "rate_distortion.corrected_entropy": [
        with_bias(lambda k, n: (k - 1) / (2 * n * math.log(2))),
        lambda codes: entropy.entropy(codes) + (codes.unique().numel() - 1) / codes.numel() / math.log(4),
        lambda codes: (H(codes) * math.log(2) + (len(set(codes.tolist())) - 1) / (2 * len(codes))) / math.log(2),
    ],
}

WRONG = {
    "rate_distortion.coded_bits": [
        (plan(lambda c: math.ceil(math.log2(int(c.max() - c.min()) + 1))), "widths"),
        (plan(lambda c: H(c) * math.log(2)), "nats"),
        (lambda codes, side_bytes: sum(map(H, codes)) / len(codes) + 8 * side_bytes / sum(c.numel() for c in codes), "unweighted"),
        (lambda codes, side_bytes: H(torch.cat([c.flatten() for c in codes])) + 8 * side_bytes / sum(c.numel() for c in codes), "pooled"),
        (plan(H, 0), "side_forgotten"),
        (plan(H, 1), "side_in_bytes"),
        (lambda codes, side_bytes: sum(H(c) * c.numel() for c in codes) + 8 * side_bytes, "whole_model"),
        (plan(lambda c: -H(c)), None),
    ],
    "rate_distortion.water_filling": [
        (lambda variances, distortion: 0.5 * torch.log2(variances / (distortion / len(variances))), "equal_distortion"),
        (lambda variances, distortion: 0.5 * torch.log2(variances / (distortion / len(variances))).clamp(min=0), "level_not_found"),
        (lambda variances, distortion: torch.full_like(variances, max(0, 0.5 * math.log2(float(variances.sum()) / distortion))), "equal_rates"),
        (rates(lambda v, level: 0.5 * torch.log2(v / level)), "negative"),
        (rates(lambda v, level: 0.5 * torch.log(v / level).clamp(min=0)), "nats"),
        (rates(lambda v, level: torch.log2(v / level).clamp(min=0)), "half_forgotten"),
        (rates(lambda v, level: 0.5 * torch.log2(v.sqrt() / level).clamp(min=0)), "deviations"),
        (rates(lambda v, level: v.clamp(max=level)), "distortions"),
        (rates(lambda v, level: (0.5 * torch.log2(v / level)).clamp(min=0).round()), None),
    ],
    "rate_distortion.gap_db": [
        (lambda bits, distortion, variance: 20 * math.log10(distortion / (variance * 4**-bits)), "twenty"),
        (lambda bits, distortion, variance: 10 * math.log10(variance * 4**-bits / distortion), "inverted"),
        (lambda bits, distortion, variance: 10 * math.log(distortion / (variance * 4**-bits)), "natural"),
        (lambda bits, distortion, variance: 10 * math.log10(distortion / (variance * 2**-bits)), "powers_of_two"),
        (lambda bits, distortion, variance: 10 * math.log10(variance / distortion), "signal_to_noise"),
        (lambda bits, distortion, variance: bits - 0.5 * math.log2(variance / distortion), "in_bits"),
        (lambda bits, distortion, variance: 10 * math.log10(distortion * 4**bits), "variance_forgotten"),
        (lambda bits, distortion, variance: 6.02 * bits, None),
    ],
    "rate_distortion.mutual_information": [
        (only_the_zeros_mended, "nats"),
        (lambda joint: by_entropies(joint) * math.log(2), "nats"),
        (lambda joint: -float((joint[joint > 0] * joint[joint > 0].log2()).sum()), "joint_entropy"),
        (lambda joint: by_entropies(joint) - float((joint[joint > 0] * joint[joint > 0].log2()).sum()), "sum_of_entropies"),
        (lambda joint: -float((joint * (joint / joint.sum(1, keepdim=True)).log2()).nan_to_num(0).sum()), "conditional"),
        (lambda joint: -float(torch.xlogy(joint.sum(0), joint.sum(0)).sum()) / math.log(2), "code_entropy"),
        (lambda joint: -float(torch.xlogy(joint.sum(1), joint.sum(1)).sum()) / math.log(2), "source_entropy"),
        (lambda joint: -by_entropies(joint), "sign"),
        (the_given_one, None),
        (with_epsilon, None),
    ],
    "rate_distortion.choose_coder": [
        (lambda counts, slack: "fixed" if len(set(counts)) == 1 else "huffman", "fixed_never"),
        (slack_added, "slack_in_bits"),
        (against_huffman, "against_huffman"),
        (lambda counts, slack: "huffman" if mean_lengths(counts)[1] <= mean_lengths(counts)[2] + 1e-12 else "arithmetic", "shortest"),
        (lambda counts, slack: "fixed" if mean_lengths(counts)[0] <= (1 + slack) * mean_lengths(counts)[2] else "huffman", "no_arithmetic"),
        (one_too_far, None),
        (costliest, None),
    ],
    "rate_distortion.corrected_entropy": [
        (H, "plain"),
        (with_bias(lambda k, n: (k - 1) / (2 * n)), "in_nats"),
        (with_bias(lambda k, n: -(k - 1) / (2 * n * math.log(2))), "sign"),
        (with_bias(lambda k, n: k / (2 * n * math.log(2))), "all_codes"),
        (lambda codes: H(codes) + int(codes.max() - codes.min()) / (2 * len(codes) * math.log(2)), "span"),
        (with_bias(lambda k, n: (k - 1) / (n * math.log(2))), "half_forgotten"),
        (with_bias(lambda k, n: math.log2(k)), None),
    ],
}
