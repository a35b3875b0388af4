"""Lesson 2.3: softened answers, dark knowledge, several teachers, which block teaches which."""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick


def draw_logits(rng: torch.Generator, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=rng, dtype=torch.float64)


# --- softened probabilities ---


def soften_inputs(rng: torch.Generator) -> dict:
    return {"logits": draw_logits(rng, 5, 7), "temperature": pick(rng, 1.5, 2.0, 3.0, 4.0)}


def soften(logits: Tensor, temperature: float) -> Tensor:
    """p_i = exp(z_i / τ) / Σ_j exp(z_j / τ) in each row."""
    out = torch.zeros_like(logits)
    for row in range(len(logits)):
        e = [float(torch.exp(z / temperature)) for z in logits[row]]
        for i, value in enumerate(e):
            out[row, i] = value / sum(e)
    return out


# --- dark knowledge ---


def dark_inputs(rng: torch.Generator) -> dict:
    """Some labels are not the likeliest class."""
    probabilities = draw_logits(rng, 6, 5).softmax(-1)
    labels = torch.randint(5, (6,), generator=rng)
    labels[0], labels[1] = probabilities[0].argmax(), probabilities[1].argmin()
    return {"probabilities": probabilities, "labels": labels}


def dark_knowledge(probabilities: Tensor, labels: Tensor) -> Tensor:
    """q_i = p_i / (1 − p_label) for i ≠ label, and q_label = 0."""
    out = torch.zeros_like(probabilities)
    for row, label in enumerate(labels.tolist()):
        for i, p in enumerate(probabilities[row].tolist()):
            out[row, i] = 0.0 if i == label else p / (1 - float(probabilities[row, label]))
    return out


def without(probabilities: Tensor, index: Tensor) -> Tensor:
    return probabilities.scatter(-1, index[:, None], 0.0)


def scaled(rest: Tensor, dim=-1) -> Tensor:
    return rest / (rest.sum() if dim is None else rest.sum(dim, keepdim=True))


# --- several teachers ---


def teachers_inputs(rng: torch.Generator) -> dict:
    return {"teacher_logits": draw_logits(rng, pick(rng, 2, 3), 4, 6), "temperature": pick(rng, 1.5, 2.0, 4.0)}


def mix_teachers(teacher_logits: Tensor, temperature: float) -> Tensor:
    """p = (1/K) Σ_k softmax(z_k / τ)."""
    out = torch.zeros_like(teacher_logits[0])
    for logits in teacher_logits:
        out += soften(logits, temperature) / len(teacher_logits)
    return out


# --- which block teaches which ---


def pairs_inputs(rng: torch.Generator) -> dict:
    student = int(torch.randint(2, 7, (), generator=rng))
    return {"student": student, "teacher": student * int(torch.randint(2, 5, (), generator=rng))}


def teacher_blocks(student: int, teacher: int) -> list[int]:
    """Block i of the student learns from block (i + 1) · teacher / student − 1, so that the last learns from the last."""
    return [(i + 1) * teacher // student - 1 for i in range(student)]


EXERCISES = [
    Exercise(
        id="distillation.soften", inputs=soften_inputs, spec=soften, lesson="2.3-distillation",
        mistakes={
            "multiplied": lambda logits, temperature: (logits * temperature).softmax(-1),
            "not_softened": lambda logits, temperature: logits.softmax(-1),
            "divided_afterwards": lambda logits, temperature: logits.softmax(-1) / temperature,
            "not_normalized": lambda logits, temperature: (logits / temperature).exp(),
            "columns": lambda logits, temperature: (logits / temperature).softmax(0),
            "logarithm": lambda logits, temperature: (logits / temperature).log_softmax(-1),
            "squared": lambda logits, temperature: (logits / temperature**2).softmax(-1),
        },
    ),
    Exercise(
        id="distillation.dark_knowledge", inputs=dark_inputs, spec=dark_knowledge, lesson="2.3-distillation",
        mistakes={
            "not_scaled": lambda probabilities, labels: without(probabilities, labels),
            "label_kept": lambda probabilities, labels: scaled(probabilities) + 0 * labels[:, None],
            "likeliest_removed": lambda probabilities, labels: scaled(without(probabilities, probabilities.argmax(-1))),
            "scaled_together": lambda probabilities, labels: scaled(without(probabilities, labels), None),
            "softmax_again": lambda probabilities, labels: without(probabilities, labels).softmax(-1),
            "only_the_label": lambda probabilities, labels: probabilities - without(probabilities, labels),
        },
    ),
    Exercise(
        id="distillation.mix_teachers", inputs=teachers_inputs, spec=mix_teachers, lesson="2.3-distillation",
        mistakes={
            "logits_averaged": lambda teacher_logits, temperature: (teacher_logits.mean(0) / temperature).softmax(-1),
            "summed": lambda teacher_logits, temperature: (teacher_logits / temperature).softmax(-1).sum(0),
            "not_softened": lambda teacher_logits, temperature: teacher_logits.softmax(-1).mean(0),
            "softened_afterwards": lambda teacher_logits, temperature: (teacher_logits.softmax(-1).mean(0) / temperature).softmax(-1),
            "over_teachers": lambda teacher_logits, temperature: (teacher_logits / temperature).softmax(0).mean(0),
            "first_only": lambda teacher_logits, temperature: (teacher_logits[0] / temperature).softmax(-1),
            "votes": lambda teacher_logits, temperature: torch.nn.functional.one_hot(
                teacher_logits.argmax(-1), teacher_logits.shape[-1]
            ).double().mean(0),
        },
    ),
    Exercise(
        id="distillation.teacher_blocks", inputs=pairs_inputs, spec=teacher_blocks, lesson="2.3-distillation", trials=5,
        mistakes={
            "counted_from_one": lambda student, teacher: [(i + 1) * teacher // student for i in range(student)],
            "first_of_each": lambda student, teacher: [i * teacher // student for i in range(student)],
            "the_first_ones": lambda student, teacher: list(range(student)),
            "the_last_ones": lambda student, teacher: list(range(teacher - student, teacher)),
            "ends": lambda student, teacher: [round(i * (teacher - 1) / (student - 1)) for i in range(student)],
            "backwards": lambda student, teacher: teacher_blocks(student, teacher)[::-1],
        },
    ),
]  # fmt: skip
