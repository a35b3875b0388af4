"""Right and wrong answers to the exercises of lesson 2.3."""

import torch
from torch.nn import functional as F

from course_utils.distillation import losses


def soft(logits, temperature):
    weights = torch.exp(logits / temperature - (logits / temperature).amax(1, keepdim=True))
    return weights / weights.sum(1)[:, None]


def powers(logits, temperature):
    """p^(1/τ), scaled again."""
    p = F.softmax(logits, 1) ** (1 / temperature)
    return p / p.sum(1, keepdim=True)


def rest(probabilities, labels):
    mask = F.one_hot(labels, probabilities.shape[1]).bool()
    others = probabilities.masked_fill(mask, 0)
    return others / others.sum(1, keepdim=True)


def rest_by_rows(probabilities, labels):
    probabilities[torch.arange(len(labels)), labels] = 0
    return F.normalize(probabilities, p=1, dim=1)


def mix(teacher_logits, temperature):
    return sum(F.softmax(z / temperature, -1) for z in teacher_logits) / len(teacher_logits)


def rest_by_division(probabilities, labels):
    own = probabilities.gather(1, labels[:, None])
    return (probabilities / (1 - own)).scatter(1, labels[:, None], 0.0)


def mix_in_single_precision(teacher_logits, temperature):
    """All teachers at once, the largest logit taken off first."""
    z = teacher_logits.float() / temperature
    e = (z - z.amax(-1, keepdim=True)).exp()
    return torch.einsum("kbc,kb->bc", e, 1 / e.sum(-1)) / teacher_logits.shape[0]


def blocks_by_counting(student, teacher):
    block, found = -1, []
    while len(found) < student:
        block += teacher // student
        found.append(block)
    return tuple(found)


RIGHT = {
    "distillation.soften": [soft, powers, lambda logits, temperature: (logits / temperature).log_softmax(1).exp()],
    "distillation.dark_knowledge": [rest_by_division, rest, rest_by_rows],
    "distillation.mix_teachers": [
        mix_in_single_precision,
        mix,
        lambda teacher_logits, temperature: losses.mixture(teacher_logits, None, temperature).exp(),
    ],
    "distillation.teacher_blocks": [
        blocks_by_counting,
        lambda student, teacher: list(range(teacher // student - 1, teacher, teacher // student)),
        lambda student, teacher: [max(group) for group in torch.arange(teacher).view(student, -1).tolist()],
    ],
}
WRONG = {
    "distillation.soften": [
        (lambda logits, temperature: soft(logits, 1 / temperature), "multiplied"),
        (lambda logits, temperature: soft(logits, 1), "not_softened"),
        (lambda logits, temperature: soft(logits, 1) / temperature, "divided_afterwards"),
        (lambda logits, temperature: torch.exp(logits / temperature), "not_normalized"),
        (lambda logits, temperature: soft(logits.T, temperature).T, "columns"),
        (lambda logits, temperature: soft(logits, temperature).log(), "logarithm"),
        (lambda logits, temperature: soft(logits, temperature**2), "squared"),
        (lambda logits, temperature: soft(soft(logits, 1), temperature), None),
        (lambda logits, temperature: F.one_hot(logits.argmax(1), 7).double(), None),
    ],
    "distillation.dark_knowledge": [
        (lambda probabilities, labels: probabilities * (1 - F.one_hot(labels, 5)), "not_scaled"),
        (lambda probabilities, labels: probabilities, "label_kept"),
        (lambda probabilities, labels: rest(probabilities, probabilities.argmax(1)), "likeliest_removed"),
        (lambda probabilities, labels: probabilities * (1 - F.one_hot(labels, 5)) / (probabilities * (1 - F.one_hot(labels, 5))).sum(), "scaled_together"),
        (lambda probabilities, labels: (probabilities * (1 - F.one_hot(labels, 5))).softmax(1), "softmax_again"),
        (lambda probabilities, labels: probabilities * F.one_hot(labels, 5), "only_the_label"),
        (lambda probabilities, labels: rest(probabilities, labels).T, None),
        (lambda probabilities, labels: rest(probabilities, labels).flip(0), None),
    ],
    "distillation.mix_teachers": [
        (lambda teacher_logits, temperature: F.softmax(teacher_logits.mean(0) / temperature, -1), "logits_averaged"),
        (lambda teacher_logits, temperature: len(teacher_logits) * mix(teacher_logits, temperature), "summed"),
        (lambda teacher_logits, temperature: mix(teacher_logits, 1), "not_softened"),
        (lambda teacher_logits, temperature: F.softmax(mix(teacher_logits, 1) / temperature, -1), "softened_afterwards"),
        (lambda teacher_logits, temperature: F.softmax(teacher_logits / temperature, 0).mean(0), "over_teachers"),
        (lambda teacher_logits, temperature: soft(teacher_logits[0], temperature), "first_only"),
        (lambda teacher_logits, temperature: mix(1e9 * teacher_logits, 1), "votes"),
        (lambda teacher_logits, temperature: F.softmax(teacher_logits / temperature, -1).amax(0), None),
        (lambda teacher_logits, temperature: mix(teacher_logits, 1 / temperature), None),
    ],
    "distillation.teacher_blocks": [
        (lambda student, teacher: [teacher // student * (i + 1) for i in range(student)], "counted_from_one"),
        (lambda student, teacher: list(range(0, teacher, teacher // student)), "first_of_each"),
        (lambda student, teacher: [*range(student)], "the_first_ones"),
        (lambda student, teacher: [*range(teacher)][-student:], "the_last_ones"),
        (lambda student, teacher: [round(i * (teacher - 1) / (student - 1)) for i in range(student)], "ends"),
        (lambda student, teacher: list(range(teacher - 1, 0, -(teacher // student))), "backwards"),
        (lambda student, teacher: [teacher - 1] * student, None),
        (lambda student, teacher: [*range(teacher)], None),
    ],
}  # fmt: skip
