"""Lesson 3.5, first part: the losses of answers, states, maps and relations, and wrong ones.

The exercises are in `distillation_losses`.

Of two trials, one lets only the student's tensor ask for gradients and the other only the
teacher's. So a result that asks for gradients tells through which tensor they flow.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..concepts.distillation import draw_logits
from ..draws import asks, pick, turn


def impossible(logits: Tensor) -> Tensor:
    """The first row's first class gets a probability of exactly 0."""
    logits.view(-1, logits.shape[-1])[0, 0] = -1e4
    return logits


def real_tokens(rng: torch.Generator, batch: int, tokens: int) -> Tensor:
    """(batch, tokens), True at real tokens: every row but the first ends in padding, or in turn
    begins with it.
    """
    length = torch.randint(2, tokens, (batch, 1), generator=rng)
    length[0] = tokens
    mask = torch.arange(tokens) < length
    return turn(rng, mask, mask.flip(1))


# --- Kullback-Leibler ---


def kl_inputs(rng: torch.Generator) -> dict:
    """Rows and classes of several counts; one class is so unlikely for the teacher that its
    probability is 0.
    """
    shape = pick(rng, 1, 2, 5), pick(rng, 3, 7, 11)
    student, teacher = asks(rng, draw_logits(rng, *shape), impossible(draw_logits(rng, *shape)))
    return {
        "student_logits": student,
        "teacher_logits": teacher,
        "temperature": turn(rng, 0.8, 1.5, 2.0, 3.0),
    }


def row_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) of each row, one class after the other."""
    total = torch.zeros_like(log_p[..., 0])
    for i in range(log_p.shape[-1]):
        total = total + log_p[..., i].exp() * (log_p[..., i] - log_q[..., i])
    return total


def softened(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return (student / temperature).log_softmax(-1), (teacher.detach() / temperature).log_softmax(-1)


def kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(P_T ‖ P_S) = Σ_i P_T,i (log P_T,i − log P_S,i), the mean over rows."""
    log_s, log_t = softened(student_logits, teacher_logits, temperature)
    return row_kl(log_t, log_s).mean()


def of_logs(formula):
    """A wrong divergence from (log P_S, log P_T)."""
    return lambda student_logits, teacher_logits, temperature: formula(
        *softened(student_logits, teacher_logits, temperature)
    )


# --- the gradient in the student's logits ---


def gradient_inputs(rng: torch.Generator) -> dict:
    given = kl_inputs(rng)
    return {
        name: value.detach() if isinstance(value, Tensor) else value
        for name, value in given.items()
    }


