"""Lesson 5.1, what is measured: damage of one layer alone, and whose scale keys share."""

import itertools

import torch
from torch import Tensor

from ..draws import pick, turn, until

# --- damage of one layer alone ---


def network_inputs(rng: torch.Generator) -> dict:
    """Two or three matrices, a rounded copy of each, inputs, and the right classes (which KL does
    not need).
    """
    widths = turn(rng, (4, 6, 5), (5, 4, 6, 3), (3, 5, 4))
    weights = [
        torch.randn(b, a, generator=rng, dtype=torch.float64) for a, b in itertools.pairwise(widths)
    ]
    rounded = [w + 0.4 * torch.randn(w.shape, generator=rng, dtype=torch.float64) for w in weights]
    inputs = torch.randn(7, widths[0], generator=rng, dtype=torch.float64)
    labels = torch.randint(widths[-1], (7,), generator=rng)
    return {"weights": weights, "rounded": rounded, "inputs": inputs, "labels": labels}


def log_probabilities(weights: list[Tensor], inputs: Tensor) -> Tensor:
    x = inputs
    for w in weights[:-1]:
        x = torch.tanh(x @ w.T)
    return (x @ weights[-1].T).log_softmax(-1)


def damages(
    weights: list[Tensor], rounded: list[Tensor], inputs: Tensor, labels: Tensor
) -> list[float]:
    """For each layer, the mean over inputs of KL(network ‖ network with that layer alone rounded),
    nats.
    """
    p = log_probabilities(weights, inputs)
    found = []
    for i in range(len(weights)):
        changed = list(weights)
        changed[i] = rounded[i]
        q = log_probabilities(changed, inputs)
        found.append(float((p.exp() * (p - q)).sum()) / len(inputs))
    return found


def damages_with(measure, choose=lambda w, r, i: [*w[:i], r[i], *w[i + 1 :]]):
    def answer(weights, rounded, inputs, labels):
        p = log_probabilities(weights, inputs)
        return [
            measure(p, log_probabilities(choose(weights, rounded, i), inputs), labels)
            for i in range(len(weights))
        ]

    return answer


def mean_kl(p: Tensor, q: Tensor, labels: Tensor) -> float:
    return float((p.exp() * (p - q)).sum(-1).mean())


def weight_errors(weights, rounded, inputs, labels):
    return [float((r - w).square().sum()) for w, r in zip(weights, rounded, strict=True)]


def loss_change(p: Tensor, q: Tensor, labels: Tensor) -> float:
    return float((p - q).gather(1, labels[:, None]).mean())


# --- whose scale do keys share? ---


def key_inputs(rng: torch.Generator) -> dict:
    """Keys with a large channel, with one (or one number) that no query uses, or with a large
    token; 2 to 4 bits.
    """

    def draw(rng: torch.Generator) -> dict:
        keys, queries = (torch.randn(n, 8, generator=rng, dtype=torch.float64) for n in (12, 9))
        kind = turn(rng, "channel", "token", "unused channel", "unused number", "even")
        i, j = int(torch.randint(12, (), generator=rng)), int(torch.randint(8, (), generator=rng))
        if kind == "channel":
            keys[:, j] += 8
        elif kind == "unused channel":
            keys[:, j] *= 20
        elif kind == "unused number":
            keys[i, j] = 15
        elif kind == "token":
            keys[i] *= 9
        queries[:, j] *= 0.02 if "unused" in kind else 1
        return {"queries": queries, "keys": keys, "bits": pick(rng, 2, 3, 4)}

    return until(rng, draw, lambda given: max(ratio := _scores_ratio(**given), 1 / ratio) > 1.4)


def min_max(x: Tensor, bits: int, dim: int) -> Tensor:
    """X on grids of 2^b values from the least to the largest along `dim`."""
    low, high = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    step = (high - low) / (2**bits - 1)
    return low + ((x - low) / step).round() * step


def _scores_ratio(queries: Tensor, keys: Tensor, bits: int) -> float:
    """Squared error of the scores Q Kᵀ with one grid for each channel, over that with one for each
    token.
    """
    channel, token = (
        float((queries @ (min_max(keys, bits, dim) - keys).T).square().sum()) for dim in (0, 1)
    )
    return channel / token


def scale_axis(queries: Tensor, keys: Tensor, bits: int) -> str:
    """ "channel" or "token": whose numbers should share a grid, for the smaller squared error of
    the scores Q Kᵀ.
    """
    return "channel" if _scores_ratio(queries, keys, bits) < 1 else "token"


def by_key_error(queries, keys, bits):
    channel, token = (float((min_max(keys, bits, dim) - keys).square().sum()) for dim in (0, 1))
    return "channel" if channel < token else "token"


def by_largest(queries, keys, bits):
    size = keys.abs()
    return (
        "channel"
        if size.amax(0).max() / size.amax(0).median() > size.amax(1).max() / size.amax(1).median()
        else "token"
    )
