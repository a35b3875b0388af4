"""Lesson 2.3: softened answers, dark knowledge, the loss, a training loop, a fair gain, which block
teaches which.
"""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import flows, pick, turn
from ._distilling import (
    dark_inputs,
    dark_knowledge,
    distillation_loss,
    draw_logits,
    loss_inputs,
    scaled,
    soften,
    soften_inputs,
    train_student,
    training_inputs,
    with_loss,
    with_training,
    without,
)

# --- a fair gain ---


def curves(rng: torch.Generator) -> dict:
    """Losses (seeds, checkpoints) that fall and rise again: on the windows to choose by, and on
    those to judge by.
    """
    seeds, checkpoints = pick(rng, 3, 4), pick(rng, 5, 6)
    found = {}
    for name, lowest in (("labels", 0.3), ("distilled", 0.7)):
        steps = torch.arange(checkpoints, dtype=torch.float64)
        valley = 0.1 * (steps - lowest * (checkpoints - 1)).square()
        for part in ("choose", "judge"):
            noise = 0.3 * torch.randn(seeds, checkpoints, generator=rng, dtype=torch.float64)
            found[f"{name}_{part}"] = 1 + valley + noise
    return found


def fair_gain(
    labels_choose: Tensor, labels_judge: Tensor, distilled_choose: Tensor, distilled_judge: Tensor
) -> float:
    """Mean over seeds of (labels − distilled) on the judging windows, each at its own best
    checkpoint by the choosing ones.
    """
    total = 0.0
    for row in range(len(labels_choose)):
        label_step = min(range(labels_choose.shape[1]), key=lambda k: float(labels_choose[row, k]))
        other_step = min(
            range(distilled_choose.shape[1]), key=lambda k: float(distilled_choose[row, k])
        )
        total += float(labels_judge[row, label_step]) - float(distilled_judge[row, other_step])
    return total / len(labels_choose)


def one_step_for_both(labels_choose, labels_judge, distilled_choose, distilled_judge):
    best = labels_choose.argmin(1, keepdim=True)
    return float((labels_judge.gather(1, best) - distilled_judge.gather(1, best)).mean())


def of_parts(formula):
    """A wrong gain: formula(choose, judge) of each way."""

    def gain(labels_choose, labels_judge, distilled_choose, distilled_judge):
        return float(
            (
                formula(labels_choose, labels_judge) - formula(distilled_choose, distilled_judge)
            ).mean()
        )

    return gain


# --- several teachers ---


def teachers_inputs(rng: torch.Generator) -> dict:
    return {
        "teacher_logits": draw_logits(rng, turn(rng, 3, 2, 5), turn(rng, 4, 1, 7), 6),
        "temperature": turn(rng, 1.5, 0.7, 4.0),
    }


def mix_teachers(teacher_logits: Tensor, temperature: float) -> Tensor:
    """P = (1/K) Σ_k softmax(z_k / τ)."""
    out = torch.zeros_like(teacher_logits[0])
    for logits in teacher_logits:
        out += soften(logits, temperature) / len(teacher_logits)
    return out


# --- which block teaches which ---


def pairs_inputs(rng: torch.Generator) -> dict:
    student = int(torch.randint(2, 7, (), generator=rng))
    return {"student": student, "teacher": student * int(torch.randint(2, 5, (), generator=rng))}


