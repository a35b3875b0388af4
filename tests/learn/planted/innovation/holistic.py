"""Right and wrong answers to the exercises of holistic."""

import math

import numpy as np
import torch

# --- a round ---


def by_numpy(p, q, tokens, u, cached):
    p, q = p.numpy(), q.numpy()
    taken = 0
    while taken < len(tokens) and u[taken] < min(
        1.0, p[taken, tokens[taken]] / q[taken, tokens[taken]]
    ):
        taken += 1
    if taken == len(tokens):
        return taken, p[-1], cached + taken
    rest = np.maximum(p[taken] - q[taken], 0)
    return taken, rest / np.sum(rest), cached + taken


def by_overlap(p, q, tokens, u, cached):
    extended = torch.cat([q, torch.zeros_like(p[:1])])
    fails = [i for i, t in enumerate(tokens) if u[i] * float(q[i, t]) >= float(p[i, t])]
    i = min(fails, default=len(tokens))
    follows = p[i] - torch.minimum(p[i], extended[i])
    return i, (follows / follows.sum()).tolist(), cached + i


def by_recursion(p, q, tokens, u, cached, at=0):
    if at == len(tokens):
        return at, tuple(p[at].tolist()), cached + at
    x = tokens[at]
    if u[at] < p[at][x] / q[at][x]:
        return by_recursion(p, q, tokens, u, cached, at + 1)
    rest = [max(0.0, float(a - b)) for a, b in zip(p[at], q[at], strict=True)]
    return at, [r / sum(rest) for r in rest], cached + at


def kept(take=None, rest=None, bonus=None, keep=None):
    def answer(p, q, tokens, u, cached):
        n = 0
        for i, t in enumerate(tokens):
            ok = u[i] < float(p[i, t] / q[i, t]) if take is None else take(p[i], q[i], t, u[i])
            if not ok:
                break
            n += 1
        if n == len(tokens):
            follows = p[n] if bonus is None else bonus(p, q)
        else:
            d = p[n] - q[n]
            follows = d.relu() / d.relu().sum() if rest is None else rest(p[n], q[n])
        return n, follows, cached + n if keep is None else keep(cached, n, len(tokens))

    return answer


def all_judged(p, q, tokens, u, cached):
    good = [u[i] < float(p[i, t] / q[i, t]) for i, t in enumerate(tokens)]
    first = next((i for i, g in enumerate(good) if not g), len(tokens))
    _, follows, stays = by_numpy(p, q, tokens, u, cached)
    return sum(good), follows, cached + first


# --- does it pay ---


def closed(alpha, c, most):
    gains = [(1 - alpha ** (k + 1)) / (1 - alpha) / (1 + c * k) for k in range(most + 1)]
    return gains.index(max(gains)), max(gains)


def running(alpha, c, most):
    best, gain, tokens, power = 0, 1.0, 1.0, 1.0
    for k in range(1, most + 1):
        power *= alpha
        tokens += power
        if tokens / (k * c + 1) > gain:
            best, gain = k, tokens / (k * c + 1)
    return best, gain


def by_tensor(alpha, c, most):
    k = torch.arange(most + 1, dtype=torch.float64)
    gain = torch.cumsum(alpha**k, 0) / (c * k + 1)
    return gain.argmax(), gain.max()


def gaining(tokens=None, cost=None, ks=0, most_tokens=False):
    def answer(alpha, c, most):
        found = []
        for k in range(ks, most + 1):
            n = (1 - alpha ** (k + 1)) / (1 - alpha) if tokens is None else tokens(alpha, k)
            found.append((n / (k * c + 1 if cost is None else cost(k, c)), k, n))
        gain, k, _ = max(found, key=lambda f: f[2 if most_tokens else 0])
        return k, gain

    return answer


# --- a threshold ---


def by_loop(confidence, small, large, grid, bound, risk):
    n, answer = len(confidence), math.inf
    for t in grid:
        lost = sum(1 for i in range(n) if confidence[i] >= t and not small[i] and large[i])
        if not bound[lost] <= risk:
            break
        answer = t
    return answer, sum(1 for i in range(n) if confidence[i] < answer) / n


def by_array(confidence, small, large, grid, bound, risk):
    c, harm = confidence.numpy(), np.logical_and(~small.numpy(), large.numpy())
    passes = np.array([bound[int(harm[c >= t].sum())] <= risk for t in grid])
    good = int(np.argmin(np.append(passes, False)))
    t = grid[good - 1] if good else np.inf
    return t, np.mean(c < t)


def by_counting(confidence, small, large, grid, bound, risk):
    pairs = list(zip(confidence.tolist(), small.tolist(), large.tolist(), strict=True))
    allowed = max((j for j in range(len(bound)) if bound[j] <= risk), default=-1)
    fine = [t for t in grid if sum(c >= t and b and not a for c, a, b in pairs) <= allowed]
    t = min(fine, default=float("inf"))
    return t, sum(c < t for c, _, _ in pairs) / len(pairs)


def lowest(harm=None, limit=None, strict=False, first=False, kept=False, none=math.inf):
    def answer(confidence, small, large, grid, bound, risk):
        above = (lambda t: confidence > t) if strict else (lambda t: confidence >= t)
        bad = (~small & large) if harm is None else harm(small, large)
        t = none
        for now in grid:
            lost = int((bad & above(now)).sum())
            if (bound[lost] if limit is None else limit(lost, above(now))) > risk:
                break
            t = now
            if first:
                break
        share = float(above(t).double().mean())
        return t, share if kept else 1 - share

    return answer


# --- a choice ---


