"""Right and wrong answers to the exercises of llm_distillation."""

import itertools
import math
from fractions import Fraction

import numpy as np
import torch
from scipy.stats import binom, wasserstein_distance
from torch.nn import functional as F

# --- right ---


def by_counting(lengths, batch, tokens):
    mean, n = sum(lengths) / len(lengths), 0
    while (n + 1) * batch * mean <= tokens + 1e-9:
        n += 1
    return n


def by_tensor(lengths, batch, tokens):
    return torch.tensor(tokens / (batch * np.mean(lengths)) + 1e-12).floor().int()


def by_scipy(p, m):
    return binom.sf(m // 2, m, p) + (binom.pmf(m // 2, m, p) / 2 if m % 2 == 0 else 0)


def by_convolution(p, m):
    spread = [1.0]
    for _ in range(m):
        spread = list(np.convolve(spread, [1 - p, p]))
    return sum(w for k, w in enumerate(spread) if 2 * k > m) + sum(
        w / 2 for k, w in enumerate(spread) if 2 * k == m
    )


def by_kl_div(student_logits, teacher_logits, own):
    q = F.log_softmax(student_logits[:, :-1], -1)
    p = F.log_softmax(teacher_logits[:, :-1], -1)
    return F.kl_div(p, q, log_target=True, reduction="none").sum(-1)[own[:, 1:]].mean()


def by_places(student_logits, teacher_logits, own):
    found = []
    for row, token in own.nonzero().tolist():
        q, p = student_logits[row, token - 1].softmax(0), teacher_logits[row, token - 1].softmax(0)
        found.append((q * (q.log() - p.log())).sum())
    return torch.stack(found).mean()


def by_lists(p, q):
    a, b = sorted(p.tolist(), reverse=True), sorted(q.tolist(), reverse=True)
    while len(a) < len(b):
        a.append(0.0)
    while len(b) < len(a):
        b.append(0.0)
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))


def by_transport(p, q):
    n = max(len(p), len(q))
    return n * wasserstein_distance(
        np.pad(p.numpy(), (0, n - len(p))), np.pad(q.numpy(), (0, n - len(q)))
    )


def by_cross_entropy(p, students):
    one = [-float(p @ q.log()) for q in students]
    two = [float(q @ (q.log() - p.log())) for q in students]
    return one.index(min(one)), two.index(min(two))


def by_numpy(p, students):
    p, q = p.numpy(), students.numpy()
    return np.array([np.argmin((p * np.log(p / q)).sum(1)), np.argmin((q * np.log(q / p)).sum(1))])


def by_logs(by_token, length, goal):
    return (length * by_token.log()).exp(), math.exp(math.log(goal) / length)


def by_products(by_token, length, goal):
    return [math.prod([a] * length) for a in by_token.tolist()], goal ** (1 / length)


def by_fractions(lengths, batch, tokens):
    return math.floor(Fraction(tokens * len(lengths), batch * sum(lengths)))


def by_walks(p, m):
    won = 0.0
    for way in itertools.product((0, 1), repeat=m):
        k = sum(way)
        won += p**k * (1 - p) ** (m - k) * (1 if 2 * k > m else 0.5 if 2 * k == m else 0)
    return won


def by_entropy(student_logits, teacher_logits, own):
    q, p = student_logits.roll(1, 1).softmax(-1), teacher_logits.roll(1, 1).log_softmax(-1)
    far = torch.special.entr(q).sum(-1).neg() - (q * p).sum(-1)
    return (far * own).sum() / own.sum()


def by_loops(p, students):
    def kl(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a.tolist(), b.tolist(), strict=True))

    return [
        min(range(len(students)), key=lambda i: kl(p, students[i])),
        min(range(len(students)), key=lambda i: kl(students[i], p)),
    ]


def by_topk(p, q):
    n = max(len(p), len(q))
    a, b = (F.pad(x, (0, n - len(x))).topk(n).values for x in (p, q))
    return torch.dist(a, b, p=1)


def by_numpy_powers(by_token, length, goal):
    return np.power(by_token.numpy(), length), np.power(goal, 1.0 / length)


# --- wrong ---


def many(size, end=math.floor):
    return lambda lengths, batch, tokens: end(tokens / size(lengths, batch))


def poll(right, tie=0.5):
    return lambda p, m: float(
        sum(
            binom.pmf(k, m, p) * (1 if right(k, m) else tie if 2 * k == m else 0)
            for k in range(m + 1)
        )
    )


def far(way="reverse", mask=True, shift=1, norm=True, reduce="mean", hold=False):
    def answer(student_logits, teacher_logits, own):
        found = []
        for row in range(own.shape[0]):
            for t in range(shift, own.shape[1]):
                if own[row, t] or not mask:
                    q = student_logits[row, t - shift].log_softmax(0)
                    p = teacher_logits[row, t - shift]
                    p = p.log_softmax(0) if norm else p
                    w = (q if way == "reverse" else p).exp()
                    found.append(
                        (
                            (w.detach() if hold else w) * ((q - p) if way == "reverse" else (p - q))
                        ).sum()
                    )
        return getattr(torch.stack(found), reduce)()

    return answer


