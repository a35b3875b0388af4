"""Right and wrong answers to the exercises of pruning."""

import torch


def selected(gate, up, down, keep):
    return gate.index_select(0, keep), up.index_select(0, keep), down.index_select(1, keep)


def by_mask(gate, up, down, keep):
    mask = torch.zeros(len(gate), dtype=torch.bool)
    mask[keep] = True
    return gate[mask], up[mask], down.T[mask].T


def heads_by_view(q, k, v, o, heads, keep):
    cut = lambda w: w.view(heads, -1, w.shape[1])[keep].flatten(0, 1)  # noqa: E731
    return cut(q), cut(k), cut(v), cut(o.T).T


def heads_by_chunks(q, k, v, o, heads, keep):
    rows = [torch.cat([w.chunk(heads)[h] for h in keep]) for w in (q, k, v)]
    return *rows, torch.cat([o.chunk(heads, dim=1)[h] for h in keep], dim=1)


def step_where(weight, velocity, grad, mask, lr, momentum):
    return torch.where(
        mask, weight - lr * momentum * velocity - lr * grad, torch.zeros_like(weight)
    )


def torch_sgd(weight, velocity, grad, mask, lr, momentum):
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = grad.clone()
    optimizer = torch.optim.SGD([parameter], lr=lr, momentum=momentum)
    optimizer.state[parameter]["momentum_buffer"] = velocity.clone()
    optimizer.step()
    return parameter.detach() * mask


def step_in_place(weight, velocity, grad, mask, lr, momentum):
    velocity.mul_(momentum).add_(grad)
    weight.sub_(velocity, alpha=lr)
    weight[~mask] = 0
    return weight


def index(q, heads, keep):
    size = q.shape[0] // heads
    return (keep[:, None] * size + torch.arange(size)).flatten()