def logit_gradient(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """∂(τ² KL) / ∂z_S = τ (P_S − P_T) / n for the mean over n rows; here it is left to autograd."""
    z = student_logits.clone().requires_grad_(True)
    return torch.autograd.grad(temperature**2 * kl(z, teacher_logits, temperature), z)[0]


def difference(factor, tau=lambda t: t):
    """`factor(τ, n)` times (P_S − P_T) at the temperature `tau(τ)`."""

    def gradient(student_logits, teacher_logits, temperature):
        log_s, log_t = softened(student_logits, teacher_logits, tau(temperature))
        return factor(temperature, len(log_s)) * (log_s.exp() - log_t.exp())

    return gradient


# --- the whole response loss ---


def response_inputs(rng: torch.Generator) -> dict:
    """What stands at padding is large, and its label is −100, so that counting it shows."""
    shape = turn(rng, (3, 5, 7), (137, 3, 4), (2, 139, 5), (3, 4, 151))
    mask = real_tokens(rng, *shape[:2])
    noise = torch.where(mask, 1.0, 20.0)[..., None]
    student, teacher = asks(
        rng, draw_logits(rng, *shape) * noise, impossible(draw_logits(rng, *shape) * noise)
    )
    labels = torch.randint(shape[2], shape[:2], generator=rng).masked_fill(~mask, -100)
    return {
        "student_logits": student, "teacher_logits": teacher, "labels": labels,
        "temperature": turn(rng, 0.8, 1.5, 2.0, 3.0), "alpha": turn(rng, 0.2, 0.3, 0.7),
        "mask": mask,
    }  # fmt: skip


def response(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float,
    alpha: float, mask: Tensor, *, factor=lambda t: t**2, far=row_kl, backwards=False,
    swapped=False, everywhere=False, count=None, hard=1.0, still="",
    sharp=False,
) -> Tensor:  # fmt: skip
    """α CE(labels) + (1 − α) τ² KL(P_T(τ) ‖ P_S(τ)), the mean over real tokens.

    `still`: the part that has no gradient.
    """
    used = torch.ones_like(mask) if everywhere else mask
    log_s, log_t = softened(
        student_logits.detach() if still == "teacher" else student_logits,
        teacher_logits * (temperature if sharp else 1.0),
        temperature,
    )
    distance = far(log_s, log_t) if backwards else far(log_t, log_s)
    plain = ((student_logits.detach() if still == "labels" else student_logits) / hard).log_softmax(
        -1
    )
    label = -plain.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    a = 1 - alpha if swapped else alpha
    each = a * torch.where(mask, label, 0.0) + (1 - a) * factor(temperature) * distance
    return torch.where(used, each, 0.0).sum() / (mask.sum() if count is None else count(mask))


def with_change(**change):
    return lambda **given: response(**given, **change)


def hard_softened(**given):
    return response(**given, hard=given["temperature"])


def over_tokens(student_logits, teacher_logits, labels, temperature, alpha, mask):
    """The divergence of a softmax over the wrong axis."""
    log_s, log_t = (
        (z / temperature).log_softmax(1) for z in (student_logits, teacher_logits.detach())
    )
    hard = response(student_logits, teacher_logits, labels, temperature, 1.0, mask)
    return alpha * hard + (1 - alpha) * temperature**2 * row_kl(log_t, log_s)[mask].mean()


def kl_over_batch(student_logits, teacher_logits, labels, temperature, alpha, mask):
    """What `F.kl_div` with `batchmean` gives for three dimensions: all tokens, padding too, divided
    by the batch.
    """
    log_s, log_t = softened(student_logits, teacher_logits, temperature)
    soft = row_kl(log_t, log_s).sum() / len(mask)
    hard = response(student_logits, teacher_logits, labels, temperature, 1.0, mask)
    return alpha * hard + (1 - alpha) * temperature**2 * soft


# --- features ---


def feature_inputs(rng: torch.Generator) -> dict:
    batch, tokens, narrow, wide = turn(
        rng, (3, 5, 3, 5), (137, 3, 2, 4), (2, 139, 3, 4), (2, 3, 131, 137)
    )
    mask = real_tokens(rng, batch, tokens)
    noise = torch.where(mask, 1.0, 20.0)[..., None]
    student, teacher = asks(
        rng, draw_logits(rng, batch, tokens, narrow), draw_logits(rng, batch, tokens, wide) * noise
    )
    projector = torch.randn(wide, narrow, generator=rng, dtype=torch.float64).requires_grad_(
        student.requires_grad
    )
    return {
        "student_hidden": student,
        "teacher_hidden": teacher,
        "projector": projector,
        "mask": mask,
    }


def feature(
    student_hidden: Tensor, teacher_hidden: Tensor, projector: Tensor, mask: Tensor
) -> Tensor:
    """Mean over real tokens and the teacher's features of (P h_S − h_T)²."""
    total, terms = student_hidden.new_zeros(()), 0
    for row, token in mask.nonzero().tolist():
        error = projector @ student_hidden[row, token] - teacher_hidden[row, token].detach()
        total, terms = total + error.square().sum(), terms + len(error)
    return total / terms


def errors(student_hidden, teacher_hidden, projector, mask):
    """(batch, tokens, wide): P h_S − h_T, 0 at padding."""
    return (student_hidden @ projector.T - teacher_hidden.detach()) * mask[..., None]


def of_errors(formula):
    return lambda **given: formula(errors(**given), given["mask"])


# --- attention ---


def attention_inputs(rng: torch.Generator) -> dict:
    """Causal maps: what lies ahead of a query has exactly no weight, nor has what lies five or more
    behind it.

    All else has so much that 1e-6 beside it is nothing.
    """
    batch, heads, tokens = turn(rng, (2, 3, 5), (137, 2, 3), (2, 137, 4), (2, 1, 139))
    seen = torch.ones(tokens, tokens, dtype=torch.bool).tril().triu(-4)
    maps = [
        draw_logits(rng, batch, heads, tokens, tokens)
        .div(3)
        .masked_fill(~seen, -torch.inf)
        .softmax(-1)
        for _ in range(2)
    ]
    student, teacher = asks(rng, *maps)
    return {"student_map": student, "teacher_map": teacher, "mask": real_tokens(rng, batch, tokens)}


def map_rows(from_map: Tensor, to_map: Tensor) -> Tensor:
    """(batch, heads, queries): Σ_k a_k log(a_k / b_k), where a_k = 0 counts as 0."""
    ratio = (
        torch.where(from_map > 0, from_map, 1.0).log()
        - torch.where(from_map > 0, to_map, 1.0).log()
    )
    return (from_map * ratio).sum(-1)


def attention(student_map: Tensor, teacher_map: Tensor, mask: Tensor) -> Tensor:
    """Mean over heads and real queries of KL(A_T ‖ A_S)."""
    rows = map_rows(teacher_map.detach(), student_map)
    return rows[mask[:, None].expand_as(rows)].mean()


def of_rows(formula, reverse=False):
    """A wrong reduction: `formula(rows, mask of the same shape, number of keys)`."""

    def loss(student_map, teacher_map, mask):
        pair = (
            (student_map, teacher_map.detach()) if reverse else (teacher_map.detach(), student_map)
        )
        rows = map_rows(*pair)
        return formula(rows, mask[:, None].expand_as(rows), student_map.shape[-1])

    return loss


def unguarded(student_map, teacher_map, mask):
    """0 · log 0 is NaN."""
    rows = (teacher_map.detach() * (teacher_map.detach().log() - student_map.log())).sum(-1)
    return rows[mask[:, None].expand_as(rows)].mean()


def zero_gradient(student_map, teacher_map, mask):
    """The value is right; ∂ t log s / ∂ s = t / s is 0 / 0 where both are 0."""
    t = teacher_map.detach()
    rows = (torch.xlogy(t, t) - torch.xlogy(t, student_map)).sum(-1)
    return rows[mask[:, None].expand_as(rows)].mean()


# --- relations ---


def distance_inputs(rng: torch.Generator) -> dict:
    """One example is far from the others for the student, another one for the teacher: some d_S −
    d_T are beyond ±1.

    Two examples are equal for the student: the root of their distance has no slope at 0.
    """
    examples = pick(rng, 4, 5, 7)
    student, teacher = draw_logits(rng, examples, 3), 5 * draw_logits(rng, examples, 4)
    student[0], teacher[1] = 5 * student[0], 5 * teacher[1]
    student[3] = student[2]
    student, teacher = asks(rng, student, teacher)
    return {"student": student, "teacher": teacher}


def distance(
    student: Tensor,
    teacher: Tensor,
    *,
    scale=torch.mean,
    apart=lambda d: d,
    diagonal=False,
    norm=2.0,
    rooted=False,
) -> Tensor:
    """Mean over pairs of Huber(d_S − d_T), d = ‖x_i − x_j‖ / mean over pairs; Huber(u) = u² / 2,
    beyond 1 |u| − 1/2.
    """

    def length(x: Tensor) -> Tensor:
        """Of a zero vector 0, with the slope 0."""
        return x.abs().pow(norm).sum() ** (1 / norm) if bool(x.any()) or rooted else 0 * x.sum()

    def distances(x: Tensor) -> Tensor:
        n = len(x)
        pairs = [(i, j) for i in range(n) for j in range(n) if diagonal or i < j]
        d = torch.stack(
            [apart(length(x[i] - x[j]) if i != j else x.new_zeros(())) for i, j in pairs]
        )
        return d / scale(d)

    u = (distances(student) - distances(teacher.detach())).abs()
    return torch.where(u < 1, u**2 / 2, u - 0.5).mean()


def squares_of_distances(student, teacher):
    d_s, d_t = F.pdist(student), F.pdist(teacher.detach())
    return (d_s / d_s.mean() - d_t / d_t.mean()).square().mean()


def scaled_by_teacher(student, teacher):
    d_s, d_t = F.pdist(student), F.pdist(teacher.detach())
    return F.huber_loss(d_s / d_t.mean(), d_t / d_t.mean())


def points(student, teacher):
    """Compares each vector's length, not the distances between vectors."""
    s, t = student.norm(dim=-1), teacher.detach().norm(dim=-1)
    return F.huber_loss(s / s.mean(), t / t.mean())
