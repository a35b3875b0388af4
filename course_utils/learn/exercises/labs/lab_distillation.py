"""Lab 3.3: what is predicted where, a loop that distils, and whether a gain was luck."""

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.learn.checks.exercise import Exercise

from ..concepts.distillation import draw_logits
from ..draws import pick, turn
from ..formalization.distillation_losses import real_tokens

# --- labels ---


def label_inputs(rng: torch.Generator) -> dict:
    batch, tokens = turn(rng, (3, 5), (4, 263), (137, 6), (1, 6))
    return {
        "ids": torch.randint(2, turn(rng, 50, 50_000), (batch, tokens), generator=rng),
        "mask": real_tokens(rng, batch, tokens),
    }


def labels_of(ids: Tensor, mask: Tensor) -> Tensor:
    """(batch, tokens − 1): the next token's id, −100 where the next token is padding."""
    out = torch.full((ids.shape[0], ids.shape[1] - 1), -100)
    for row in range(ids.shape[0]):
        for position in range(ids.shape[1] - 1):
            if mask[row, position + 1]:
                out[row, position] = ids[row, position + 1]
    return out


# --- the loop ---


def loop_inputs(rng: torch.Generator) -> dict:
    classes, features, rows, batches = turn(
        rng, (5, 4, 6, 4), (139, 3, 137, 3), (3, 139, 1, 11), (4, 3, 2, 137)
    )
    return {
        "student": torch.randn(classes, features, generator=rng, dtype=torch.float64),
        "teacher": torch.randn(classes, features, generator=rng, dtype=torch.float64),
        "batches": [
            torch.randn(rows, features, generator=rng, dtype=torch.float64) for _ in range(batches)
        ],
        "temperature": pick(rng, 1.5, 2.0, 3.0),
        "rate": pick(rng, 0.2, 0.3, 0.5),
    }


def distil(
    student: Tensor, teacher: Tensor, batches: list[Tensor], temperature: float, rate: float, *,
    square=2, sign=-1.0, reverse=False, moves_teacher=False, restart=False, sums=False,
    used=slice(None), keep_gradient=False, softened=True,
    over_classes=False,
) -> Tensor:  # fmt: skip
    """W ← W − rate · ∂/∂W τ² KL(softmax(x W_Tᵀ / τ) ‖ softmax(x Wᵀ / τ)), batch after batch; the
    mean over rows.
    """
    first, weight, guide = student, student.clone(), teacher.clone()
    total = torch.zeros_like(weight)
    for x in batches[used]:
        start = (first if restart else weight).detach().requires_grad_(True)
        guide = guide.detach().requires_grad_(moves_teacher)
        log_t = (x @ guide.T / (temperature if softened else 1.0)).log_softmax(-1)
        log_s = (x @ start.T / temperature).log_softmax(-1)
        terms = log_s.exp() * (log_s - log_t) if reverse else log_t.exp() * (log_t - log_s)
        loss = temperature**square * (
            terms.sum() if sums else terms.mean() if over_classes else terms.sum(-1).mean()
        )
        gradients = torch.autograd.grad(loss, [start, guide] if moves_teacher else [start])
        total = total + gradients[0] if keep_gradient else gradients[0]
        weight = start.detach() + sign * rate * total
        if moves_teacher:
            guide = guide.detach() + sign * rate * gradients[1]
    return weight


def with_change(**change):
    return lambda **given: distil(**given, **change)


def with_labels(student, teacher, batches, temperature, rate):
    """Only the teacher's favourite is learned."""
    weight = student.clone()
    for x in batches:
        weight = weight.detach().requires_grad_(True)
        loss = F.cross_entropy(x @ weight.T, (x @ teacher.T).argmax(-1))
        weight = weight.detach() - rate * torch.autograd.grad(loss, weight)[0]
    return weight


# --- was it luck? ---


