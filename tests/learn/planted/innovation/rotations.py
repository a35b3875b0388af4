"""Right and wrong answers to the exercises of rotations."""

import math

import numpy as np
import scipy.linalg
import torch

# --- the four weights of a rotated model ---


def by_matrices(embedding, gain, reader, writer, last_gain, Q):
    g, last = torch.diag(gain), torch.diag(last_gain)
    return embedding.mm(Q.t()), reader.mm(g).mm(Q.t()), Q.mm(writer), embedding.mm(last).mm(Q.t())


def by_einsum(embedding, gain, reader, writer, last_gain, Q):
    return [
        torch.einsum("wi,ji->wj", embedding, Q),
        torch.einsum("oi,i,ji->oj", reader, gain, Q),
        torch.einsum("ji,im->jm", Q, writer),
        torch.einsum("wi,i,ji->wj", embedding, last_gain, Q),
    ]


def by_rows(embedding, gain, reader, writer, last_gain, Q):
    rows = lambda M, g: np.stack([Q.numpy() @ (row * g) for row in M.numpy()])  # noqa: E731
    one = np.ones(len(Q))
    return (
        rows(embedding, one),
        rows(reader, gain.numpy()),
        rows(writer.T, one).T,
        rows(embedding, last_gain.numpy()),
    )


def by_inverse(embedding, gain, reader, writer, last_gain, Q):
    back = torch.linalg.inv(Q)
    head = embedding.clone()
    head *= last_gain
    return embedding @ back, (gain[None] * reader) @ back, Q @ writer, head @ back


# --- the fast product ---


def by_scipy(x):
    n = x.shape[1]
    return torch.from_numpy(x.numpy() @ scipy.linalg.hadamard(n)) * n**-0.5


