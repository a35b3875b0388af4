"""Lesson 5.6: equal tokens, a vote, a loss on the student's own texts, sorted probabilities, which
KL, a leap that a metric makes.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn, until

LESSON = "5.6-llm-distillation"

# --- equal tokens ---


def budget(rng: torch.Generator) -> dict:
    def make(rng):
        lengths = [int(x) for x in torch.randint(4, 30, (pick(rng, 3, 5),), generator=rng)]
        return {
            "lengths": lengths,
            "batch": pick(rng, 4, 8, 16),
            "tokens": int(torch.randint(3000, 9000, (), generator=rng)),
        }

    def part(g: dict) -> float:
        """What is left of a step."""
        return g["tokens"] * len(g["lengths"]) / (g["batch"] * sum(g["lengths"])) % 1

    return until(
        rng,
        make,
        lambda g: (
            len(set(g["lengths"])) > 1 and turn(rng, 0.55 < part(g) < 0.95, 0.05 < part(g) < 0.45)
        ),
    )


def steps(lengths: list[int], batch: int, tokens: int) -> int:
    """The most whole steps whose expected real tokens, batch × mean length each, stay within
    `tokens`.
    """
    return tokens * len(lengths) // (batch * sum(lengths))


def steps_with(mean=lambda x: sum(x) / len(x), end=math.floor, batched=True):
    return lambda lengths, batch, tokens: int(
        end(tokens / ((batch if batched else 1) * mean(lengths)))
    )


# --- a vote ---


def votes(rng: torch.Generator) -> dict:
    return {"p": turn(rng, 0.55, 0.4, 0.7, 0.9), "m": turn(rng, 3, 5, 8, 4, 7, every=2)}


def vote(p: float, m: int) -> float:
    """P(more than half of m independent votes are right), ties counting half."""
    terms = [math.comb(m, k) * p**k * (1 - p) ** (m - k) for k in range(m + 1)]
    return math.fsum(
        w * (1.0 if 2 * k > m else 0.5 if 2 * k == m else 0.0) for k, w in enumerate(terms)
    )


def vote_with(tie=0.5, choose=math.comb, most=lambda k, m: 2 * k > m, wrong=True):
    def answer(p, m):
        terms = [choose(m, k) * p**k * ((1 - p) ** (m - k) if wrong else 1.0) for k in range(m + 1)]
        return sum(
            w * (1.0 if most(k, m) else tie if 2 * k == m else 0.0) for k, w in enumerate(terms)
        )

    return answer


# --- a loss on the student's own texts ---


def texts(rng: torch.Generator) -> dict:
    n, t, v = pick(rng, 2, 3), pick(rng, 5, 6), pick(rng, 4, 6)
    own = torch.zeros(n, t, dtype=torch.bool)
    for row in range(n):
        own[row, 2 : 3 + row % (t - 2)] = True
    student = 2 * torch.randn(n, t, v, generator=rng, dtype=torch.float64)
    teacher = 2 * torch.randn(n, t, v, generator=rng, dtype=torch.float64) + 3 * torch.randn(
        n, t, 1, generator=rng, dtype=torch.float64
    )
    return {"student_logits": student.requires_grad_(), "teacher_logits": teacher, "own": own}


def on_policy_with(
    direction="reverse", shift=1, masked=True, normalized=True, mean=True, detached=False
):
    def answer(student_logits: Tensor, teacher_logits: Tensor, own: Tensor) -> Tensor:
        size = own.shape[1] - shift
        log_q, log_p = student_logits[:, :size].log_softmax(-1), teacher_logits[:, :size]
        log_p = log_p.log_softmax(-1) if normalized else log_p
        one, other = (log_q, log_p) if direction == "reverse" else (log_p, log_q)
        weight = one.exp().detach() if detached else one.exp()
        far = (weight * (one - other)).sum(-1)
        far = far[own[:, shift:]] if masked else far.flatten()
        return far.mean() if mean else far.sum()

    return answer


def on_policy(student_logits: Tensor, teacher_logits: Tensor, own: Tensor) -> Tensor:
    """The mean of KL(p_S ‖ p_T) over the tokens that the student wrote; the logits at t − 1 belong
    to token t.
    """
    log_q, log_p = (
        student_logits[:, :-1].log_softmax(-1),
        teacher_logits[:, :-1].detach().log_softmax(-1),
    )
    return (log_q.exp() * (log_q - log_p)).sum(-1)[own[:, 1:]].mean()


# --- sorted probabilities ---


def vocabularies(rng: torch.Generator) -> dict:
    v = pick(rng, 3, 4)
    p = torch.rand(v, generator=rng, dtype=torch.float64) ** 2 + 0.01
    q = torch.rand(v + turn(rng, 2, 1, -1), generator=rng, dtype=torch.float64) ** 2 + 0.01
    return {"p": p / p.sum(), "q": q / q.sum()}


def uld_with(order=lambda x: x.sort(descending=True).values, cut=False, power=1, half=1.0):
    def answer(p: Tensor, q: Tensor) -> float:
        a, b = order(p), order(q)
        n = min(len(a), len(b)) if cut else max(len(a), len(b))
        a, b = (torch.nn.functional.pad(x, (0, max(0, n - len(x))))[:n] for x in (a, b))
        return half * float((a - b).abs().pow(power).sum())

    return answer


def uld(p: Tensor, q: Tensor) -> float:
    """Σ_i |p_(i) − q_(i)|, both sorted, the largest first, the shorter one filled with zeros."""
    wide = max(len(p), len(q))
    a, b = (torch.cat([x.sort(descending=True).values, x.new_zeros(wide - len(x))]) for x in (p, q))
    return float((a - b).abs().sum())


# --- which KL ---


def candidates(rng: torch.Generator) -> dict:
    def make(rng):
        p = torch.rand(6, generator=rng, dtype=torch.float64) ** 4 + 1e-3
        q = torch.rand(3, 6, generator=rng, dtype=torch.float64) ** 4 + 1e-3
        return {"p": p / p.sum(), "students": q / q.sum(1, keepdim=True)}

    return until(rng, make, lambda g: chosen(**g)[0] != chosen(**g)[1])


def chosen(p: Tensor, students: Tensor) -> list[int]:
    """[which student forward KL takes, which one reverse KL takes]."""
    return [
        int((p * (p / students).log()).sum(1).argmin()),
        int((students * (students / p).log()).sum(1).argmin()),
    ]


def chosen_with(
    forward=lambda p, q: p * (p / q).log(),
    reverse=lambda p, q: q * (q / p).log(),
    best=torch.argmin,
):
    return lambda p, students: [int(best(f(p, students).sum(1))) for f in (forward, reverse)]


# --- a leap that a metric makes ---


def models(rng: torch.Generator) -> dict:
    a = (0.55 + 0.4 * torch.rand(5, generator=rng, dtype=torch.float64)).sort().values
    return {"by_token": a, "length": turn(rng, 5, 10, 3), "goal": turn(rng, 0.5, 0.2, every=3)}


def leap(by_token: Tensor, length: int, goal: float) -> tuple[Tensor, float]:
    """(whole answers right, a^length, for each model; the share of tokens at which `goal` of the
    answers are right).
    """
    return by_token**length, goal ** (1 / length)


def leap_with(whole=lambda a, n: a**n, need=lambda g, n: g ** (1 / n)):
    return lambda by_token, length, goal: (whole(by_token, length), need(goal, length))


EXERCISES = [
    Exercise(
        "llm_distillation.steps", budget, steps,
        {
            "per_text": steps_with(batched=False),
            "longest": steps_with(mean=max),
            "shortest": steps_with(mean=min),
            "rounded_up": steps_with(end=math.ceil),
            "rounded": steps_with(end=round),
            "total": steps_with(mean=sum),
        },
        lesson=LESSON, kind="step", difficulty=1, minutes=4, trials=6, tolerance=1e-9,
    ),
    Exercise(
        "llm_distillation.vote", votes, vote,
        {
            "tie_is_right": vote_with(tie=1.0),
            "tie_is_wrong": vote_with(tie=0.0),
            "orders_forgotten": vote_with(choose=lambda m, k: 1),
            "others_forgotten": vote_with(wrong=False),
            "all_of_them": lambda p, m: p**m,
            "one_is_enough": lambda p, m: 1 - (1 - p) ** m,
            "exactly_half_and_one": vote_with(most=lambda k, m: k == m // 2 + 1),
            "single_vote": lambda p, m: p,
        },
        lesson=LESSON, kind="formula", difficulty=2, minutes=5, trials=10,
    ),
    Exercise(
        "llm_distillation.on_policy", texts, on_policy,
        {
            "directions_swapped": on_policy_with(direction="forward"),
            "padding_scored": on_policy_with(masked=False),
            "teacher_unnormalized": on_policy_with(normalized=False),
            "not_shifted": on_policy_with(shift=0),
            "summed": on_policy_with(mean=False),
            "weights_detached": on_policy_with(detached=True),
        },
        lesson=LESSON, kind="step", difficulty=3, minutes=8, trials=6,
        gradients=("student_logits",),
    ),
    Exercise(
        "llm_distillation.which", candidates, chosen,
        {
            "directions_swapped": chosen_with(forward=lambda p, q: q * (q / p).log(),
                                              reverse=lambda p, q: p * (p / q).log()),
            "largest": chosen_with(best=torch.argmax),
            "forward_twice": chosen_with(reverse=lambda p, q: p * (p / q).log()),
            "reverse_twice": chosen_with(forward=lambda p, q: q * (q / p).log()),
            "unweighted": chosen_with(forward=lambda p, q: (p / q).log(), reverse=lambda p, q:
                (q / p).log()),
        },
        lesson=LESSON, kind="decide", difficulty=2, minutes=6, trials=8,
    ),
    Exercise(
        "llm_distillation.uld", vocabularies, uld,
        {
            "unsorted": uld_with(order=lambda x: x),
            "opposite_orders": lambda p, q: uld_with(order=lambda x: x)(p.sort().values,
                q.sort(descending=True).values),
            "smallest_first": uld_with(order=lambda x: x.sort().values),
            "rest_cut": uld_with(cut=True),
            "squared": uld_with(power=2),
            "halved": uld_with(half=0.5),
        },
        lesson=LESSON, kind="step", difficulty=2, minutes=5, trials=8,
    ),
    Exercise(
        "llm_distillation.leap", models, leap,
        {
            "multiplied": leap_with(whole=lambda a, n: (1 - n * (1 - a)).clamp(min=0)),
            "one_token": leap_with(whole=lambda a, n: a),
            "need_divided": leap_with(need=lambda g, n: g / n),
            "need_powered": leap_with(need=lambda g, n: g**n),
            "one_token_less": leap_with(whole=lambda a, n: a ** (n - 1)),
        },
        lesson=LESSON, kind="confirm", difficulty=1, minutes=4, trials=6,
    ),
]  # fmt: skip
