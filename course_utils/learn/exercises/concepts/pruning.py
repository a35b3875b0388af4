"""Lesson 2.2: channels and heads cut out, a training step under a mask, the gradual schedule, the
bytes of sparse storage.
"""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn

# --- channels of a gated MLP ---


def some(rng: torch.Generator, n: int, count: int) -> Tensor:
    """`count` of the numbers 0 … n − 1, ascending, never simply the first ones."""
    kept = torch.randperm(n, generator=rng)[:count].sort().values
    return kept if kept[-1] != count - 1 else kept + 1


def channel_inputs(rng: torch.Generator) -> dict:
    gate, up = (torch.randn(8, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    down = torch.randn(8, 8, generator=rng, dtype=torch.float64)
    return {"gate": gate, "up": up, "down": down, "keep": some(rng, 8, pick(rng, 3, 4, 5))}


def remove_channels(
    gate: Tensor, up: Tensor, down: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A channel is a row of gate and of up and a column of down."""
    wanted = keep.tolist()
    return (
        torch.stack([gate[k] for k in wanted]),
        torch.stack([up[k] for k in wanted]),
        torch.stack([down[:, k] for k in wanted], dim=1),
    )


def zeroed(gate, up, down, keep):
    mask = torch.zeros(len(gate), 1, dtype=gate.dtype)
    mask[keep] = 1
    return gate * mask, up * mask, down * mask.T


def others(n: int, keep: Tensor) -> Tensor:
    return torch.tensor([k for k in range(n) if k not in keep.tolist()])


# --- heads ---


def head_inputs(rng: torch.Generator) -> dict:
    heads, size, count = turn(rng, (4, 6, 2), (3, 5, 2), (5, 7, 3))
    n = heads * size
    q, k, v, o = (torch.randn(n, n, generator=rng, dtype=torch.float64) for _ in range(4))
    return {"q": q, "k": k, "v": v, "o": o, "heads": heads, "keep": some(rng, heads, count)}


def remove_heads(
    q: Tensor, k: Tensor, v: Tensor, o: Tensor, heads: int, keep: Tensor
) -> tuple[Tensor, ...]:
    """Head h has the rows h · d … h · d + d − 1 of q, k and v, and those columns of o."""
    size = len(q) // heads
    index = [h * size + i for h in keep.tolist() for i in range(size)]
    return q[index], k[index], v[index], o[:, index]


def cut_heads(index_of, cut=lambda q, k, v, o, i: (q[i], k[i], v[i], o[:, i])):
    return lambda q, k, v, o, heads, keep: cut(q, k, v, o, index_of(len(q), heads, keep))


def rows_of_heads(n: int, heads: int, keep: Tensor) -> list[int]:
    size = n // heads
    return [h * size + i for h in keep.tolist() for i in range(size)]


# --- a step under a mask ---


def step_inputs(rng: torch.Generator) -> dict:
    mask = torch.rand(4, 6, generator=rng) < 0.5
    weight, velocity, grad = (
        torch.randn(4, 6, generator=rng, dtype=torch.float64) for _ in range(3)
    )
    return {
        "weight": weight * mask,
        "velocity": velocity,
        "grad": grad,
        "mask": mask,
        "lr": turn(rng, 0.05, 0.3, 0.1),
        "momentum": turn(rng, 0.9, 0.5, 0.8),
    }


def masked_step(
    weight: Tensor, velocity: Tensor, grad: Tensor, mask: Tensor, lr: float, momentum: float
) -> Tensor:
    """V ← μ v + g, θ ← (θ − η v) ⊙ M."""
    new = weight.clone()
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            new[i, j] = (
                weight[i, j] - lr * (momentum * velocity[i, j] + grad[i, j]) if mask[i, j] else 0.0
            )
    return new


# --- the gradual schedule ---


def cubic_inputs(rng: torch.Generator) -> dict:
    """Steps between the ends, and both ends."""
    end = pick(rng, 40, 60, 90)
    step = turn(
        rng,
        int(torch.randint(5, end - 5, (), generator=rng)),
        int(torch.randint(5, end - 5, (), generator=rng)),
        0,
        end,
    )
    return {"step": step, "end": end, "final": turn(rng, 0.5, 0.8, 0.95)}


def cubic(step: int, end: int, final: float) -> float:
    """s_f + (0 − s_f) (1 − t / T)³."""
    return final + (0 - final) * (1 - step / end) ** 3


# --- bytes ---


def byte_inputs(rng: torch.Generator) -> dict:
    rows, columns = pick(rng, 24, 48, 64), pick(rng, 40, 56, 72)
    return {
        "rows": rows,
        "columns": columns,
        "nonzeros": rows * columns * pick(rng, 1, 2, 3) // 4,
        "bits": pick(rng, 8, 16, 32),
    }


def stored_bytes(rows: int, columns: int, nonzeros: int, bits: int) -> tuple[float, float]:
    """(bitmask, CSR): values, and a bit for every weight; values, and 4 bytes for each column
    number and row start.
    """
    values = nonzeros * bits / 8
    return values + rows * columns / 8, values + 4 * nonzeros + 4 * (rows + 1)


def both(bitmask, csr):
    """A wrong count, from functions of (values in bytes, rows, columns, nonzeros)."""
    return lambda rows, columns, nonzeros, bits: tuple(
        float(f(nonzeros * bits / 8, rows, columns, nonzeros)) for f in (bitmask, csr)
    )


EXERCISES = [
    Exercise(
        id="pruning.remove_channels", inputs=channel_inputs, spec=remove_channels,
        lesson="2.2-pruning", trials=4, kind="step", difficulty=1, minutes=8,
        mistakes={
            "zeroed": zeroed,
            "down_rows": lambda gate, up, down, keep: (gate[keep], up[keep], down[keep]),
            "all_columns": lambda gate, up, down, keep: (gate[:, keep], up[:, keep], down[:, keep]),
            "transposed": lambda gate, up, down, keep: (gate[:, keep], up[:, keep], down[keep]),
            "down_forgotten": lambda gate, up, down, keep: (gate[keep], up[keep], down),
            "gate_only": lambda gate, up, down, keep: (gate[keep], up, down[:, keep]),
            "removes_kept": lambda gate, up, down, keep:
                remove_channels(gate, up, down, others(len(gate), keep)),
            "first_ones": lambda gate, up, down, keep:
                (gate[: len(keep)], up[: len(keep)], down[:, : len(keep)]),
        },
    ),
    Exercise(
        id="pruning.remove_heads", inputs=head_inputs, spec=remove_heads,
        lesson="2.2-pruning", trials=4, kind="debug", difficulty=2, minutes=12,
        mistakes={
            "output_forgotten": cut_heads(rows_of_heads, lambda q, k, v, o, i:
                (q[i], k[i], v[i], o)),
            "output_rows": cut_heads(rows_of_heads, lambda q, k, v, o, i: (q[i], k[i], v[i], o[i])),
            "columns": cut_heads(rows_of_heads, lambda q, k, v, o, i:
                (q[:, i], k[:, i], v[:, i], o[i])),
            "query_only": cut_heads(rows_of_heads, lambda q, k, v, o, i: (q[i], k, v, o[:, i])),
            "removes_kept": lambda q, k, v, o, heads, keep:
                remove_heads(q, k, v, o, heads, others(heads, keep)),
            "first_ones": lambda q, k, v, o, heads, keep:
                remove_heads(q, k, v, o, heads, torch.arange(len(keep))),
            "one_row_a_head": cut_heads(lambda n, heads, keep: keep),
            "strided": cut_heads(lambda n, heads, keep:
                [i * heads + h for h in keep.tolist() for i in range(n // heads)]),
            "heads_is_size": cut_heads(lambda n, heads, keep: rows_of_heads(n, n // heads, keep)),
        },
    ),
    Exercise(
        id="pruning.masked_step", inputs=step_inputs, spec=masked_step, lesson="2.2-pruning",
        kind="debug", difficulty=1, minutes=6,
        mistakes={
            "mask_forgotten": lambda weight, velocity, grad, mask, lr, momentum:
                weight - lr * (momentum * velocity + grad),
            "gradient_only": lambda weight, velocity, grad, mask, lr, momentum:
                weight - lr * (momentum * velocity + grad * mask),
            "velocity_only": lambda weight, velocity, grad, mask, lr, momentum:
                weight - lr * (momentum * velocity * mask + grad),
            "momentum_forgotten": lambda weight, velocity, grad, mask, lr, momentum:
                (weight - lr * grad) * mask,
            "lr_inside": lambda weight, velocity, grad, mask, lr, momentum:
                (weight - momentum * velocity - lr * grad) * mask,
            "mask_inverted": lambda weight, velocity, grad, mask, lr, momentum:
                (weight - lr * (momentum * velocity + grad)) * ~mask,
            "sign": lambda weight, velocity, grad, mask, lr, momentum:
                (weight + lr * (momentum * velocity + grad)) * mask,
        },
    ),
    Exercise(
        id="pruning.cubic", inputs=cubic_inputs, spec=cubic, lesson="2.2-pruning", trials=12,
        kind="step", difficulty=2, minutes=12,
        mistakes={
            "linear": lambda step, end, final: final * step / end,
            "slow_start": lambda step, end, final: final * (step / end) ** 3,
            "kept_fraction": lambda step, end, final: final * (1 - step / end) ** 3,
            "squared": lambda step, end, final: final - final * (1 - step / end) ** 2,
            "final_forgotten": lambda step, end, final: 1 - (1 - step / end) ** 3,
            "geometric": lambda step, end, final: 1 - (1 - final) ** (step / end),
        },
    ),
    Exercise(
        id="pruning.stored_bytes", inputs=byte_inputs, spec=stored_bytes,
        lesson="2.2-pruning", trials=6, kind="formula", difficulty=1, minutes=8,
        mistakes={
            "indices_free": both(lambda v, r, c, n: v, lambda v, r, c, n: v),
            "bits_for_bytes": lambda rows, columns, nonzeros, bits:
                tuple(8 * b for b in stored_bytes(rows, columns, nonzeros, bits)),
            "mask_in_bytes": both(lambda v, r, c, n: v + r * c, lambda v, r, c, n:
                v + 4 * n + 4 * (r + 1)),
            "mask_of_kept": both(lambda v, r, c, n: v + n / 8, lambda v, r, c, n:
                v + 4 * n + 4 * (r + 1)),
            "starts_forgotten": both(lambda v, r, c, n: v + r * c / 8, lambda v, r, c, n:
                v + 4 * n),
            "rows_of_all": both(lambda v, r, c, n: v + r * c / 8, lambda v, r, c, n: v + 8 * n),
            "one_start_short": both(lambda v, r, c, n: v + r * c / 8, lambda v, r, c, n:
                v + 4 * n + 4 * r),
            "swapped": lambda rows, columns, nonzeros, bits:
                stored_bytes(rows, columns, nonzeros, bits)[::-1],
        },
    ),
]  # fmt: skip