def apart(sort=sorted, cut=False, power=1, scale=1.0, other=None):
    def answer(p, q):
        a, b = list(sort(p.tolist())), list((other or sort)(q.tolist()))
        n = min(len(a), len(b)) if cut else max(len(a), len(b))
        a, b = ([*x, *[0.0] * n][:n] for x in (a, b))
        return scale * sum(abs(x - y) ** power for x, y in zip(a, b, strict=True))

    return answer


def down(x):
    return sorted(x, reverse=True)


def take(one, two, best=np.argmin):
    return lambda p, students: [
        int(best([float(f(p, q).sum()) for q in students])) for f in (one, two)
    ]


def fwd(p, q):
    return p * (p.log() - q.log())


def rev(p, q):
    return q * (q.log() - p.log())


RIGHT = {
    "llm_distillation.steps": [by_counting, by_tensor, by_fractions],
    "llm_distillation.vote": [by_scipy, by_convolution, by_walks],
    "llm_distillation.on_policy": [by_kl_div, by_places, by_entropy],
    "llm_distillation.which": [by_cross_entropy, by_numpy, by_loops],
    "llm_distillation.uld": [by_lists, by_transport, by_topk],
    "llm_distillation.leap": [by_logs, by_products, by_numpy_powers],
}
WRONG = {
    "llm_distillation.steps": [
        (many(lambda x, b: np.mean(x)), "per_text"),
        (many(lambda x, b: b * max(x)), "longest"),
        (many(lambda x, b: b * min(x)), "shortest"),
        (many(lambda x, b: b * np.mean(x), math.ceil), "rounded_up"),
        (many(lambda x, b: b * np.mean(x), round), "rounded"),
        (many(lambda x, b: b * sum(x)), "total"),
        (many(lambda x, b: b), None),
    ],
    "llm_distillation.vote": [
        (poll(lambda k, m: 2 * k >= m), "tie_is_right"),
        (poll(lambda k, m: 2 * k > m, tie=0), "tie_is_wrong"),
        (
            lambda p, m: sum(
                p**k * (1 - p) ** (m - k) * (1 if 2 * k > m else 0.5 if 2 * k == m else 0)
                for k in range(m + 1)
            ),
            "orders_forgotten",
        ),
        (
            lambda p, m: sum(
                math.comb(m, k) * p**k * (1 if 2 * k > m else 0.5 if 2 * k == m else 0)
                for k in range(m + 1)
            ),
            "others_forgotten",
        ),
        (lambda p, m: math.prod([p] * m), "all_of_them"),
        (lambda p, m: 1 - math.prod([1 - p] * m), "one_is_enough"),
        (poll(lambda k, m: k == m // 2 + 1), "exactly_half_and_one"),
        (lambda p, m: p, "single_vote"),
        (lambda p, m: 1.0, None),
    ],
    "llm_distillation.on_policy": [
        (far(way="forward"), "directions_swapped"),
        (far(mask=False), "padding_scored"),
        (far(norm=False), "teacher_unnormalized"),
        (far(shift=0), "not_shifted"),
        (far(reduce="sum"), "summed"),
        (far(hold=True), "weights_detached"),
        (lambda student_logits, teacher_logits, own: student_logits.sum() * 0, None),
    ],
    "llm_distillation.which": [
        (take(rev, fwd), "directions_swapped"),
        (take(fwd, rev, np.argmax), "largest"),
        (take(fwd, fwd), "forward_twice"),
        (take(rev, rev), "reverse_twice"),
        (take(lambda p, q: p.log() - q.log(), lambda p, q: q.log() - p.log()), "unweighted"),
    ],
    "llm_distillation.uld": [
        (apart(sort=list), "unsorted"),
        (apart(sort=sorted, other=down), "opposite_orders"),
        (apart(sort=sorted), "smallest_first"),
        (apart(sort=down, cut=True), "rest_cut"),
        (apart(sort=down, power=2), "squared"),
        (apart(sort=down, scale=0.5), "halved"),
        (lambda p, q: 0.0, None),
    ],
    "llm_distillation.leap": [
        (
            lambda by_token, length, goal: (
                torch.clamp(1 - length * (1 - by_token), 0),
                goal ** (1 / length),
            ),
            "multiplied",
        ),
        (lambda by_token, length, goal: (by_token, goal ** (1 / length)), "one_token"),
        (lambda by_token, length, goal: (by_token**length, goal / length), "need_divided"),
        (lambda by_token, length, goal: (by_token**length, goal**length), "need_powered"),
        (
            lambda by_token, length, goal: (by_token ** (length - 1), goal ** (1 / length)),
            "one_token_less",
        ),
        (lambda by_token, length, goal: (by_token * 0, 0.0), None),
    ],
}
