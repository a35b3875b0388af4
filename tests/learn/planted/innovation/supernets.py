"""Planted answers for the exercises of lesson 5.4 about subnets and their training."""

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

# --- the slices of a block ---


def narrowed(q, k, v, o, gate, up, down, channels, kv_heads, ratio, size):
    keys, queries = kv_heads * size, kv_heads * size * ratio
    rows = [x.narrow(0, 0, n) for x, n in ((q, queries), (k, keys), (v, keys))]
    return [
        *rows,
        o.narrow(1, 0, queries),
        gate.narrow(0, 0, channels),
        up.narrow(0, 0, channels),
        down.narrow(1, 0, channels),
    ]


def by_heads(q, k, v, o, gate, up, down, channels, kv_heads, ratio, size):
    width = q.shape[1]
    heads = q.view(-1, ratio, size, width)[:kv_heads].reshape(-1, width)
    keys, values = (x.view(-1, size, width)[:kv_heads].reshape(-1, width) for x in (k, v))
    out = o.view(width, -1, ratio * size)[:, :kv_heads].reshape(width, -1)
    return heads, keys, values, out, gate[:channels], up[:channels], down.T[:channels].T


def by_index(q, k, v, o, gate, up, down, channels, kv_heads, ratio, size):
    a, b, c = np.arange(kv_heads * ratio * size), np.arange(kv_heads * size), np.arange(channels)
    return tuple(x.numpy() for x in (q[a], k[b], v[b], o[:, a], gate[c], up[c], down[:, c]))


def sliced(
    nq=lambda h, r, s: h * r * s,
    nk=lambda h, r, s: h * s,
    row=lambda x, n: x.narrow(0, 0, n),
    column=lambda x, n: x.narrow(1, 0, n),
    o_by=None,
    down_by=None,
):
    def answer(q, k, v, o, gate, up, down, channels, kv_heads, ratio, size):
        a, b = nq(kv_heads, ratio, size), nk(kv_heads, ratio, size)
        return (
            row(q, a),
            row(k, b),
            row(v, b),
            (o_by or column)(o, a),
            row(gate, channels),
            row(up, channels),
            (down_by or column)(down, channels),
        )

    return answer


def first_rows(x, n):
    return x[torch.arange(min(n, len(x)))]


def tail(x, n):
    return x.flip(0)[:n].flip(0)


def every(x, n):
    step = max(1, x.shape[0] // n)
    return x[torch.arange(0, x.shape[0], step)[:n]]


# --- one step of the sandwich ---


def with_torch(logits, sizes, labels):
    top = int(np.argmax(sizes))
    goal = logits[top].detach().softmax(-1)
    total = F.cross_entropy(logits[top], labels)
    for i in range(len(sizes)):
        if i != top:
            total = total + F.kl_div(logits[i].log_softmax(-1), goal, reduction="batchmean")
    return total / len(sizes)


def by_entropies(logits, sizes, labels):
    """KL = cross-entropy with the teacher's probabilities minus the teacher's entropy, which has no
    gradient here.
    """
    big = max(range(len(sizes)), key=sizes.__getitem__)
    p = logits.detach()[big].softmax(-1)
    losses = []
    for i, own in enumerate(logits):
        if i == big:
            losses.append(F.nll_loss(own.log_softmax(-1), labels))
        else:
            losses.append(F.cross_entropy(own, p) + (p * p.log()).sum(-1).mean())
    return torch.stack(losses).mean()


def sorted_first(logits, sizes, labels):
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    first, *rest = (logits[i] for i in order)
    p = first.data.log_softmax(1)
    smaller = torch.stack(rest).log_softmax(2)
    kl = (p.exp() * (p - smaller)).sum((1, 2)) / len(labels)
    return (F.cross_entropy(first, labels) + kl.sum()) / (1 + len(rest))


def stepwise(
    top=lambda sizes: int(np.argmax(sizes)),
    other=None,
    first=lambda x, y: F.cross_entropy(x, y),
    whole=lambda parts: torch.stack(parts).mean(),
):
    def answer(logits, sizes, labels):
        t = top(sizes)
        rest = [
            (other or forward)(logits[t].detach(), logits[i]) for i in range(len(sizes)) if i != t
        ]
        return whole(([first(logits[t], labels)] if first else []) + rest)

    return answer


def forward(p, q):
    return F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="batchmean")


def labels_only(logits, sizes, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(sizes)))


def mixed(logits, sizes, labels):
    return 0.5 * with_torch(logits, sizes, labels) + 0.5 * labels_only(logits, sizes, labels)


def attached(logits, sizes, labels):
    top = int(np.argmax(sizes))
    parts = [F.cross_entropy(logits[top], labels)] + [
        forward(logits[top], logits[i]) for i in range(len(sizes)) if i != top
    ]
    return torch.stack(parts).mean()


RIGHT = {
    "supernets.cut": [narrowed, by_heads, by_index],
    "supernets.sandwich": [with_torch, by_entropies, sorted_first],
}
WRONG = {
    "supernets.cut": [
        (sliced(o_by=first_rows), "out_by_rows"),
        (sliced(down_by=first_rows), "down_by_rows"),
        (sliced(nq=lambda h, r, s: s * h), "ratio_forgotten"),
        (sliced(nk=lambda h, r, s: s * h * r, row=first_rows), "ratio_everywhere"),
        (sliced(row=tail, column=lambda x, n: tail(x.T, n).T), "last"),
        (sliced(row=every, column=lambda x, n: every(x.T, n).T), "spread"),
        (sliced(nq=lambda h, r, s: r * h, nk=lambda h, r, s: h), "size_forgotten"),
        (sliced(row=lambda x, n: first_rows(x.T, n).T), "readers_by_columns"),
        (
            lambda q, k, v, o, gate, up, down, channels, kv_heads, ratio, size: (
                q,
                k,
                v,
                o,
                gate,
                up,
                down,
            ),
            None,
        ),
        (
            lambda q, k, v, o, gate, up, down, channels, kv_heads, ratio, size: narrowed(
                q, k, v, o, gate, up, down, channels - 1, kv_heads, ratio, size
            ),
            None,
        ),
    ],
    "supernets.sandwich": [
        (labels_only, "labels_for_all"),
        (mixed, "half_labels"),
        (stepwise(top=lambda sizes: 0), "first_teaches"),
        (stepwise(top=lambda sizes: int(np.argmin(sizes))), "smallest_teaches"),
        (stepwise(other=lambda p, q: forward(q, p)), "directions"),
        (attached, "teacher_pulled"),
        (stepwise(whole=lambda parts: torch.stack(parts).sum()), "not_averaged"),
        (stepwise(first=None), "nothing_from_the_text"),
        (stepwise(other=lambda p, q: F.mse_loss(q, p)), "logits_compared"),
        (lambda logits, sizes, labels: with_torch(logits, sizes, (labels + 1) % 4), None),
        (lambda logits, sizes, labels: with_torch(logits.detach(), sizes, labels), None),
    ],
}
