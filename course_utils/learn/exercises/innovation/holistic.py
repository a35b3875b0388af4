"""Lesson 5.8: what a round of drafts keeps, whether drafting pays, a threshold from validation, a
choice from measured rows.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise
from course_utils.systems.cascade import upper_bound
from course_utils.systems.speculative import expected_tokens

from ..draws import pick, turn, until

LESSON = "5.8-holistic"

# --- a round ---


def round_of(rng: torch.Generator) -> dict:
    """Drafts that are all taken, fail at once, or fail in the middle; a drafted token of which the
    draft was less sure than the target.
    """

    def make(rng):
        k, words = pick(rng, 2, 3), 5
        q = (1.5 * torch.randn(k, words, generator=rng, dtype=torch.float64)).softmax(-1)
        p = (1.5 * torch.randn(k + 1, words, generator=rng, dtype=torch.float64)).softmax(-1)
        tokens = [int(torch.multinomial(row, 1, generator=rng)) for row in q]
        return {
            "p": p,
            "q": q,
            "tokens": tokens,
            "u": torch.rand(k, generator=rng, dtype=torch.float64).tolist(),
            "cached": pick(rng, 7, 12),
        }

    wanted = turn(rng, "all", "middle", "first")

    def good(given):
        ratios = [float(given["p"][i, t] / given["q"][i, t]) for i, t in enumerate(given["tokens"])]
        if any(abs(u - x) < 0.01 for u, x in zip(given["u"], ratios, strict=True)):
            return False
        taken = accept(**given)[0]
        if (taken == 0, taken == len(ratios)) != (wanted == "first", wanted == "all"):
            return False
        sure = [int(given["p"][i].argmax()) == t for i, t in enumerate(given["tokens"])]
        if (
            accept_with(take=lambda p, q, t, u: u < p[t])(**given)[0]
            == accept_with(take=lambda p, q, t, u: int(p.argmax()) == t)(**given)[0]
        ):
            return False
        later = any(
            u < x for u, x in zip(given["u"][taken + 1 :], ratios[taken + 1 :], strict=True)
        )
        return (
            (wanted == "all" and not all(sure))
            or (wanted == "middle" and (later or taken == len(ratios) - 1))
            or (wanted == "first" and later)
        )

    return until(rng, make, good)


def accept(
    p: Tensor, q: Tensor, tokens: list[int], u: list[float], cached: int
) -> tuple[int, Tensor, int]:
    """(accepted, distribution of the token that follows, tokens whose keys and values stay)."""
    for i, token in enumerate(tokens):
        if u[i] * q[i, token] >= p[i, token]:
            left = (p[i] - q[i]).clamp(min=0)
            return i, left / left.sum(), cached + i
    return len(tokens), p[len(tokens)], cached + len(tokens)


def _clipped(p: Tensor, q: Tensor) -> Tensor:
    left = (p - q).clamp(min=0)
    return left / left.sum()


def accept_with(
    take=lambda p, q, t, u: u * q[t] < p[t],
    rest=_clipped,
    bonus=lambda p, q: p[-1],
    keep=lambda n, i, k: n + i,
    first=True,
):
    def answer(p, q, tokens, u, cached):
        said = [bool(take(p[i], q[i], t, u[i])) for i, t in enumerate(tokens)]
        i = said.index(False) if False in said else len(tokens)
        follows = bonus(p, q) if i == len(tokens) else rest(p[i], q[i])
        return (i if first else sum(said)), follows, keep(cached, i, len(tokens))

    return answer


# --- does it pay ---


def offer(rng: torch.Generator) -> dict:
    kind = turn(rng, "long", "short", "never")
    low, high = {"long": (0.88, 0.97), "short": (0.6, 0.8), "never": (0.3, 0.6)}[kind]
    alpha = low + (high - low) * float(torch.rand((), generator=rng))
    return {
        "alpha": round(alpha, 3),
        "c": round(
            {"long": 0.05, "short": 0.2, "never": 0.8}[kind]
            * (0.8 + 0.3 * float(torch.rand((), generator=rng))),
            3,
        ),
        "most": 8,
    }


def pays(alpha: float, c: float, most: int) -> tuple[int, float]:
    """(k, speed-up): the k from 0 to `most` with the largest speed-up; 0 is plain decoding, 1
    times.
    """
    gains = [expected_tokens(alpha, k) / (k * c + 1) for k in range(most + 1)]
    return gains.index(max(gains)), max(gains)


def pays_with(
    tokens=expected_tokens, cost=lambda c, k: k * c + 1, start=0, by=lambda gain, tokens: gain
):
    def answer(alpha, c, most):
        found = [
            (k, tokens(alpha, k), tokens(alpha, k) / cost(c, k)) for k in range(start, most + 1)
        ]
        k, _, gain = max(found, key=lambda f: by(f[2], f[1]))
        return k, gain

    return answer


# --- a threshold ---


def validation(rng: torch.Generator) -> dict:
    """Validation answers with ties at thresholds, some that both models get wrong; sometimes
    nothing may be answered.
    """

    def make(rng):
        n = pick(rng, 40, 60)
        grid = [i / 10 for i in range(10, 2, -1)]
        confidence = (torch.rand(n, generator=rng, dtype=torch.float64) * 14 + 6).round() / 20
        small = torch.rand(n, generator=rng, dtype=torch.float64) < 0.35 + 0.65 * confidence**2
        large = torch.rand(n, generator=rng, dtype=torch.float64) < 0.75
        risk = 0.01 if none else pick(rng, 0.1, 0.12, 0.15)
        return {
            "confidence": confidence,
            "small": small,
            "large": large,
            "grid": grid,
            "bound": [upper_bound(lost, n) for lost in range(n + 1)],
            "risk": risk,
        }

    none = turn(rng, False, False, False, True)
    wrong = ("no_bound", "both_wrong", "of_those_answered", "strict")

    def good(given):
        right = threshold(**given)
        return (right[0] == math.inf) == none and (
            none or sum(threshold_with(**WAYS[w])(**given) != right for w in wrong) >= 3
        )

    return until(rng, make, good)


def threshold(
    confidence: Tensor,
    small: Tensor,
    large: Tensor,
    grid: list[float],
    bound: list[float],
    risk: float,
) -> tuple[float, float]:
    """(threshold, share passed on): the lowest t of the falling grid up to which every bound of the
    lost share is ≤ risk; (inf, 1) where none is.
    """
    return threshold_with()(confidence, small, large, grid, bound, risk)


def threshold_with(
    harm=lambda small, large: ~small & large, above=lambda c, t: c >= t,
    limit=lambda lost, stays, bound: bound[lost], last=True, share=lambda stays:
        float((~stays).double().mean()), none=math.inf
):  # fmt: skip
    def answer(confidence, small, large, grid, bound, risk):
        chosen = none
        for t in grid:
            stays = above(confidence, t)
            lost = int((harm(small, large) & stays).sum())
            if limit(lost, stays, bound) > risk:
                break
            chosen = t
            if not last:
                break
        return chosen, share(above(confidence, chosen))

    return answer


WAYS: dict = {
    "no_bound": {"limit": lambda lost, stays, bound: lost / len(stays)},
    "both_wrong": {"harm": lambda small, large: ~small},
    "of_those_answered": {"limit": lambda lost, stays, bound: lost / max(1, int(stays.sum()))},
    "strict": {"above": lambda c, t: c > t},
    "the_strictest": {"last": False},
    "share_kept": {"share": lambda stays: float(stays.double().mean())},
    "disagreement": {"harm": lambda small, large: small != large},
    "none_is_one": {"none": 1.0},
}

# --- a choice ---


def table(rng: torch.Generator) -> dict:
    """Rows with equal ones or one that is only larger, a dominated one, one of another protocol
    that looks best, and one that fits only without its embedding.
    """

    def make(rng):
        n = pick(rng, 7, 8)
        rows: list[dict] = [{"blocks": int(torch.randint(4, 13, (), generator=rng)) * 100,
                             "embedding": pick(rng, 100, 300),
                             "kl": int(torch.randint(2, 12, (), generator=rng)) / 100,
                 "windows": 16 if i == other else 64} for i in range(n)]  # fmt: skip
        if twice:
            rows[-1] = dict(rows[0])
        else:  # as good as the best, and larger
            least = min(rows[:-1], key=lambda r: (r["windows"] != 64, r["kl"]))
            rows[-1] = {**least, "blocks": least["blocks"] + 100}
        if pick(rng, True, False):
            rows.reverse()  # of equal divergence the larger one stands first
        return {"rows": rows, "budget": pick(rng, 900, 1000, 1100) if fits else 300, "windows": 64}

    twice, fits, other = turn(rng, True, False), turn(rng, True, True, True, False), pick(rng, 2, 3)
    wrong = ("without_embedding", "mixed_protocols", "dominated_kept", "smallest_that_fits")

    def good(given):
        right = choose(**given)
        apart = sum(choose_with(**PICKS[w])(**given) != right for w in wrong) >= (3 if fits else 2)
        return (
            (right[1] is not None) == fits
            and len(right[0]) >= 2
            and apart
            and (not twice or 0 in right[0])
        )

    return until(rng, make, good)


def choose(rows: list[dict], budget: float, windows: int) -> tuple[list[int], int | None]:
    """(front, choice): indices of the rows of this protocol that no other beats, in rising order;
    of these the least kl within the budget, then the first.
    """
    return choose_with()(rows, budget, windows)


def choose_with(
    size=lambda r: r["blocks"] + r["embedding"],
    same=lambda r, w: r["windows"] == w,
    kept="front",
    ties=True,
    best=lambda r, s: r["kl"],
    within=lambda s, b: s <= b,
):
    def answer(rows, budget, windows):
        asked = [i for i, r in enumerate(rows) if same(r, windows)]

        def beats(a, b):
            x, y = (size(rows[a]), rows[a]["kl"]), (size(rows[b]), rows[b]["kl"])
            return x[0] <= y[0] and x[1] <= y[1] and (x != y or (not ties and a < b))

        front = [
            i for i in asked if kept != "front" or not any(beats(j, i) for j in asked if j != i)
        ]
        fit = [i for i in front if within(size(rows[i]), budget)]
        return front, min(fit, key=lambda i: (best(rows[i], size(rows[i])), i)) if fit else None

    return answer


PICKS: dict = {
    "without_embedding": {"size": lambda r: r["blocks"]},
    "mixed_protocols": {"same": lambda r, w: True},
    "dominated_kept": {"kept": "all"},
    "ties_dropped": {"ties": False},
    "smallest_that_fits": {"best": lambda r, s: s},
    "budget_ignored": {"within": lambda s, b: True},
    "product": {"best": lambda r, s: r["kl"] * s},
}

EXERCISES = [
    Exercise(
        "holistic.accept", round_of, accept,
        {
            "argmax": accept_with(take=lambda p, q, t, u: int(p.argmax()) == t),
            "ratio_turned": accept_with(take=lambda p, q, t, u: u * p[t] < q[t]),
            "target_alone": accept_with(take=lambda p, q, t, u: u < p[t]),
            "unclipped": accept_with(rest=lambda p, q: (p - q).abs() / (p - q).abs().sum()),
            "not_normalized": accept_with(rest=lambda p, q: (p - q).clamp(min=0)),
            "from_target": accept_with(rest=lambda p, q: p),
            "no_bonus": accept_with(bonus=lambda p, q: q[-1]),
            "last_judged": accept_with(bonus=lambda p, q: p[-2]),
            "not_rolled_back": accept_with(keep=lambda n, i, k: n + k),
            "follower_cached": accept_with(keep=lambda n, i, k: n + i + 1),
            "goes_on": accept_with(first=False),
        },
        lesson=LESSON, kind="step", difficulty=3, minutes=9, trials=12,
    ),
    Exercise(
        "holistic.pays", offer, pays,
        {
            "most_tokens": pays_with(by=lambda gain, tokens: tokens),
            "target_free": pays_with(cost=lambda c, k: max(k * c, c)),
            "draft_free": pays_with(cost=lambda c, k: 1.0),
            "always_drafts": pays_with(start=1),
            "no_bonus": pays_with(tokens=lambda a, k: sum(a**j for j in range(k)) if k else 1.0),
            "expected_only": pays_with(tokens=lambda a, k: 1 + k * a),
            "all_or_none": pays_with(tokens=lambda a, k: 1 + k * a**k),
        },
        lesson=LESSON, kind="confirm", difficulty=1, minutes=5, trials=6,
    ),
    Exercise(
        "holistic.threshold", validation, threshold,
        {name: threshold_with(**way) for name, way in WAYS.items()},
        lesson=LESSON, kind="design", difficulty=2, minutes=8, trials=12,
    ),
    Exercise(
        "holistic.choose", table, choose,
        {name: choose_with(**way) for name, way in PICKS.items()},
        lesson=LESSON, kind="decide", difficulty=2, minutes=8, trials=8,
    ),
]  # fmt: skip
