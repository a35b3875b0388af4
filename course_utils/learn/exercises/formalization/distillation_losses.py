"""Lesson 3.5 and lab 3.3: losses between a student and a teacher.

Of two trials, one lets only the student's tensor ask for gradients and the other only the
teacher's. So a result that asks for gradients tells through which tensor they flow.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.learn.checks.exercise import Exercise

from ..concepts.distillation import draw_logits
from ..draws import flows, pick, turn, until
from ._losses import (
    attention,
    attention_inputs,
    difference,
    distance,
    distance_inputs,
    feature,
    feature_inputs,
    gradient_inputs,
    hard_softened,
    kl,
    kl_inputs,
    kl_over_batch,
    logit_gradient,
    of_errors,
    of_logs,
    of_rows,
    over_tokens,
    points,
    real_tokens,  # noqa: F401 (for other rooms)
    response,
    response_inputs,
    row_kl,
    scaled_by_teacher,
    squares_of_distances,
    unguarded,
    with_change,
    zero_gradient,
)

# --- where the limit of high temperature is reached ---


def limit_inputs(rng: torch.Generator) -> dict:
    """At τ = 1 the divergence is beyond the share, below its limit in one trial and above it in the
    next.
    """
    rows, classes = pick(rng, 1, 3), pick(rng, 4, 7, 16)
    scale, share = pick(rng, 0.3, 1.0, 2.0), pick(rng, 0.02, 0.05, 0.2)

    def logits(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return scale * draw_logits(rng, rows, classes), scale * draw_logits(rng, rows, classes)

    def on_this_side(pair: tuple[Tensor, Tensor]) -> bool:
        ratio = float(kl(*pair, 1.0) / limit_of(*pair))
        return turn(rng, ratio < 1 - share, ratio > 1 + share)

    student, teacher = until(rng, logits, on_this_side)
    return {"student_logits": student, "teacher_logits": teacher, "share": share}


def limit_of(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Σ_k (z_S,k − z_T,k)² / (2 V) with logits of mean 0, the mean over rows."""
    apart = student_logits - teacher_logits
    apart = apart - apart.mean(-1, keepdim=True)
    return apart.square().sum(-1).mean() / (2 * apart.shape[-1])


def near_limit(
    student_logits: Tensor,
    teacher_logits: Tensor,
    share: float,
    *,
    limit=limit_of,
    square=True,
    absolute=False,
    side=0,
) -> int:
    """The smallest τ of 1, 2, 4, … whose τ² KL is within `share` of its limit; `side`: not farther
    above (1), below (−1).
    """
    end = limit(student_logits, teacher_logits)
    tau = 1
    while tau < 2**20:
        value = (tau**2 if square else 1) * kl(student_logits, teacher_logits, float(tau))
        off = side * (value - end) if side else (value - end).abs()
        if off <= (share if absolute else share * end):
            break
        tau *= 2
    return tau