def teacher_blocks(student: int, teacher: int) -> list[int]:
    """Block i of the student learns from block (i + 1) · teacher / student − 1, so that the last
    learns from the last.
    """
    return [(i + 1) * teacher // student - 1 for i in range(student)]


EXERCISES = [
    Exercise(
        id="distillation.soften",
        kind="formula",
        difficulty=1,
        minutes=3,
        inputs=soften_inputs,
        spec=soften,
        lesson="2.3-distillation",
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
        id="distillation.dark_knowledge",
        kind="step",
        difficulty=1,
        minutes=5,
        inputs=dark_inputs,
        spec=dark_knowledge,
        lesson="2.3-distillation",
        mistakes={
            "not_scaled": lambda probabilities, labels: without(probabilities, labels),
            "label_kept": lambda probabilities, labels: scaled(probabilities) + 0 * labels[:, None],
            "likeliest_removed": lambda probabilities, labels: scaled(
                without(probabilities, probabilities.argmax(-1))
            ),
            "scaled_together": lambda probabilities, labels: scaled(
                without(probabilities, labels), None
            ),
            "softmax_again": lambda probabilities, labels: without(probabilities, labels).softmax(
                -1
            ),
            "only_the_label": lambda probabilities, labels: (
                probabilities - without(probabilities, labels)
            ),
        },
    ),
    Exercise(
        id="distillation.distillation_loss",
        kind="step",
        difficulty=2,
        minutes=10,
        inputs=loss_inputs,
        spec=distillation_loss,
        lesson="2.3-distillation",
        trials=4,
        mistakes={
            "direction": with_loss(turned=True),
            "square_forgotten": with_loss(factor=lambda t: 1.0),
            "not_squared": with_loss(factor=lambda t: t),
            "labels_softened": with_loss(hard=lambda t: t),
            "teacher_sharp": with_loss(sharp=lambda t: 1.0),
            "alpha_swapped": with_loss(weights=lambda a: (1 - a, a)),
            "unweighted": with_loss(weights=lambda a: (1, 1)),
            "cross_entropy": with_loss(entropy=False),
            "over_classes": with_loss(over_classes=True),
            "summed": with_loss(total=True),
            "labels_have_no_gradient": with_loss(still="labels"),
            "teacher_has_no_gradient": with_loss(still="teacher"),
        },
        properties=flows("student_logits", "teacher_logits"),
        gradients=("student_logits",),
    ),
    Exercise(
        id="distillation.train_student",
        kind="debug",
        difficulty=3,
        minutes=15,
        inputs=training_inputs,
        spec=train_student,
        lesson="2.3-distillation",
        mistakes={
            "teacher_in_training": with_training(training=True),
            "teacher_moves": with_training(moves_teacher=True),
            "gradients_pile_up": with_training(piles_up=True),
            "square_forgotten": with_training(factor=lambda t: 1.0),
            "over_classes": with_training(over_classes=True),
            "labels_softened": with_training(hard=lambda t: t),
            "alpha_swapped": with_training(weights=lambda a: (1 - a, a)),
            "uphill": with_training(sign=1.0),
            "first_batch_only": with_training(first_only=True),
            "starts_again": with_training(restart=True),
            "untrained": lambda **given: [p.detach() for p in given["student"].parameters()],
        },
    ),
    Exercise(
        id="distillation.fair_gain",
        kind="decide",
        difficulty=2,
        minutes=8,
        inputs=curves,
        spec=fair_gain,
        lesson="2.3-distillation",
        trials=4,
        mistakes={
            "last_checkpoint": of_parts(lambda choose, judge: judge[:, -1]),
            "peeked": of_parts(lambda choose, judge: judge.amin(1)),
            "chosen_and_judged": of_parts(lambda choose, judge: choose.amin(1)),
            "one_step_for_both": one_step_for_both,
            "turned": lambda **given: -fair_gain(**given),
            "one_for_all_seeds": of_parts(lambda choose, judge: judge[:, choose.mean(0).argmin()]),
            "all_checkpoints": of_parts(lambda choose, judge: judge.mean(1)),
        },
    ),
    Exercise(
        id="distillation.mix_teachers",
        kind="formula",
        difficulty=1,
        minutes=3,
        inputs=teachers_inputs,
        spec=mix_teachers,
        lesson="2.3-distillation",
        mistakes={
            "logits_averaged": lambda teacher_logits, temperature: (
                teacher_logits.mean(0) / temperature
            ).softmax(-1),
            "summed": lambda teacher_logits, temperature: (
                (teacher_logits / temperature).softmax(-1).sum(0)
            ),
            "not_softened": lambda teacher_logits, temperature: teacher_logits.softmax(-1).mean(0),
            "softened_afterwards": lambda teacher_logits, temperature: (
                teacher_logits.softmax(-1).mean(0) / temperature
            ).softmax(-1),
            "over_teachers": lambda teacher_logits, temperature: (
                (teacher_logits / temperature).softmax(0).mean(0)
            ),
            "halved": lambda teacher_logits, temperature: (
                (teacher_logits / temperature).softmax(-1).sum(0) / 2
            ),
            "over_rows": lambda teacher_logits, temperature: (
                (teacher_logits / temperature).softmax(1).mean(0)
            ),
            "first_only": lambda teacher_logits, temperature: (
                teacher_logits[0] / temperature
            ).softmax(-1),
            "votes": lambda teacher_logits, temperature: (
                torch.nn.functional.one_hot(teacher_logits.argmax(-1), teacher_logits.shape[-1])
                .double()
                .mean(0)
            ),
        },
    ),
    Exercise(
        id="distillation.teacher_blocks",
        kind="design",
        difficulty=1,
        minutes=5,
        inputs=pairs_inputs,
        spec=teacher_blocks,
        lesson="2.3-distillation",
        trials=5,
        mistakes={
            "counted_from_one": lambda student, teacher: [
                (i + 1) * teacher // student for i in range(student)
            ],
            "first_of_each": lambda student, teacher: [
                i * teacher // student for i in range(student)
            ],
            "the_first_ones": lambda student, teacher: list(range(student)),
            "the_last_ones": lambda student, teacher: list(range(teacher - student, teacher)),
            "ends": lambda student, teacher: [
                round(i * (teacher - 1) / (student - 1)) for i in range(student)
            ],
            "backwards": lambda student, teacher: teacher_blocks(student, teacher)[::-1],
        },
    ),
]