def by_sorting(rows, budget, windows):
    mine = [
        (r["blocks"] + r["embedding"], r["kl"], i)
        for i, r in enumerate(rows)
        if r["windows"] == windows
    ]
    front = []
    for size, kl, i in mine:
        smaller = [k for s, k, _ in mine if s < size]
        equal = [k for s, k, _ in mine if s == size]
        if kl <= min(equal) and (not smaller or kl < min(smaller)):
            front.append(i)
    fit = sorted((kl, i) for size, kl, i in mine if i in front and size <= budget)
    return front, fit[0][1] if fit else None


def by_matrix(rows, budget, windows):
    cost = np.array([[r["blocks"] + r["embedding"], r["kl"]] for r in rows])
    ok = np.array([r["windows"] == windows for r in rows])
    beaten = (
        (cost[None] <= cost[:, None]).all(2) & (cost[None] < cost[:, None]).any(2) & ok[None]
    ).any(1)
    front = np.flatnonzero(ok & ~beaten)
    fit = [i for i in front if cost[i, 0] <= budget]
    return front.tolist(), int(fit[int(np.argmin(cost[fit, 1]))]) if len(fit) else None


def by_pairs(rows, budget, windows):
    size = lambda r: r["embedding"] + r["blocks"]  # noqa: E731
    front = []
    for i, r in enumerate(rows):
        rivals = [o for o in rows if o["windows"] == windows]
        worse = any(
            (size(o) < size(r) and o["kl"] <= r["kl"]) or (size(o) <= size(r) and o["kl"] < r["kl"])
            for o in rivals
        )
        if r["windows"] == windows and not worse:
            front.append(i)
    choice = None
    for i in front:
        if size(rows[i]) <= budget and (choice is None or rows[i]["kl"] < rows[choice]["kl"]):
            choice = i
    return front, choice


def taken(size=None, windows_count=True, front=True, equal=True, least=None, budgeted=True):
    def answer(rows, budget, windows):
        weigh = (lambda r: r["blocks"] + r["embedding"]) if size is None else size
        asked = [i for i, r in enumerate(rows) if r["windows"] == windows or not windows_count]
        costs = {i: (weigh(rows[i]), rows[i]["kl"]) for i in asked}
        on = []
        for i in asked:
            others = [
                costs[j]
                for j in asked
                if j != i and (costs[j] != costs[i] or (not equal and j < i))
            ]
            if not front or not any(a <= costs[i][0] and b <= costs[i][1] for a, b in others):
                on.append(i)
        fit = [i for i in on if costs[i][0] <= budget or not budgeted]
        return on, min(
            fit, key=lambda i: costs[i][1] if least is None else least(costs[i])
        ) if fit else None

    return answer


RIGHT = {
    "holistic.accept": [by_numpy, by_overlap, by_recursion],
    "holistic.pays": [closed, running, by_tensor],
    "holistic.threshold": [by_loop, by_array, by_counting],
    "holistic.choose": [by_sorting, by_matrix, by_pairs],
}
WRONG = {
    "holistic.accept": [
        (kept(take=lambda p, q, t, u: t == int(p.argmax())), "argmax"),
        (kept(take=lambda p, q, t, u: u < float(q[t] / p[t])), "ratio_turned"),
        (kept(take=lambda p, q, t, u: u < float(p[t])), "target_alone"),
        (kept(rest=lambda p, q: (p - q).abs() / (p - q).abs().sum()), "unclipped"),
        (kept(rest=lambda p, q: (p - q).relu()), "not_normalized"),
        (kept(rest=lambda p, q: p), "from_target"),
        (kept(bonus=lambda p, q: q[len(q) - 1]), "no_bonus"),
        (kept(bonus=lambda p, q: p[len(q) - 1]), "last_judged"),
        (kept(keep=lambda n, i, k: n + k), "not_rolled_back"),
        (kept(keep=lambda n, i, k: n + i + 1), "follower_cached"),
        (all_judged, "goes_on"),
        (kept(rest=lambda p, q: (q - p).relu() / (q - p).relu().sum()), None),
    ],
    "holistic.pays": [
        (gaining(most_tokens=True), "most_tokens"),
        (gaining(cost=lambda k, c: max(k, 1) * c), "target_free"),
        (gaining(cost=lambda k, c: 1.0), "draft_free"),
        (gaining(ks=1), "always_drafts"),
        (gaining(tokens=lambda a, k: (1 - a**k) / (1 - a) if k else 1.0), "no_bonus"),
        (gaining(tokens=lambda a, k: 1 + a * k), "expected_only"),
        (gaining(tokens=lambda a, k: 1 + a**k * k), "all_or_none"),
        (lambda alpha, c, most: (most, 1.0), None),
    ],
    "holistic.threshold": [
        (lowest(limit=lambda lost, above: lost / len(above)), "no_bound"),
        (lowest(harm=lambda small, large: ~small), "both_wrong"),
        (lowest(limit=lambda lost, above: lost / max(1, int(above.sum()))), "of_those_answered"),
        (lowest(strict=True), "strict"),
        (lowest(first=True), "the_strictest"),
        (lowest(kept=True), "share_kept"),
        (lowest(harm=lambda small, large: small ^ large), "disagreement"),
        (lowest(none=1.0), "none_is_one"),
        (lambda confidence, small, large, grid, bound, risk: (0.5, 0.0), None),
    ],
    "holistic.choose": [
        (taken(size=lambda r: r["blocks"]), "without_embedding"),
        (taken(windows_count=False), "mixed_protocols"),
        (taken(front=False), "dominated_kept"),
        (taken(equal=False), "ties_dropped"),
        (taken(least=lambda c: c[0]), "smallest_that_fits"),
        (taken(budgeted=False), "budget_ignored"),
        (taken(least=lambda c: c[0] * c[1]), "product"),
        (lambda rows, budget, windows: ([], None), None),
    ],
}
