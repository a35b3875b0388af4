"""Which channels go together?

Pruning as a quadratic problem of zeros and ones (QUBO), and ways to search it.

A layer's output is the sum over its inputs of h_i w_i, w_i the column of W that reads channel i.
Without the channels marked in s (1 = removed) it misses Σ_i s_i h_i w_i, whose mean square is

    E(s) = sᵀ Q s,      Q = E[h hᵀ] ∘ (Wᵀ W),      Σ_i s_i = r

The diagonal is what each channel costs alone; the rest says how two of them add up or cancel. With
the count as a penalty, E(s) + P (Σ s − r)², it has the form that quantum annealers take (Lucas,
2014). **Everything here is classical**: simulated annealing (Kirkpatrick et al., 1983) is a random
walk that sometimes goes uphill, and no quantum machine is involved.
Searches give (n,) bool, True = removed, and look at Q alone. All are seeded.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from course_utils.errors import CompressionError

BRUTE = 20  # channels: more than a million subsets are not tried


def matrix(weight: Tensor, H: Tensor) -> Tensor:
    """Q (n, n) in double precision from W (out, n) and H = (2/N) XᵀX (n, n), the second moment that
    structured pruning takes.
    """
    if H.shape != (weight.shape[1],) * 2:
        raise CompressionError(
            f"H: shape {tuple(H.shape)}; the layer has {weight.shape[1]} inputs, "
            f"so give ({weight.shape[1]}, {weight.shape[1]})."
        )
    W = weight.detach().double()
    return H.double() / 2 * (W.T @ W)


def energy(Q: Tensor, removed: Tensor) -> float:
    """sᵀ Q s: the mean square of what is missing."""
    s = removed.to(Q.dtype)
    return float(s @ Q @ s)


def penalized(Q: Tensor, remove: int, strength: float) -> tuple[Tensor, float]:
    """(Q′, c) with sᵀQ′s + c = sᵀQs + P (Σ s − r)² for every s of zeros and ones: no count has to
    be watched any more.

    (Σs − r)² = Σ_i (1 − 2r) s_i + 2 Σ_{i<j} s_i s_j + r², since s_i² = s_i. P must exceed what a
    wrong count can win.
    """
    n, _ = _checked(Q, remove)
    return Q + strength * (
        torch.ones_like(Q) - 2 * remove * torch.eye(n, dtype=Q.dtype)
    ), strength * remove**2


def brute_force(Q: Tensor, remove: int) -> Tensor:
    """The best of all subsets. Raises CompressionError for more than 20 channels."""
    n, _ = _checked(Q, remove)
    if n > BRUTE:
        raise CompressionError(
            f"Q: {n} channels have too many subsets; brute force takes up to {BRUTE}."
        )
    sets = torch.tensor(list(itertools.combinations(range(n), remove)), dtype=torch.long).reshape(
        -1, remove
    )
    s = torch.zeros(len(sets), n, dtype=Q.dtype).scatter_(1, sets, 1.0)
    return s[((s @ Q) * s).sum(1).argmin()] > 0


def diagonal(Q: Tensor, remove: int) -> Tensor:
    """The channels that cost least alone: the 'energy' score of structured pruning."""
    n, _ = _checked(Q, remove)
    return _marked(Q.diagonal().argsort(stable=True)[:remove], n)


def greedy(Q: Tensor, remove: int) -> Tensor:
    """One channel after the other, each time the one that adds least to what is missing already."""
    n, _ = _checked(Q, remove)
    cost, gone = Q.diagonal().clone(), torch.zeros(n, dtype=torch.bool)
    for _ in range(remove):
        i = int(cost.masked_fill(gone, math.inf).argmin())
        gone[i] = True
        cost += 2 * Q[i]
    return gone


def descend(Q: Tensor, start: Tensor) -> Tensor:
    """Exchange a removed channel for one that stays, always the best such swap, until no swap
    helps.
    """
    s, d = start.clone(), Q.diagonal()
    while True:
        f = Q @ s.to(Q.dtype)
        change = (d - 2 * f)[:, None] + (d + 2 * f)[None] - 2 * Q  # [i, j]: i comes back, j goes
        change = change.masked_fill(~(s[:, None] & ~s[None]), math.inf)
        best = int(change.argmin())
        if not change.flatten()[best] < -1e-12 * float(d.abs().max()):
            return s
        s[best // len(s)], s[best % len(s)] = False, True


def restarts(Q: Tensor, remove: int, *, times: int = 20, seed: int = 0) -> Tensor:
    """The best of `times` descents from subsets drawn by chance."""
    n, rng = _checked(Q, remove, seed)
    ends = [descend(Q, _marked(torch.randperm(n, generator=rng)[:remove], n)) for _ in range(times)]
    return min(ends, key=lambda s: energy(Q, s))


def anneal(
    Q: Tensor,
    remove: int,
    *,
    steps: int = 20_000,
    hot: float | None = None,
    cold: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Simulated annealing by swaps, which keep the count: a swap that costs ΔE is taken with
    probability min(1, e^(−ΔE/T)).

    T falls geometrically from `hot` to `cold`; by default from the median of the diagonal to a
    thousandth of it (a mean would be that of a few loud channels).
    `steps` swaps are tried; the best subset that was visited is given back.
    """
    n, rng = _checked(Q, remove, seed)
    if steps < 1 or remove in (0, n):
        return _marked(torch.arange(remove), n)
    matrix, chance = Q.numpy(), np.random.default_rng(int(torch.randint(2**31, (), generator=rng)))
    order = chance.permutation(n)
    inside, outside = order[:remove].copy(), order[remove:].copy()
    s = np.zeros(n)
    s[inside] = 1
    f, d = matrix @ s, matrix.diagonal()

    def cost(i: int, j: int) -> float:
        return d[i] + d[j] + 2 * (f[j] - f[i] - matrix[i, j])

    draws_i, draws_j = chance.integers(remove, size=steps), chance.integers(n - remove, size=steps)
    usual = float(np.median(np.abs(d))) or 1.0
    hot, cold = usual if hot is None else hot, usual / 1000 if cold is None else cold
    now = best = 0.0
    kept, luck = inside.copy(), -np.log(chance.random(steps))
    for step, (a, b) in enumerate(zip(draws_i, draws_j, strict=True)):
        i, j = inside[a], outside[b]
        change = cost(i, j)
        if change <= luck[step] * hot * (cold / hot) ** (step / steps):
            inside[a], outside[b] = j, i
            f += matrix[j] - matrix[i]
            now += change
            if now < best:
                best, kept = now, inside.copy()
    return _marked(torch.from_numpy(kept), n)