def not_centred(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return (student_logits - teacher_logits).square().sum(-1).mean() / (
        2 * student_logits.shape[-1]
    )


# --- how many of the teacher's answers to keep ---


def answers_inputs(rng: torch.Generator) -> dict:
    """Odd seeds: shuffled halves, quarters, …, whose sums meet the share exactly.

    Even seeds: any probabilities.
    """
    positions, classes = pick(rng, 4, 6), 8
    if rng.initial_seed() % 2:
        powers = torch.tensor(
            [0.5**k for k in (*range(1, classes), classes - 1)], dtype=torch.float64
        )
        order = torch.stack([torch.randperm(classes, generator=rng) for _ in range(positions)])
        return {
            "probabilities": powers[order],
            "share": (0.5, 0.75, 0.9375, 1.0)[rng.initial_seed() // 2 % 4],
        }
    logits = draw_logits(rng, positions, classes) * torch.rand(
        positions, 1, generator=rng, dtype=torch.float64
    )
    return {"probabilities": logits.softmax(-1), "share": pick(rng, 0.6, 0.7, 0.8)}


def enough_kept(probabilities: Tensor, share: float) -> int:
    """The smallest k for which the k largest of each position hold at least `share` of the
    probability, on average.
    """
    rows = [sorted(row, reverse=True) for row in probabilities.tolist()]
    k = 1
    while sum(sum(row[:k]) for row in rows) / len(rows) < share - 1e-12:
        k += 1
    return k


def counted_by(formula):
    """A wrong k: the first for which `formula(cumulative masses (positions, k))`
    reaches the share.
    """

    def k(probabilities: Tensor, share: float) -> int:
        held = probabilities.sort(dim=-1, descending=True).values.cumsum(-1)
        return int((formula(held) < share - 1e-12).sum()) + 1

    return k


def same_for_all(probabilities: Tensor, share: float) -> int:
    return (
        int((probabilities.mean(0).sort(descending=True).values.cumsum(0) < share - 1e-12).sum())
        + 1
    )


def more_than(probabilities: Tensor, share: float) -> int:
    held = probabilities.sort(dim=-1, descending=True).values.cumsum(-1).mean(0)
    return int((held <= share + 1e-12).sum()) + 1


EXERCISES = [
    Exercise(
        id="distillation_losses.kl",
        kind="formula",
        difficulty=1,
        minutes=5,
        inputs=kl_inputs,
        spec=kl,
        lesson="3.5-distillation-losses",
        trials=4,
        mistakes={
            "reversed": of_logs(lambda log_s, log_t: row_kl(log_s, log_t).mean()),
            "cross_entropy": of_logs(lambda log_s, log_t: -(log_t.exp() * log_s).sum(-1).mean()),
            "summed": of_logs(lambda log_s, log_t: row_kl(log_t, log_s).sum()),
            "over_classes": of_logs(
                lambda log_s, log_t: row_kl(log_t, log_s).mean() / log_s.shape[-1]
            ),
            "not_softened": lambda student_logits, teacher_logits, temperature: kl(
                student_logits, teacher_logits, 1.0
            ),
            "teacher_sharp": lambda student_logits, teacher_logits, temperature: kl(
                student_logits, temperature * teacher_logits, temperature
            ),
            "with_square": lambda **given: given["temperature"] ** 2 * kl(**given),
            "not_in_logarithms": of_logs(
                lambda log_s, log_t: (log_t.exp() * (log_t - log_s.exp())).sum(-1).mean()
            ),
            "sign": of_logs(lambda log_s, log_t: -row_kl(log_t, log_s).mean()),
            "squared_difference": of_logs(
                lambda log_s, log_t: (log_s.exp() - log_t.exp()).square().sum(-1).mean()
            ),
            "softmax_over_rows": lambda student_logits, teacher_logits, temperature: row_kl(
                *(
                    (z / temperature).log_softmax(0)
                    for z in (teacher_logits.detach(), student_logits)
                )
            ).mean(),
        },
        properties=flows("student_logits", "teacher_logits"),
        gradients=("student_logits",),
    ),
    Exercise(
        id="distillation_losses.logit_gradient",
        kind="step",
        difficulty=2,
        minutes=10,
        inputs=gradient_inputs,
        spec=logit_gradient,
        lesson="3.5-distillation-losses",
        trials=4,
        mistakes={
            "sign": difference(lambda t, n: -t / n),
            "without_the_square": difference(lambda t, n: 1 / (t * n)),
            "square_whole": difference(lambda t, n: t**2 / n),
            "no_temperature": difference(lambda t, n: 1 / n),
            "rows_not_averaged": difference(lambda t, n: t),
            "at_temperature_one": difference(lambda t, n: t / n, lambda t: 1.0),
            "logits": lambda student_logits, teacher_logits, temperature: (
                (student_logits - teacher_logits) * temperature / len(student_logits)
            ),
        },
    ),
    Exercise(
        id="distillation_losses.response",
        kind="debug",
        difficulty=2,
        minutes=10,
        inputs=response_inputs,
        spec=response,
        lesson="3.5-distillation-losses",
        trials=4,
        mistakes={
            "direction": with_change(backwards=True),
            "square_forgotten": with_change(factor=lambda t: 1.0),
            "not_squared": with_change(factor=lambda t: t),
            "square_on_both": lambda **given: (
                given["temperature"] ** 2 * response(**given, factor=lambda t: 1.0)
            ),
            "not_softened": lambda **given: response(
                **given | {"temperature": 1.0}, factor=lambda t: given["temperature"] ** 2
            ),
            "unweighted": lambda **given: 2 * response(**given | {"alpha": 0.5}),
            "alpha_swapped": with_change(swapped=True),
            "labels_softened": hard_softened,
            "cross_entropy": with_change(far=lambda log_p, log_q: -(log_p.exp() * log_q).sum(-1)),
            "padding_counted": with_change(everywhere=True, count=torch.numel),
            "padding_in_kl": with_change(everywhere=True),
            "divided_by_all": with_change(count=torch.numel),
            "divided_by_batch": with_change(count=len),
            "kl_over_batch": kl_over_batch,
            "over_classes": with_change(
                far=lambda log_p, log_q: row_kl(log_p, log_q) / log_p.shape[-1]
            ),
            "softmax_over_tokens": over_tokens,
            "teacher_sharp": with_change(sharp=True),
            "labels_have_no_gradient": with_change(still="labels"),
            "divergence_has_no_gradient": with_change(still="teacher"),
        },
        properties=flows("student_logits", "teacher_logits"),
        gradients=("student_logits",),
    ),
    Exercise(
        id="distillation_losses.feature",
        kind="formula",
        difficulty=1,
        minutes=5,
        inputs=feature_inputs,
        spec=feature,
        lesson="3.5-distillation-losses",
        trials=4,
        mistakes={
            "padding_counted": lambda student_hidden, teacher_hidden, projector, mask: F.mse_loss(
                student_hidden @ projector.T, teacher_hidden.detach()
            ),
            "divided_by_all": of_errors(lambda e, mask: e.square().mean()),
            "summed": of_errors(lambda e, mask: e.square().sum()),
            "features_summed": of_errors(lambda e, mask: e.square().sum() / mask.sum()),
            "absolute": of_errors(lambda e, mask: e.abs().sum() / mask.sum() / e.shape[-1]),
            "root": of_errors(lambda e, mask: (e.square().sum() / mask.sum() / e.shape[-1]).sqrt()),
            "teacher_projected": lambda student_hidden, teacher_hidden, projector, mask: (
                (teacher_hidden.detach() @ projector - student_hidden) ** 2
            )[mask].mean(),
            "projector_stays": lambda student_hidden, teacher_hidden, projector, mask: feature(
                student_hidden, teacher_hidden, projector.detach(), mask
            ),
        },
        properties=flows("student_hidden", "teacher_hidden"),
        gradients=("student_hidden", "projector"),
    ),
    Exercise(
        id="distillation_losses.attention",
        kind="debug",
        difficulty=3,
        minutes=10,
        inputs=attention_inputs,
        spec=attention,
        tolerance=1e-4,
        lesson="3.5-distillation-losses",
        trials=4,
        mistakes={
            "reversed": of_rows(lambda rows, mask, keys: rows[mask].mean(), reverse=True),
            "zero_log": unguarded,
            "zero_gradient": zero_gradient,
            "padding_counted": of_rows(lambda rows, mask, keys: rows.mean()),
            "divided_by_all": of_rows(lambda rows, mask, keys: (rows * mask).mean()),
            "heads_summed": of_rows(lambda rows, mask, keys: rows[mask].mean() * rows.shape[1]),
            "summed": of_rows(lambda rows, mask, keys: rows[mask].sum()),
            "over_keys": of_rows(lambda rows, mask, keys: rows[mask].mean() / keys),
            "squared_difference": lambda student_map, teacher_map, mask: (
                (student_map - teacher_map.detach())
                .square()
                .sum(-1)[mask[:, None].expand(student_map.shape[:3])]
                .mean()
            ),
            "heads_averaged_first": lambda student_map, teacher_map, mask: attention(
                student_map.mean(1, keepdim=True), teacher_map.mean(1, keepdim=True), mask
            ),
        },
        properties=flows("student_map", "teacher_map"),
        gradients=("student_map",),
    ),
    Exercise(
        id="distillation_losses.distance",
        kind="step",
        difficulty=2,
        minutes=8,
        inputs=distance_inputs,
        spec=distance,
        lesson="3.5-distillation-losses",
        trials=4,
        mistakes={
            "not_scaled": lambda student, teacher: distance(student, teacher, scale=lambda d: 1.0),
            "scaled_by_largest": lambda student, teacher: distance(
                student, teacher, scale=torch.amax
            ),
            "scaled_by_teacher": scaled_by_teacher,
            "squared_distances": lambda student, teacher: distance(
                student, teacher, apart=torch.square
            ),
            "with_itself": lambda student, teacher: distance(student, teacher, diagonal=True),
            "zeros_in_mean": lambda student, teacher: distance(
                student, teacher, diagonal=True, scale=lambda d: d.sum() / (len(d) - len(d) ** 0.5)
            ),
            "not_huber": squares_of_distances,
            "city_blocks": lambda student, teacher: distance(student, teacher, norm=1.0),
            "lengths": points,
            "zero_root": lambda student, teacher: distance(student, teacher, rooted=True),
        },
        properties=flows("student", "teacher"),
        gradients=("student",),
    ),
    Exercise(
        id="distillation_losses.near_limit",
        kind="confirm",
        difficulty=2,
        minutes=8,
        inputs=limit_inputs,
        spec=near_limit,
        lesson="3.5-distillation-losses",
        trials=8,
        mistakes={
            "not_centred": lambda **given: near_limit(**given, limit=not_centred),
            "without_half": lambda **given: near_limit(
                **given, limit=lambda s, t: 2 * limit_of(s, t)
            ),
            "absolute": lambda **given: near_limit(**given, absolute=True),
            "not_above": lambda **given: near_limit(**given, side=1),
            "not_below": lambda **given: near_limit(**given, side=-1),
            "one_more": lambda **given: 2 * near_limit(**given),
            "power": lambda **given: near_limit(**given).bit_length() - 1,
        },
    ),
    Exercise(
        id="distillation_losses.enough_kept",
        kind="decide",
        difficulty=2,
        minutes=8,
        inputs=answers_inputs,
        spec=enough_kept,
        lesson="3.5-distillation-losses",
        trials=8,
        mistakes={
            "every_position": counted_by(lambda held: held.amin(0)),
            "best_position": counted_by(lambda held: held.amax(0)),
            "same_for_all": same_for_all,
            "more_than": more_than,
            "from_zero": lambda **given: enough_kept(**given) - 1,
        },
    ),
]
