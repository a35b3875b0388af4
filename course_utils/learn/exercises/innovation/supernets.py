"""Lesson 5.4: the slices of a subnet, and the loss of one step of the sandwich rule."""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn

LESSON = "5.4-differentiable-pruning"
DOUBLE = torch.float64


# --- the slices of a block ---


def block(rng: torch.Generator) -> dict:
    """The seven weights of a block with grouped queries; the subnet is strictly smaller in channels
    and in heads, widths all unlike.
    """
    size, ratio, kv, channels, width = 2, pick(rng, 2, 3), pick(rng, 3, 4), pick(rng, 9, 11), 7
    heads = kv * ratio
    shapes = {
        "q": (heads * size, width), "k": (kv * size, width), "v": (kv * size, width),
        "o": (width, heads * size), "gate": (channels, width), "up": (channels, width),
        "down": (width, channels),
    }  # fmt: skip
    weights = {
        name: torch.randn(shape, generator=rng, dtype=DOUBLE) for name, shape in shapes.items()
    }
    return {
        **weights,
        "channels": pick(rng, 4, 5),
        "kv_heads": turn(rng, 1, 2),
        "ratio": ratio,
        "size": size,
    }


def cut(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    channels: int,
    kv_heads: int,
    ratio: int,
    size: int,
) -> tuple[Tensor, ...]:
    """(q, k, v, o, gate, up, down) of the subnet with the first channels and the first key-value
    heads with their queries.
    """
    keys, queries = kv_heads * size, kv_heads * ratio * size
    return (
        q[:queries],
        k[:keys],
        v[:keys],
        o[:, :queries],
        gate[:channels],
        up[:channels],
        down[:, :channels],
    )


def cut_with(
    rows=lambda W, n: W[:n],
    columns=lambda W, n: W[:, :n],
    out=None,
    queries=lambda h, r, s: h * r * s,
    keys=lambda h, r, s: h * s,
    down=None,
):
    def answer(q, k, v, o, gate, up, down_, channels, kv_heads, ratio, size):
        nq, nk = queries(kv_heads, ratio, size), keys(kv_heads, ratio, size)
        return (
            rows(q, nq),
            rows(k, nk),
            rows(v, nk),
            (out or columns)(o, nq),
            rows(gate, channels),
            rows(up, channels),
            (down or columns)(down_, channels),
        )

    return lambda q, k, v, o, gate, up, down, channels, kv_heads, ratio, size: answer(
        q, k, v, o, gate, up, down, channels, kv_heads, ratio, size
    )


# --- one step of the sandwich ---


def step(rng: torch.Generator) -> dict:
    """Logits of some widths for one batch, in an order that says nothing; the largest is never the
    first.
    """
    n = pick(rng, 3, 4)
    sizes = [8, 16, 32, 64][:n]
    order = torch.randperm(n, generator=rng).tolist()
    if sizes[order[0]] == max(sizes):
        order = order[1:] + order[:1]
    logits = torch.randn(n, 5, 4, generator=rng, dtype=DOUBLE) * 1.5
    return {
        "logits": logits.requires_grad_(),
        "sizes": [sizes[i] for i in order],
        "labels": torch.randint(4, (5,), generator=rng),
    }


def sandwich(logits: Tensor, sizes: list[int], labels: Tensor) -> Tensor:
    """The mean over widths of: cross-entropy of the largest with the labels; KL(largest ‖ other),
    the largest detached, of the others.
    """
    return sandwich_with()(logits, sizes, labels)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of softmaxes of logits, mean over rows."""
    return (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1).mean()


def sandwich_with(
    teacher=lambda sizes: sizes.index(max(sizes)),
    loss=kl,
    goal=lambda x: x.detach(),
    average=lambda parts: sum(parts) / len(parts),
    text=True,
):
    def answer(logits, sizes, labels):
        top = teacher(sizes)
        parts = [torch.nn.functional.cross_entropy(logits[top], labels)] if text else []
        parts += [loss(goal(logits[top]), x) for i, x in enumerate(logits) if i != top]
        return average(parts)

    return answer


def all_labels(logits, sizes, labels):
    return sum(torch.nn.functional.cross_entropy(x, labels) for x in logits) / len(sizes)


def both(logits, sizes, labels):
    """Labels for the small ones too, half and half."""
    return (sandwich(logits, sizes, labels) + all_labels(logits, sizes, labels)) / 2


EXERCISES = [
    Exercise(
        "supernets.cut",
        block,
        cut,
        {
            "out_by_rows": cut_with(out=lambda W, n: W[:n]),
            "down_by_rows": cut_with(down=lambda W, n: W[:n]),
            "ratio_forgotten": cut_with(queries=lambda h, r, s: h * s),
            "ratio_everywhere": cut_with(keys=lambda h, r, s: h * r * s),
            "last": cut_with(rows=lambda W, n: W[-n:], columns=lambda W, n: W[:, -n:]),
            "spread": cut_with(
                rows=lambda W, n: W[:: max(1, len(W) // n)][:n],
                columns=lambda W, n: W[:, :: max(1, W.shape[1] // n)][:, :n],
            ),
            "size_forgotten": cut_with(queries=lambda h, r, s: h * r, keys=lambda h, r, s: h),
            "readers_by_columns": cut_with(rows=lambda W, n: W[:, :n]),
        },
        lesson=LESSON,
        kind="step",
        difficulty=2,
        minutes=7,
        trials=4,
    ),
    Exercise(
        "supernets.sandwich",
        step,
        sandwich,
        {
            "labels_for_all": all_labels,
            "half_labels": both,
            "first_teaches": sandwich_with(teacher=lambda sizes: 0),
            "smallest_teaches": sandwich_with(teacher=lambda sizes: sizes.index(min(sizes))),
            "directions": sandwich_with(loss=lambda p, q: kl(q, p)),
            "teacher_pulled": sandwich_with(goal=lambda x: x),
            "not_averaged": sandwich_with(average=sum),
            "nothing_from_the_text": sandwich_with(text=False),
            "logits_compared": sandwich_with(loss=lambda p, q: (p - q).square().mean()),
        },
        lesson=LESSON,
        kind="design",
        difficulty=2,
        minutes=8,
        trials=6,
        gradients=("logits",),
    ),
]