SEARCHES: dict[str, Callable[..., Tensor]] = {
    "diagonal": diagonal, "greedy": greedy, "restarts": restarts, "anneal": anneal,
    "brute_force": brute_force,
}  # fmt: skip


def chooser(search: str = "greedy", **settings) -> Callable[[Tensor, Tensor, int], Tensor]:
    """choose(W, H, keep): the channels that stay, for `structured.prune_mlp(score=…)`, by one of
    the searches above.

    Raises CompressionError for an unknown search.
    """
    if search not in SEARCHES:
        raise CompressionError(f"search={search!r}: choose one of {', '.join(SEARCHES)}.")

    def choose(weight: Tensor, H: Tensor, keep: int) -> Tensor:
        Q = matrix(weight, H).cpu()
        return (~SEARCHES[search](Q, len(Q) - keep, **settings)).nonzero().flatten().to(H.device)

    choose.__name__ = f"qubo {search}"
    return choose


def split(weight: Tensor, H: Tensor, channels: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """(W, H) of a layer that computes the same with each of these channels twice: read by factor ·
    w and by (1 − factor) · w.

    Each half alone looks dear and removing both costs what the channel cost: a planted interaction.
    New channels come last.
    """
    W = torch.cat([weight, (1 - factor) * weight[:, channels]], 1)
    W[:, channels] *= factor
    source = torch.cat([torch.arange(weight.shape[1]), channels])
    return W, H[source][:, source]


def _marked(indices: Tensor, n: int) -> Tensor:
    found = torch.zeros(n, dtype=torch.bool)
    found[indices] = True
    return found


def _checked(Q: Tensor, remove: int, seed: int = 0) -> tuple[int, torch.Generator]:
    if Q.dim() != 2 or Q.shape[0] != Q.shape[1] or not torch.isfinite(Q).all():
        raise CompressionError(f"Q: shape {tuple(Q.shape)}; give a finite square matrix.")
    if not torch.allclose(Q, Q.T, rtol=1e-6, atol=1e-9 * float(Q.abs().max())):
        raise CompressionError(
            "Q: it is not symmetric; use (Q + Qᵀ) / 2, which has the same energies."
        )
    if isinstance(remove, bool) or not 0 <= remove <= len(Q):
        raise CompressionError(f"remove={remove}: choose a count from 0 to {len(Q)} channels.")
    return len(Q), torch.Generator().manual_seed(seed)