def by_halves(x):
    n = x.shape[1]
    if n == 1:
        return x
    a, b = by_halves(x[:, : n // 2]), by_halves(x[:, n // 2 :])
    return torch.cat([a + b, a - b], 1) / math.sqrt(2)


def by_bits(x):
    n = x.shape[1]
    signs = [[(-1) ** bin(i & j).count("1") for j in range(n)] for i in range(n)]
    return [
        [sum(s * v for s, v in zip(row, line, strict=True)) / math.sqrt(n) for row in signs]
        for line in x.tolist()
    ]


def by_kron(x):
    step = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2)
    H = np.ones((1, 1))
    while len(H) < x.shape[1]:
        H = np.kron(H, step)
    return x.numpy() @ H.T


def walsh(scale, sign=-1):
    def answer(x):
        n = x.shape[1]
        signs = torch.tensor(
            [[float(sign) ** bin(i & j).count("1") for j in range(n)] for i in range(n)],
            dtype=x.dtype,
        )
        return x @ signs * scale(n)

    return answer


def given(x):
    n, half = x.shape[-1], 1
    while half < n:
        y = x.reshape(-1, n // 2, 2, 1)
        x = torch.stack([y[:, :, 0] + y[:, :, 1], y[:, :, 0] - y[:, :, 1]], 2).reshape(-1, n)
        half *= 2
    return x / n


def short(x):
    n = x.shape[1]
    left, right = x[:, : n // 2], x[:, n // 2 :]
    return torch.cat([by_halves(left), by_halves(right)], 1) / math.sqrt(2)


def swapped(x):
    y, half, n = x.clone(), 1, x.shape[1]
    while half < n:
        for i in range(n):
            if not i & half:
                a, b = y[:, i].clone(), y[:, i + half].clone()
                y[:, i], y[:, i + half] = a - b, a + b
        half *= 2
    return y / n**0.5


# --- low rank by the outputs ---


def moment(X, ridge):
    return X.T @ X + ridge * torch.eye(X.shape[1], dtype=X.dtype)


def by_symmetric_root(W, X, rank, ridge):
    values, vectors = torch.linalg.eigh(moment(X, ridge))
    root, back = (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T
    P, s, Qt = torch.linalg.svd(W @ root)
    return P[:, :rank] @ torch.diag(s[:rank]) @ Qt[:rank] @ back, (s[rank:] ** 2).sum()


def by_projection(W, X, rank, ridge):
    """The outputs' own principal axes: Ŵ = P_r P_rᵀ W."""
    H = moment(X, ridge)
    values, P = torch.linalg.eigh(W @ H @ W.T)
    top = P[:, -rank:]
    return top @ top.T @ W, values[:-rank].clamp(min=0).sum()


def by_stacked_inputs(W, X, rank, ridge):
    """√ridge I below the inputs: the error is a plain sum of squares of outputs, whose SVD is
    taken.
    """
    A = np.concatenate([X.numpy(), np.sqrt(ridge) * np.eye(X.shape[1])])
    Y = W.numpy() @ A.T
    P, s, _ = np.linalg.svd(Y, full_matrices=False)
    V = P[:, :rank] @ P[:, :rank].T @ W.numpy()
    return torch.from_numpy(V), float(((W.numpy() - V) @ A.T).__pow__(2).sum())


def cut(W, X, rank, ridge, S, back=None, loss=None):
    P, s, Qt = np.linalg.svd((W @ S).numpy(), full_matrices=False)
    M = torch.from_numpy(P[:, :rank] @ np.diag(s[:rank]) @ Qt[:rank])
    return (M @ torch.linalg.inv(S) if back is None else back(M, S)), float(
        (s[rank:] ** 2).sum() if loss is None else loss(s, rank)
    )


def lower(X, ridge):
    return torch.from_numpy(np.linalg.cholesky(moment(X, ridge).numpy()))


def smallest(W, X, rank, ridge):
    values, P = torch.linalg.eigh(W @ moment(X, ridge) @ W.T)
    low = P[:, :rank]
    return low @ low.T @ W, values[rank:].sum()


# --- what a budget buys ---


def by_counting(rows, columns, budget, group):
    rank = 0
    while (rank + 1) * (rows + columns) * 2 <= budget:
        rank += 1
    bits = 0
    while bits < 8 and rows * columns * (bits + 1) / 8 + rows * (columns // group) * 3 <= budget:
        bits += 1
    return rank, bits


def by_bits_a_weight(rows, columns, budget, group):
    rank = int(np.floor(budget / 2 / (rows + columns)))
    each = budget * 8 / (rows * columns) - 24 / group
    return rank, int(np.clip(math.floor(each + 1e-9), 0, 8))


def by_list(rows, columns, budget, group):
    fits = [b for b in range(9) if b * rows * columns + 24 * rows * columns // group <= 8 * budget]
    return [
        max(r for r in range(budget + 1) if 2 * r * (rows + columns) <= budget)
        if budget < 2000
        else budget // (2 * rows + 2 * columns),
        max(fits, default=0),
    ]


def buys(rank, bits):
    return lambda rows, columns, budget, group: (
        int(rank(rows, columns, budget)),
        int(min(8, max(0, bits(rows * columns, budget, group)))),
    )


def right_rank(n, m, budget):
    return budget // (2 * (n + m))


def right_bits(numbers, budget, group):
    return (budget - 3 * numbers // group) * 8 // numbers


RIGHT = {
    "rotations.rotate": [by_matrices, by_einsum, by_rows, by_inverse],
    "rotations.hadamard": [by_scipy, by_halves, by_bits, by_kron],
    "rotations.whitened": [by_symmetric_root, by_projection, by_stacked_inputs],
    "rotations.afford": [by_counting, by_bits_a_weight, by_list],
}
WRONG = {
    "rotations.rotate": [
        (
            lambda embedding, gain, reader, writer, last_gain, Q: (
                embedding @ Q.T,
                reader @ Q.T,
                Q @ writer,
                embedding @ Q.T,
            ),
            "gain_unfolded",
        ),
        (
            lambda embedding, gain, reader, writer, last_gain, Q: (
                embedding @ Q.T,
                reader * gain @ Q.T,
                Q @ writer,
                embedding @ Q.T,
            ),
            "head_still_tied",
        ),
        (
            lambda embedding, gain, reader, writer, last_gain, Q: (
                embedding @ Q.T,
                (reader * gain) @ Q.T,
                Q @ writer,
                embedding * last_gain,
            ),
            "head_not_rotated",
        ),
        (
            lambda embedding, gain, reader, writer, last_gain, Q: (
                embedding @ Q.T,
                (reader * gain) @ Q.T,
                Q.T @ writer,
                (embedding * last_gain) @ Q.T,
            ),
            "writer_other_way",
        ),
        (
            lambda embedding, gain, reader, writer, last_gain, Q: (
                embedding @ Q.T,
                (reader * gain) @ Q,
                Q @ writer,
                (embedding * last_gain) @ Q.T,
            ),
            "reader_other_way",
        ),
        (
            lambda embedding, gain, reader, writer, last_gain, Q: (
                embedding @ Q.T,
                reader @ Q.T * gain,
                Q @ writer,
                embedding @ Q.T * last_gain,
            ),
            "gain_after",
        ),
        (
            lambda embedding, gain, reader, writer, last_gain, Q: (
                embedding,
                (reader * gain) @ Q.T,
                Q @ writer,
                (embedding * last_gain) @ Q.T,
            ),
            "embedding_left",
        ),
        (
            lambda embedding, gain, reader, writer, last_gain, Q: (
                embedding @ Q,
                (reader * gain) @ Q.T,
                Q @ writer,
                (embedding * last_gain) @ Q.T,
            ),
            "embedding_other_way",
        ),
        (
            lambda embedding, gain, reader, writer, last_gain, Q: (
                embedding @ Q.T,
                (reader / gain) @ Q.T,
                Q @ writer,
                (embedding * last_gain) @ Q.T,
            ),
            None,
        ),
        (
            lambda embedding, gain, reader, writer, last_gain, Q: (
                embedding @ Q.T,
                (reader * gain) @ Q.T,
                Q @ writer,
            ),
            None,
        ),
    ],
    "rotations.hadamard": [
        (walsh(lambda n: 1.0), "unnormalized"),
        (walsh(lambda n: 1 / n), "divided_by_n"),
        (walsh(lambda n: n**-0.5, sign=1), "no_minus"),
        (short, "one_stage_short"),
        (swapped, "minus_first"),
        (given, "as_given"),
        (lambda x: x.clone(), None),
        (lambda x: -by_halves(x), None),
    ],
    "rotations.whitened": [
        (
            lambda W, X, rank, ridge: cut(W, X, rank, ridge, torch.eye(X.shape[1], dtype=X.dtype)),
            "plain",
        ),
        (
            lambda W, X, rank, ridge: cut(W, X, rank, ridge, lower(X, ridge), lambda M, S: M),
            "not_undone",
        ),
        (
            lambda W, X, rank, ridge: cut(
                W, X, rank, ridge, lower(X, ridge), lambda M, S: torch.linalg.solve(S, M.T).T
            ),
            "other_side",
        ),
        (
            lambda W, X, rank, ridge: cut(W, X, rank, ridge, lower(X, ridge).T.contiguous()),
            "upper_factor",
        ),
        (lambda W, X, rank, ridge: cut(W, X, rank, ridge, moment(X, ridge)), "moment_for_root"),
        (
            lambda W, X, rank, ridge: cut(
                W, X, rank, ridge, lower(X, ridge), loss=lambda s, r: s[r:].sum()
            ),
            "not_squared",
        ),
        (
            lambda W, X, rank, ridge: cut(
                W, X, rank, ridge, lower(X, ridge), loss=lambda s, r: (s[:r] ** 2).sum()
            ),
            "kept_for_dropped",
        ),
        (lambda W, X, rank, ridge: smallest(W, X, rank, ridge), "smallest_kept"),
        (lambda W, X, rank, ridge: by_projection(W, X, rank, 2 * ridge), None),
        (lambda W, X, rank, ridge: by_projection(W, X, rank, 0.0), "no_ridge"),
        (lambda W, X, rank, ridge: (W, 0.0), None),
    ],
    "rotations.afford": [
        (buys(lambda n, m, budget: budget // (2 * min(n, m)), right_bits), "one_factor"),
        (buys(lambda n, m, budget: budget // (2 * n * m), right_bits), "product"),
        (buys(lambda n, m, budget: budget // (n + m), right_bits), "one_byte"),
        (
            buys(right_rank, lambda numbers, budget, group: budget * 8 // numbers),
            "scales_forgotten",
        ),
        (
            buys(
                right_rank,
                lambda numbers, budget, group: (budget - 3 * numbers // group) // numbers,
            ),
            "bits_are_bytes",
        ),
        (
            buys(
                lambda n, m, budget: -(-budget // (2 * (n + m))),
                lambda numbers, budget, group: -(-(budget - 3 * numbers // group) * 8 // numbers),
            ),
            "rounded_up",
        ),
        (
            lambda rows, columns, budget, group: (
                right_rank(rows, columns, budget),
                max(0, right_bits(rows * columns, budget, group)),
            ),
            "no_limit",
        ),
        (
            lambda rows, columns, budget, group: (
                right_bits(rows * columns, budget, group),
                right_rank(rows, columns, budget),
            ),
            None,
        ),
    ],
}
