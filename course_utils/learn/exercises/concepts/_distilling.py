"""Lesson 2.3, first part: softened answers, the loss and the loop, right and wrong.

The exercises are in `distillation`.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..draws import asks, pick, turn


def draw_logits(rng: torch.Generator, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=rng, dtype=torch.float64)


# --- softened probabilities ---


def soften_inputs(rng: torch.Generator) -> dict:
    return {
        "logits": draw_logits(rng, turn(rng, 5, 1, 3), turn(rng, 7, 4, 11)),
        "temperature": turn(rng, 2.0, 0.7, 4.0),
    }


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


# --- the loss ---


def loss_inputs(rng: torch.Generator) -> dict:
    """One class is so unlikely for the teacher that its probability is exactly 0."""
    rows, classes = pick(rng, 1, 2, 3, 5), pick(rng, 3, 4, 7)
    teacher = draw_logits(rng, rows, classes)
    teacher[0, 0] = -1e4
    student, teacher = asks(rng, draw_logits(rng, rows, classes), teacher)
    return {
        "student_logits": student, "teacher_logits": teacher,
        "labels": torch.randint(classes, (rows,), generator=rng),
        "temperature": turn(rng, 1.5, 0.7, 5.0, 2.0), "alpha": turn(rng, 0.2, 0.3, 0.7),
    }  # fmt: skip


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float,
    alpha: float, *, factor=lambda t: t**2, turned=False, hard=lambda t: 1.0, sharp=lambda t: t,
    weights=lambda a: (a, 1 - a), entropy=True, over_classes=False, total=False, still="",
) -> Tensor:  # fmt: skip
    """α CE(labels) + (1 − α) τ² KL(P_T(τ) ‖ P_S(τ)), the mean over rows.

    `still`: the part that has no gradient.
    """
    value: Tensor = torch.zeros(())
    for z_s, z_t, label in zip(student_logits, teacher_logits.detach(), labels, strict=True):
        log_s, log_t = (
            (z_s / temperature).log_softmax(-1),
            (z_t / sharp(temperature)).log_softmax(-1),
        )
        log_p, log_q = (log_s, log_t) if turned else (log_t, log_s)
        far = sum(p.exp() * (entropy * p - q) for p, q in zip(log_p, log_q, strict=True))
        far = far / len(z_s) if over_classes else far
        to_label, to_teacher = weights(alpha)
        right = -(z_s / hard(temperature)).log_softmax(-1)[label]
        far, right = (
            (far.detach() if still == "teacher" else far),
            (right.detach() if still == "labels" else right),
        )
        value = value + to_label * right + to_teacher * factor(temperature) * far
    return value if total else value / len(labels)


def with_loss(**change):
    return lambda **given: distillation_loss(**given, **change)


# --- a training loop ---


def dense(rng: torch.Generator, inputs: int, outputs: int) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=rng, dtype=torch.float64))
        layer.bias.copy_(torch.randn(outputs, generator=rng, dtype=torch.float64))
    return layer


def training_inputs(rng: torch.Generator) -> dict:
    """The teacher has a normalization that answers otherwise while it is training, and is handed
    over in that state.
    """
    features, classes, wide = 4, pick(rng, 3, 4), 5
    norm = nn.BatchNorm1d(wide, dtype=torch.float64)
    norm.running_mean, norm.running_var = (
        draw_logits(rng, wide),
        0.5 + draw_logits(rng, wide).square(),
    )
    batches = [
        (draw_logits(rng, n, features) / 3, torch.randint(classes, (n,), generator=rng))
        for n in (pick(rng, 2, 3), pick(rng, 4, 5), 3)
    ]
    return {
        "student": nn.Sequential(dense(rng, features, classes)).train(),
        "teacher": nn.Sequential(
            dense(rng, features, wide), norm, nn.ReLU(), dense(rng, wide, classes)
        ).train(),
        "batches": batches,
        "temperature": pick(rng, 1.5, 2.0, 3.0),
        "alpha": pick(rng, 0.2, 0.3, 0.7),
        "rate": pick(rng, 0.05, 0.1, 0.2),
    }


def train_student(
    student: nn.Module, teacher: nn.Module, batches: list, temperature: float, alpha: float,
    rate: float, *, training=False, moves_teacher=False, piles_up=False, restart=False,
    first_only=False, sign=-1.0, **change,
) -> list[Tensor]:  # fmt: skip
    """One step of gradient descent on the distillation loss for each batch; the student's
    parameters after the last.
    """
    student, teacher = copy.deepcopy(student), copy.deepcopy(teacher).train(training)
    start = copy.deepcopy(student)
    moved = [*student.parameters(), *(teacher.parameters() if moves_teacher else ())]
    sums = [torch.zeros_like(p) for p in moved]
    for images, labels in batches[: 1 if first_only else None]:
        if restart:
            student.load_state_dict(start.state_dict())
        z_s, z_t = student(images), teacher(images)
        log_s, log_t = (z_s / temperature).log_softmax(-1), (z_t / temperature).log_softmax(-1)
        if moves_teacher:
            far = (log_t.exp() * (log_t - log_s)).sum(-1).mean()
            value = alpha * F.cross_entropy(z_s, labels) + (1 - alpha) * temperature**2 * far
        else:
            value = distillation_loss(z_s, z_t, labels, temperature, alpha, **change)
        gradients = torch.autograd.grad(value, moved)
        sums = [a + g if piles_up else g for a, g in zip(sums, gradients, strict=True)]
        with torch.no_grad():
            for p, g in zip(moved, sums, strict=True):
                p += sign * rate * g
    return [p.detach() for p in student.parameters()]


def with_training(**change):
    return lambda **given: train_student(**given, **change)