def interval_inputs(rng: torch.Generator) -> dict:
    """Seeds differ more than the two ways do, as in real runs.

    Now and then the teacher does harm.
    """
    n = turn(rng, 3, 5, 137, 4)
    level = draw_logits(rng, n)
    gain = turn(rng, 0.2, -0.2, 0.2, 0.1) + 0.1 * torch.randn(n, generator=rng, dtype=torch.float64)
    return {"alone": level, "distilled": level - gain, "t": pick(rng, 4.303, 3.182, 2.776)}


def paired_interval(alone: Tensor, distilled: Tensor, t: float) -> tuple[float, float]:
    """(mean of d, t s / √n) of the gains d = alone − distilled,
    with s² = Σ (d − mean)² / (n − 1).
    """
    gains = [float(a) - float(b) for a, b in zip(alone, distilled, strict=True)]
    n, mean = len(gains), sum(gains) / len(gains)
    spread = (sum((gain - mean) ** 2 for gain in gains) / (n - 1)) ** 0.5
    return mean, t * spread / n**0.5


def of_gains(formula):
    """A wrong half width from (gains, t)."""

    def interval(alone, distilled, t):
        gains = alone - distilled
        return float(gains.mean()), float(formula(gains, t))

    return interval


def unpaired(alone, distilled, t):
    return float((alone - distilled).mean()), float(
        t * ((alone.var() + distilled.var()) / len(alone)).sqrt()
    )


def turned(alone, distilled, t):
    mean, half = paired_interval(alone, distilled, t)
    return -mean, half


def ends(alone, distilled, t):
    mean, half = paired_interval(alone, distilled, t)
    return mean - half, mean + half


EXERCISES = [
    Exercise(
        id="lab_distillation.labels_of",
        inputs=label_inputs,
        spec=labels_of,
        lesson="lab-3.3-distillation",
        trials=5,
        mistakes={
            "not_shifted": lambda ids, mask: ids.masked_fill(~mask, -100)[:, :-1],
            "shifted_back": lambda ids, mask: ids.masked_fill(~mask, -100).roll(1, 1)[:, :-1],
            "padding_kept": lambda ids, mask: ids[:, 1:],
            "mask_not_shifted": lambda ids, mask: ids[:, 1:].masked_fill(~mask[:, :-1], -100),
            "too_long": lambda ids, mask: F.pad(labels_of(ids, mask), (0, 1), value=-100),
            "zero_at_padding": lambda ids, mask: ids[:, 1:] * mask[:, 1:],
        },
    ),
    Exercise(
        id="lab_distillation.distil",
        inputs=loop_inputs,
        spec=distil,
        lesson="lab-3.3-distillation",
        trials=4,
        mistakes={
            "uphill": with_change(sign=1.0),
            "direction": with_change(reverse=True),
            "square_forgotten": with_change(square=0),
            "not_squared": with_change(square=1),
            "teacher_moves": with_change(moves_teacher=True),
            "starts_again": with_change(restart=True),
            "first_batch_only": with_change(used=slice(1)),
            "summed": with_change(sums=True),
            "over_classes": with_change(over_classes=True),
            "gradients_pile_up": with_change(keep_gradient=True),
            "teacher_sharp": with_change(softened=False),
            "labels": with_labels,
        },
    ),
    Exercise(
        id="lab_distillation.paired_interval",
        inputs=interval_inputs,
        spec=paired_interval,
        lesson="lab-3.3-distillation",
        trials=5,
        mistakes={
            "unpaired": unpaired,
            "sign": turned,
            "ends": ends,
            "divided_by_n": of_gains(
                lambda gains, t: t * gains.std(correction=0) / len(gains) ** 0.5
            ),
            "of_one_run": of_gains(lambda gains, t: t * gains.std()),
            "root_forgotten": of_gains(lambda gains, t: t * gains.std() / len(gains)),
            "variance": of_gains(lambda gains, t: t * gains.var() / len(gains) ** 0.5),
            "standard_error": of_gains(lambda gains, t: gains.std() / len(gains) ** 0.5),
        },
    ),
]
