"""Right and wrong answers to the exercises of rate_distortion."""

import math

import numpy as np
import torch

from course_utils.theory import rate_distortion

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
    return torch.tensor(
        [0.5 * math.log2(x / level) if x > level else 0.0 for x in v], dtype=torch.float64
    )


def rates(change):
    return lambda variances, distortion: change(variances, exact_level(variances, distortion))


def redistributed(times):
    """Gives what the sources below the level leave to the others, so many times; done until nothing
    changes it is right.
    """

    def answer(variances, distortion):
        below, level = torch.zeros(len(variances), dtype=torch.bool), distortion / len(variances)
        for _ in range(times):
            below |= variances < level
            level = (distortion - float(variances[below].sum())) / int((~below).sum())
        return (0.5 * torch.log2(variances / level)).clamp(min=0)

    return answer


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


RIGHT = {
    "rate_distortion.water_filling": [by_sorting, by_library, by_brent, redistributed(30)],
    "rate_distortion.mutual_information": [by_entropies, by_nan_to_num, by_xlogy],
    "rate_distortion.gap_db": [
        lambda bits, distortion, variance: (
            10 * math.log10(distortion / variance) + 20 * bits * math.log10(2)
        ),
        lambda bits, distortion, variance: torch.tensor(
            10 * math.log10(distortion / rate_distortion.gaussian_distortion(bits, variance))
        ),
        lambda bits, distortion, variance: (
            20 * math.log10(2) * (bits - 0.5 * math.log2(variance / distortion))
        ),
    ],
}

WRONG = {
    "rate_distortion.water_filling": [
        (
            lambda variances, distortion: (
                0.5 * torch.log2(variances / (distortion / len(variances)))
            ),
            "equal_distortion",
        ),
        (
            lambda variances, distortion: (
                0.5 * torch.log2(variances / (distortion / len(variances))).clamp(min=0)
            ),
            "level_not_found",
        ),
        (
            lambda variances, distortion: torch.full_like(
                variances, max(0, 0.5 * math.log2(float(variances.sum()) / distortion))
            ),
            "equal_rates",
        ),
        (rates(lambda v, level: 0.5 * torch.log2(v / level)), "negative"),
        (rates(lambda v, level: 0.5 * torch.log(v / level).clamp(min=0)), "nats"),
        (rates(lambda v, level: torch.log2(v / level).clamp(min=0)), "half_forgotten"),
        (rates(lambda v, level: 0.5 * torch.log2(v.sqrt() / level).clamp(min=0)), "deviations"),
        (rates(lambda v, level: v.clamp(max=level)), "distortions"),
        (rates(lambda v, level: (0.5 * torch.log2(v / level)).clamp(min=0).round()), None),
        (redistributed(1), None),
        (redistributed(3), None),
    ],
    "rate_distortion.gap_db": [
        (
            lambda bits, distortion, variance: 20 * math.log10(distortion / (variance * 4**-bits)),
            "twenty",
        ),
        (
            lambda bits, distortion, variance: 10 * math.log10(variance * 4**-bits / distortion),
            "inverted",
        ),
        (
            lambda bits, distortion, variance: 10 * math.log(distortion / (variance * 4**-bits)),
            "natural",
        ),
        (
            lambda bits, distortion, variance: 10 * math.log10(distortion / (variance * 2**-bits)),
            "powers_of_two",
        ),
        (
            lambda bits, distortion, variance: 10 * math.log10(variance / distortion),
            "signal_to_noise",
        ),
        (
            lambda bits, distortion, variance: bits - 0.5 * math.log2(variance / distortion),
            "in_bits",
        ),
        (
            lambda bits, distortion, variance: 10 * math.log10(distortion * 4**bits),
            "variance_forgotten",
        ),
        (lambda bits, distortion, variance: 6.02 * bits, None),
        (
            lambda bits, distortion, variance: abs(
                10 * math.log10(distortion / (variance * 4**-bits))
            ),
            None,
        ),
    ],
    "rate_distortion.mutual_information": [
        (only_the_zeros_mended, "nats"),
        (lambda joint: by_entropies(joint) * math.log(2), "nats"),
        (lambda joint: -float((joint[joint > 0] * joint[joint > 0].log2()).sum()), "joint_entropy"),
        (
            lambda joint: (
                by_entropies(joint) - float((joint[joint > 0] * joint[joint > 0].log2()).sum())
            ),
            "sum_of_entropies",
        ),
        (
            lambda joint: (
                -float((joint * (joint / joint.sum(1, keepdim=True)).log2()).nan_to_num(0).sum())
            ),
            "conditional",
        ),
        (
            lambda joint: -float(torch.xlogy(joint.sum(0), joint.sum(0)).sum()) / math.log(2),
            "code_entropy",
        ),
        (
            lambda joint: -float(torch.xlogy(joint.sum(1), joint.sum(1)).sum()) / math.log(2),
            "source_entropy",
        ),
        (lambda joint: -by_entropies(joint), "sign"),
        (the_given_one, None),
        (with_epsilon, None),
    ],
}
