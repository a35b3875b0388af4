"""Lesson 2.3: softened answers, dark knowledge, the loss, a training loop, a fair gain, which block teaches which."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn


def draw_logits(rng: torch.Generator, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=rng, dtype=torch.float64)


# --- softened probabilities ---


def soften_inputs(rng: torch.Generator) -> dict:
    return {"logits": draw_logits(rng, turn(rng, 5, 1, 3), turn(rng, 7, 4, 11)), "temperature": turn(rng, 2.0, 0.7, 4.0)}


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
    return {
        "student_logits": draw_logits(rng, rows, classes).requires_grad_(True), "teacher_logits": teacher, "labels": torch.randint(classes, (rows,), generator=rng),
        "temperature": pick(rng, 1.5, 2.0, 3.0, 5.0), "alpha": pick(rng, 0.2, 0.3, 0.7),
    }  # fmt: skip


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float, alpha: float, *,
    factor=lambda t: t**2, turned=False, hard=lambda t: 1.0, sharp=lambda t: t, weights=lambda a: (a, 1 - a),
    entropy=True, over_classes=False, total=False, still="",
) -> Tensor:  # fmt: skip
    """α CE(labels) + (1 − α) τ² KL(P_T(τ) ‖ P_S(τ)), the mean over rows. `still`: the part that has no gradient."""
    value: Tensor = torch.zeros(())
    for z_s, z_t, label in zip(student_logits, teacher_logits.detach(), labels, strict=True):
        log_s, log_t = (z_s / temperature).log_softmax(-1), (z_t / sharp(temperature)).log_softmax(-1)
        log_p, log_q = (log_s, log_t) if turned else (log_t, log_s)
        far = sum(p.exp() * (entropy * p - q) for p, q in zip(log_p, log_q, strict=True))
        far = far / len(z_s) if over_classes else far
        to_label, to_teacher = weights(alpha)
        right = -(z_s / hard(temperature)).log_softmax(-1)[label]
        far, right = (far.detach() if still == "teacher" else far), (right.detach() if still == "labels" else right)
        value = value + to_label * right + to_teacher * factor(temperature) * far
    return value if total else value / len(labels)


def with_loss(**change):
    return lambda **given: distillation_loss(**given, **change)


def gradient_reaches_the_student(given: dict, result: Tensor) -> bool:
    return bool(getattr(result, "requires_grad", False))


# --- a training loop ---


def dense(rng: torch.Generator, inputs: int, outputs: int) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=rng, dtype=torch.float64))
        layer.bias.copy_(torch.randn(outputs, generator=rng, dtype=torch.float64))
    return layer


def training_inputs(rng: torch.Generator) -> dict:
    """The teacher has a normalization that answers otherwise while it is training, and is handed over in that state."""
    features, classes, wide = 4, pick(rng, 3, 4), 5
    norm = nn.BatchNorm1d(wide, dtype=torch.float64)
    norm.running_mean, norm.running_var = draw_logits(rng, wide), 0.5 + draw_logits(rng, wide).square()
    batches = [
        (draw_logits(rng, n, features) / 3, torch.randint(classes, (n,), generator=rng))
        for n in (pick(rng, 2, 3), pick(rng, 4, 5), 3)
    ]
    return {
        "student": nn.Sequential(dense(rng, features, classes)).train(),
        "teacher": nn.Sequential(dense(rng, features, wide), norm, nn.ReLU(), dense(rng, wide, classes)).train(),
        "batches": batches, "temperature": pick(rng, 1.5, 2.0, 3.0), "alpha": pick(rng, 0.2, 0.3, 0.7),
        "rate": pick(rng, 0.05, 0.1, 0.2),
    }  # fmt: skip


def train_student(
    student: nn.Module, teacher: nn.Module, batches: list, temperature: float, alpha: float, rate: float, *,
    training=False, moves_teacher=False, piles_up=False, restart=False, first_only=False, sign=-1.0, **change,
) -> list[Tensor]:  # fmt: skip
    """One step of gradient descent on the distillation loss for each batch; the student's parameters after the last."""
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


# --- a fair gain ---