def bytes_by_tensors(rows, columns, nonzeros, bits):
    values = torch.zeros(
        nonzeros, dtype={8: torch.int8, 16: torch.float16, 32: torch.float32}[bits]
    ).nbytes
    places = (
        torch.zeros(nonzeros, dtype=torch.int32).nbytes
        + torch.zeros(rows + 1, dtype=torch.int32).nbytes
    )
    return values + rows * (columns // 8), values + places


def channels_by_einsum(gate, up, down, keep):
    chosen = torch.eye(len(gate), dtype=gate.dtype)[keep]
    return (
        torch.einsum("kc,ci->ki", chosen, gate),
        chosen @ up,
        torch.einsum("oc,kc->ok", down, chosen),
    )


def heads_by_rows(q, k, v, o, heads, keep):
    """Row by row, each asked for its head."""
    wanted, size = keep.tolist(), len(q) // heads
    rows = [row for row in range(len(q)) if row // size in wanted]
    picked = [torch.stack([w[row] for row in rows]) for w in (q, k, v)]
    return *picked, torch.stack([o[:, row] for row in rows], 1)


def step_by_product(weight, velocity, grad, mask, lr, momentum):
    moved = weight.float() - lr * (grad.float() + momentum * velocity.float())
    return moved * mask


def cubic_in_tensors(step, end, final):
    left = torch.tensor((end - step) / end)
    return final - final * left.pow(3)


def bytes_by_parts(rows, columns, nonzeros, bits):
    bitmask = csr = 0.0
    for _ in range(nonzeros):
        bitmask += bits / 8
        csr += bits / 8 + 4
    return [bitmask + rows * columns / 8, csr + 4 + 4 * rows]


RIGHT = {
    "pruning.remove_channels": [channels_by_einsum, selected, by_mask],
    "pruning.remove_heads": [heads_by_rows, heads_by_view, heads_by_chunks],
    "pruning.masked_step": [step_by_product, step_where, step_in_place, torch_sgd],
    "pruning.cubic": [
        cubic_in_tensors,
        lambda step, end, final: final * (1 - (1 - step / end) ** 3),
        lambda step, end, final: (
            final * (3 * (step / end) - 3 * (step / end) ** 2 + (step / end) ** 3)
        ),
    ],
    "pruning.stored_bytes": [
        bytes_by_parts,
        bytes_by_tensors,
        lambda rows, columns, nonzeros, bits: (
            (nonzeros * bits + rows * columns) / 8,
            (nonzeros * (bits + 32) + (rows + 1) * 32) / 8,
        ),
    ],
}

WRONG = {
    "pruning.remove_channels": [
        (lambda gate, up, down, keep:
            tuple(torch.zeros_like(w).index_copy(d, keep, w.index_select(d, keep)) for w, d in (
                (gate, 0), (up, 0), (down, 1))), "zeroed"),
        (lambda gate, up, down, keep: tuple(w.index_select(0, keep) for w in (gate, up, down)),
         "down_rows"),
        (lambda gate, up, down, keep: tuple(w.index_select(1, keep) for w in (gate, up, down)),
         "all_columns"),
        (lambda gate, up, down, keep: (gate.T[keep].T, up.T[keep].T, down[keep]), "transposed"),
        (lambda gate, up, down, keep: (gate[keep], up[keep], down.clone()), "down_forgotten"),
        (lambda gate, up, down, keep: (gate[keep], up.clone(), down[:, keep]), "gate_only"),
        (lambda gate, up, down, keep: selected(gate, up, down,
            torch.tensor(sorted(set(range(len(gate))) - set(keep.tolist())))), "removes_kept"),
        (lambda gate, up, down, keep: (gate[: keep.numel()], up[: keep.numel()],
                                       down[:, : keep.numel()]), "first_ones"),
        (lambda gate, up, down, keep: (gate[keep], up[keep]), None),
        (lambda gate, up, down, keep: (gate[keep], up[keep], down[:, keep].T), None),
    ],
    "pruning.remove_heads": [
        (lambda q, k, v, o, heads, keep:
            (lambda i: (q[i], k[i], v[i], o[:, i]))(
                [r for r in range(len(q)) if r // (len(q) // heads) not in keep.tolist()]),
                "removes_kept"),
        (lambda q, k, v, o, heads, keep:
            (lambda n: (q[:n], k[:n], v[:n], o[:, :n]))(len(keep) * (len(q) // heads)),
            "first_ones"),
        (lambda q, k, v, o, heads, keep: (*heads_by_view(q, k, v, o, heads, keep)[:3], o),
         "output_forgotten"),
        (lambda q, k, v, o, heads, keep: tuple(w[index(q, heads, keep)] for w in (q, k, v, o)),
         "output_rows"),
        (lambda q, k, v, o, heads, keep: (*(w.T[index(q, heads, keep)].T for w in (q, k, v)),
                                          o[index(q, heads, keep)]), "columns"),
        (lambda q, k, v, o, heads, keep:
            (q[index(q, heads, keep)], k, v, o[:, index(q, heads, keep)]), "query_only"),
        (lambda q, k, v, o, heads, keep: (q[keep], k[keep], v[keep], o[:, keep]), "one_row_a_head"),
        (lambda q, k, v, o, heads, keep:
            tuple(w[(torch.arange(len(q) // heads) * heads + keep[:, None]).flatten()] if w is not o
                  else w[:, (torch.arange(len(q) // heads) * heads + keep[:,
                      None]).flatten()] for w in (q, k, v, o)), "strided"),
        (lambda q, k, v, o, heads, keep: (q[index(q, heads, keep)], o[:, index(q, heads, keep)]),
         None),
        (lambda q, k, v, o, heads, keep: heads_by_view(q, k, v, o, heads, torch.arange(len(keep))),
         "first_ones"),
        (lambda q, k, v, o, heads, keep: heads_by_chunks(q, k, v, o, len(q) // heads, keep),
         "heads_is_size"),
    ],
    "pruning.masked_step": [
        (lambda weight, velocity, grad, mask, lr, momentum:
            weight - lr * momentum * velocity - lr * grad, "mask_forgotten"),
        (lambda weight, velocity, grad, mask, lr, momentum:
            weight - lr * momentum * velocity - lr * grad.masked_fill(~mask, 0), "gradient_only"),
        (lambda weight, velocity, grad, mask, lr, momentum:
            weight.masked_fill(~mask, 0) - lr * (grad + momentum * velocity), "mask_forgotten"),
        (lambda weight, velocity, grad, mask, lr, momentum:
            weight - lr * grad - lr * momentum * torch.where(mask, velocity, 0), "velocity_only"),
        (lambda weight, velocity, grad, mask, lr, momentum:
            torch.where(mask, weight - lr * grad, 0.0 * weight), "momentum_forgotten"),
        (lambda weight, velocity, grad, mask, lr, momentum:
            torch.where(mask, weight - momentum * velocity - lr * grad, 0.0), "lr_inside"),
        (lambda weight, velocity, grad, mask, lr, momentum:
            (weight - lr * (momentum * velocity + grad)).masked_fill(mask, 0), "mask_inverted"),
        (lambda weight, velocity, grad, mask, lr, momentum:
            step_where(weight, -velocity, -grad, mask, lr, momentum), "sign"),
        (lambda weight, velocity, grad, mask, lr, momentum:
            step_where(weight, velocity, grad, mask, 1.0, momentum), None),
        (lambda weight, velocity, grad, mask, lr, momentum:
            (step_where(weight, velocity, grad, mask, lr, momentum), velocity), None),
    ],
    "pruning.cubic": [
        (lambda step, end, final: step / end * final, "linear"),
        (lambda step, end, final: final * step**3 / end**3, "slow_start"),
        (lambda step, end, final: final * ((end - step) / end) ** 3, "kept_fraction"),
        (lambda step, end, final: final * (1 - ((end - step) / end) ** 2), "squared"),
        (lambda step, end, final: 1 - ((end - step) / end) ** 3, "final_forgotten"),
        (lambda step, end, final: 1 - (1 - final) ** (step / end), "geometric"),
        (lambda step, end, final: final, None),
    ],
    "pruning.stored_bytes": [
        (lambda rows, columns, nonzeros, bits: (nonzeros * bits / 8,) * 2, "indices_free"),
        (lambda rows, columns, nonzeros, bits: (nonzeros * bits + rows * columns,
            nonzeros * (bits + 32) + 32 * (rows + 1)), "bits_for_bytes"),
        (lambda rows, columns, nonzeros, bits: (nonzeros * bits / 8 + rows * columns,
            bytes_by_tensors(rows, columns, nonzeros, bits)[1]), "mask_in_bytes"),
        (lambda rows, columns, nonzeros, bits: (nonzeros * (bits + 1) / 8,
            bytes_by_tensors(rows, columns, nonzeros, bits)[1]), "mask_of_kept"),
        (lambda rows, columns, nonzeros, bits: (bytes_by_tensors(rows, columns, nonzeros, bits)[0],
            nonzeros * (bits + 32) / 8), "starts_forgotten"),
        (lambda rows, columns, nonzeros, bits: (bytes_by_tensors(rows, columns, nonzeros, bits)[0],
            nonzeros * (bits + 64) / 8), "rows_of_all"),
        (lambda rows, columns, nonzeros, bits: (bytes_by_tensors(rows, columns, nonzeros, bits)[0],
            nonzeros * (bits + 32) / 8 + 4 * rows), "one_start_short"),
        (lambda rows, columns, nonzeros, bits: bytes_by_tensors(rows, columns, nonzeros,
            bits)[::-1], "swapped"),
        (lambda rows, columns, nonzeros, bits: bytes_by_tensors(rows, columns, nonzeros, bits)[0],
         None),
    ],
}  # fmt: skip
