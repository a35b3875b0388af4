"""Lesson 5.3: the weights of a rotated model, the fast Hadamard product, low rank by the outputs,
and what a budget buys.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn

LESSON = "5.3-rotations-and-codebooks"


def _orthogonal(n: int, rng: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, generator=rng, dtype=torch.float64)).Q


# --- the four weights of a rotated model ---


def small_model(rng: torch.Generator) -> dict:
    """A tied model: logits = E (g2 ⊙ norm(x + V f(W (g1 ⊙ norm(x))))) with x a row of E."""
    n, inner, words = pick(rng, 3, 4), pick(rng, 5, 6), 7
    E, W, V = (
        torch.randn(*s, generator=rng, dtype=torch.float64)
        for s in ((words, n), (inner, n), (n, inner))
    )
    gains = [0.3 + 2 * torch.rand(n, generator=rng, dtype=torch.float64) for _ in range(2)]
    return {
        "embedding": E,
        "gain": gains[0],
        "reader": W,
        "writer": V,
        "last_gain": gains[1],
        "Q": _orthogonal(n, rng),
    }


def rotate(
    embedding: Tensor, gain: Tensor, reader: Tensor, writer: Tensor, last_gain: Tensor, Q: Tensor
) -> tuple[Tensor, ...]:
    """(embedding, reader, writer, head) whose model, with all gains 1, computes the same: E Qᵀ, W
    diag(g1) Qᵀ, Q V, E diag(g2) Qᵀ.
    """
    return embedding @ Q.T, (reader * gain) @ Q.T, Q @ writer, (embedding * last_gain) @ Q.T


def rotate_with(
    e=lambda E, Q: E @ Q.T,
    w=lambda W, g, Q: (W * g) @ Q.T,
    v=lambda V, Q: Q @ V,
    h=lambda E, g, Q: (E * g) @ Q.T,
):
    def answer(embedding, gain, reader, writer, last_gain, Q):
        return e(embedding, Q), w(reader, gain, Q), v(writer, Q), h(embedding, last_gain, Q)

    return answer


# --- the fast product ---


def vectors(rng: torch.Generator) -> dict:
    n = turn(rng, 4, 8, 2, 16)
    return {"x": torch.randn(pick(rng, 2, 3), n, generator=rng, dtype=torch.float64)}


def hadamard(x: Tensor) -> Tensor:
    """H x for each row, H = [[H, H], [H, −H]] doubled up from [1], divided by √n."""
    n = x.shape[-1]
    H = torch.ones(1, 1, dtype=x.dtype)
    while len(H) < n:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return x @ H / math.sqrt(n)


def hadamard_with(
    scale=lambda n: n**-0.5,
    stages=lambda k: k,
    plus=1.0,
    minus=-1.0,
    half_of=lambda y, i: 2**i,
    along=-1,
):
    """`stages` of sums and differences of partners 2^i apart."""

    def answer(x):
        y = x if along == -1 else x.T
        n = y.shape[-1]
        k = max(0, (n - 1).bit_length())
        for i in range(stages(k)):
            h = half_of(y, i)
            if n % (2 * h):
                break
            z = y.reshape(len(y), -1, 2, h)
            a, b = z[:, :, 0], z[:, :, 1]
            y = torch.stack([a + plus * b, a + minus * b], 2).reshape(y.shape)
        y = y * scale(n)
        return y if along == -1 else y.T

    return answer


# --- low rank by the outputs ---


def layer_and_inputs(rng: torch.Generator) -> dict:
    """A small layer, inputs some of which are loud; every other trial has fewer tokens than
    channels, so that H alone is singular.
    """
    out, inputs = pick(rng, 4, 5), 6
    tokens = turn(rng, 40, 4)
    X = torch.randn(tokens, inputs, generator=rng, dtype=torch.float64) @ torch.randn(
        inputs, inputs, generator=rng, dtype=torch.float64
    )
    X = X * torch.tensor([4.0, 1.0, 1.0, 0.3, 1.0, 2.0], dtype=torch.float64)
    W = torch.randn(out, inputs, generator=rng, dtype=torch.float64)
    return {"W": W, "X": X, "rank": pick(rng, 1, 2, 3), "ridge": pick(rng, 0.05, 0.2)}


def whitened(W: Tensor, X: Tensor, rank: int, ridge: float) -> tuple[Tensor, float]:
    """(Ŵ, loss): W S truncated, times S⁻¹, with S Sᵀ = XᵀX + ridge I; loss = the sum of the dropped
    σ².
    """
    S = torch.linalg.cholesky(X.T @ X + ridge * torch.eye(X.shape[1], dtype=X.dtype))
    P, sigma, Qt = torch.linalg.svd(W @ S, full_matrices=False)
    cut = (P[:, :rank] * sigma[:rank]) @ Qt[:rank]
    return torch.linalg.solve_triangular(S, cut, upper=False, left=False), float(
        sigma[rank:].square().sum()
    )


def whitened_with(root=torch.linalg.cholesky, back=lambda M, S: M @ torch.linalg.inv(S),
                  loss=lambda s, r: s[r:].square().sum(), with_ridge=True, kept=lambda r:
                      slice(None, r)):  # fmt: skip
    def answer(W, X, rank, ridge):
        H = X.T @ X + (ridge if with_ridge else 1e-9) * torch.eye(X.shape[1], dtype=X.dtype)
        S = root(H)
        P, sigma, Qt = torch.linalg.svd(W @ S, full_matrices=False)
        part = kept(rank)
        return back((P[:, part] * sigma[part]) @ Qt[part], S), float(loss(sigma, rank))

    return answer


def plain_svd(W, X, rank, ridge):
    P, sigma, Qt = torch.linalg.svd(W, full_matrices=False)
    return (P[:, :rank] * sigma[:rank]) @ Qt[:rank], float(sigma[rank:].square().sum())


# --- what a budget buys ---


def budgets(rng: torch.Generator) -> dict:
    """Budgets that are exactly what a number of bits or a rank needs, or a byte less; generous
    ones, and too small ones for the scales.
    """
    rows, columns, group = (
        pick(rng, 256, 512, 768, 1024),
        pick(rng, 256, 512, 1024, 2048),
        pick(rng, 32, 64, 128),
    )
    weights, scales = rows * columns, rows * columns // group * 3
    budget = turn(
        rng,
        weights * pick(rng, 2, 3, 4, 5, 6, 8) // 8 + scales,
        int(weights / 8 * (2.5 + 6 * float(torch.rand((), generator=rng)))),
        2 * pick(rng, 31, 57, 90) * (rows + columns),
        int(weights * (1.25 + 0.5 * float(torch.rand((), generator=rng)))),
        weights * pick(rng, 3, 4, 5, 7) // 8 + scales - 1,
        scales // 2,
    )
    return {"rows": rows, "columns": columns, "budget": budget, "group": group}


def afford(rows: int, columns: int, budget: int, group: int) -> tuple[int, int]:
    """(rank, bits), the largest that fit into `budget` bytes: 2 r (rows + columns) bytes; b bits a
    weight and 3 bytes a group, b ≤ 8.
    """
    rank = budget // (2 * (rows + columns))
    scales = rows * columns // group * 3
    return rank, min(8, max(0, (budget - scales) * 8 // (rows * columns)))


def afford_with(
    numbers=lambda n, m: n + m,
    size=2,
    scales=lambda n, m, g: n * m // g * 3,
    most=8,
    bits_in=8,
    up=False,
):
    def answer(rows, columns, budget, group):
        each = size * numbers(rows, columns)
        rank = -(-budget // each) if up else budget // each
        left = (budget - scales(rows, columns, group)) * bits_in
        bits = -(-left // (rows * columns)) if up else left // (rows * columns)
        return int(rank), int(min(most, max(0, bits)))

    return answer


EXERCISES = [
    Exercise(
        "rotations.rotate",
        small_model,
        rotate,
        {
            "gain_unfolded": rotate_with(w=lambda W, g, Q: W @ Q.T, h=lambda E, g, Q: E @ Q.T),
            "head_still_tied": rotate_with(h=lambda E, g, Q: E @ Q.T),
            "head_not_rotated": rotate_with(h=lambda E, g, Q: E * g),
            "writer_other_way": rotate_with(v=lambda V, Q: Q.T @ V),
            "reader_other_way": rotate_with(w=lambda W, g, Q: (W * g) @ Q),
            "gain_after": rotate_with(
                w=lambda W, g, Q: (W @ Q.T) * g, h=lambda E, g, Q: (E @ Q.T) * g
            ),
            "embedding_left": rotate_with(e=lambda E, Q: E),
            "embedding_other_way": rotate_with(e=lambda E, Q: E @ Q),
        },
        lesson=LESSON,
        kind="step",
        difficulty=2,
        minutes=8,
        trials=4,
    ),
    Exercise(
        "rotations.hadamard",
        vectors,
        hadamard,
        {
            "unnormalized": hadamard_with(scale=lambda n: 1.0),
            "divided_by_n": hadamard_with(scale=lambda n: 1 / n),
            "one_stage_short": hadamard_with(stages=lambda k: k - 1),
            "no_minus": hadamard_with(minus=1.0),
            "minus_first": hadamard_with(plus=-1.0, minus=1.0),
            "as_given": hadamard_with(scale=lambda n: 1 / n, half_of=lambda y, i: 1),
        },
        lesson=LESSON,
        kind="debug",
        difficulty=2,
        minutes=6,
        trials=8,
    ),
    Exercise(
        "rotations.whitened",
        layer_and_inputs,
        whitened,
        {
            "plain": plain_svd,
            "not_undone": whitened_with(back=lambda M, S: M),
            "other_side": whitened_with(back=lambda M, S: M @ torch.linalg.inv(S).T),
            "upper_factor": whitened_with(root=lambda H: torch.linalg.cholesky(H).T),
            "moment_for_root": whitened_with(root=lambda H: H),
            "not_squared": whitened_with(loss=lambda s, r: s[r:].sum()),
            "kept_for_dropped": whitened_with(loss=lambda s, r: s[:r].square().sum()),
            "smallest_kept": whitened_with(
                kept=lambda r: slice(-r, None), loss=lambda s, r: s[:-r].square().sum()
            ),
            "no_ridge": whitened_with(with_ridge=False),
        },
        lesson=LESSON,
        kind="step",
        difficulty=3,
        minutes=9,
        trials=6,
        tolerance=1e-4,
    ),
    Exercise(
        "rotations.afford",
        budgets,
        afford,
        {
            "one_factor": afford_with(numbers=lambda n, m: min(n, m)),
            "product": afford_with(numbers=lambda n, m: n * m),
            "one_byte": afford_with(size=1),
            "scales_forgotten": afford_with(scales=lambda n, m, g: 0),
            "bits_are_bytes": afford_with(bits_in=1),
            "rounded_up": afford_with(up=True),
            "no_limit": afford_with(most=64),
        },
        lesson=LESSON,
        kind="decide",
        difficulty=2,
        minutes=5,
        trials=12,
    ),
]