def curves(rng: torch.Generator) -> dict:
    """Losses (seeds, checkpoints) that fall and rise again: on the windows to choose by, and on those to judge by."""
    seeds, checkpoints = pick(rng, 3, 4), pick(rng, 5, 6)
    found = {}
    for name, lowest in (("labels", 0.3), ("distilled", 0.7)):
        steps = torch.arange(checkpoints, dtype=torch.float64)
        valley = 0.1 * (steps - lowest * (checkpoints - 1)).square()
        for part in ("choose", "judge"):
            noise = 0.3 * torch.randn(seeds, checkpoints, generator=rng, dtype=torch.float64)
            found[f"{name}_{part}"] = 1 + valley + noise
    return found


def fair_gain(labels_choose: Tensor, labels_judge: Tensor, distilled_choose: Tensor, distilled_judge: Tensor) -> float:
    """Mean over seeds of (labels − distilled) on the judging windows, each at its own best checkpoint by the choosing ones."""
    total = 0.0
    for row in range(len(labels_choose)):
        label_step = min(range(labels_choose.shape[1]), key=lambda k: float(labels_choose[row, k]))
        other_step = min(range(distilled_choose.shape[1]), key=lambda k: float(distilled_choose[row, k]))
        total += float(labels_judge[row, label_step]) - float(distilled_judge[row, other_step])
    return total / len(labels_choose)


def one_step_for_both(labels_choose, labels_judge, distilled_choose, distilled_judge):
    best = labels_choose.argmin(1, keepdim=True)
    return float((labels_judge.gather(1, best) - distilled_judge.gather(1, best)).mean())


def of_parts(formula):
    """A wrong gain: formula(choose, judge) of each way."""

    def gain(labels_choose, labels_judge, distilled_choose, distilled_judge):
        return float((formula(labels_choose, labels_judge) - formula(distilled_choose, distilled_judge)).mean())

    return gain


# --- several teachers ---


def teachers_inputs(rng: torch.Generator) -> dict:
    return {"teacher_logits": draw_logits(rng, turn(rng, 3, 2, 5), turn(rng, 4, 1, 7), 6), "temperature": pick(rng, 0.7, 1.5, 2.0, 4.0)}


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
        id="distillation.soften", kind="formula", difficulty=1, minutes=3,
        inputs=soften_inputs, spec=soften, lesson="2.3-distillation",
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
        id="distillation.dark_knowledge", kind="step", difficulty=1, minutes=5,
        inputs=dark_inputs, spec=dark_knowledge, lesson="2.3-distillation",
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
        id="distillation.distillation_loss", kind="step", difficulty=2, minutes=10,
        inputs=loss_inputs, spec=distillation_loss, lesson="2.3-distillation", trials=4,
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
        properties={"student_gradient": gradient_reaches_the_student}, gradients=("student_logits",),
    ),
    Exercise(
        id="distillation.train_student", kind="debug", difficulty=3, minutes=15,
        inputs=training_inputs, spec=train_student, lesson="2.3-distillation",
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
        id="distillation.fair_gain", kind="decide", difficulty=2, minutes=8,
        inputs=curves, spec=fair_gain, lesson="2.3-distillation", trials=4,
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
        id="distillation.mix_teachers", kind="formula", difficulty=1, minutes=3,
        inputs=teachers_inputs, spec=mix_teachers, lesson="2.3-distillation",
        mistakes={
            "logits_averaged": lambda teacher_logits, temperature: (teacher_logits.mean(0) / temperature).softmax(-1),
            "summed": lambda teacher_logits, temperature: (teacher_logits / temperature).softmax(-1).sum(0),
            "not_softened": lambda teacher_logits, temperature: teacher_logits.softmax(-1).mean(0),
            "softened_afterwards": lambda teacher_logits, temperature: (teacher_logits.softmax(-1).mean(0) / temperature).softmax(-1),
            "over_teachers": lambda teacher_logits, temperature: (teacher_logits / temperature).softmax(0).mean(0),
            "halved": lambda teacher_logits, temperature: (teacher_logits / temperature).softmax(-1).sum(0) / 2,
            "over_rows": lambda teacher_logits, temperature: (teacher_logits / temperature).softmax(1).mean(0),
            "first_only": lambda teacher_logits, temperature: (teacher_logits[0] / temperature).softmax(-1),
            "votes": lambda teacher_logits, temperature: torch.nn.functional.one_hot(
                teacher_logits.argmax(-1), teacher_logits.shape[-1]
            ).double().mean(0),
        },
    ),
    Exercise(
        id="distillation.teacher_blocks", kind="design", difficulty=1, minutes=5,
        inputs=pairs_inputs, spec=teacher_blocks, lesson="2.3-distillation", trials=5,
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
