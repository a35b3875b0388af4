"""Right and wrong answers to the exercises of lab_gptq."""

import torch

from course_utils.learn.exercises.formalization.gptq import quantize_layer


def walked(weight, H, bits, group_size, order):
    codes, scale, zero = quantize_layer(weight[:, order], H[order][:, order], bits, group_size)
    return codes, scale, zero, torch.arange(weight.shape[1]) // group_size


def by_argsort(weight, H, bits, group_size, order=None, codes_by=None, index_by=None):
    order = H.diagonal().argsort(descending=True) if order is None else order
    codes, scale, zero, index = walked(weight, H, bits, group_size, order)
    back = order.argsort()
    codes_by, index_by = (back if by is None else by for by in (codes_by, index_by))
    return codes[:, codes_by], scale, zero, index[index_by]


def by_writing(weight, H, bits, group_size):
    order = torch.sort(-H.diagonal()).indices
    codes, scale, zero, index = walked(weight, H, bits, group_size, order)
    placed, groups = torch.empty_like(codes), torch.empty_like(index)
    placed[:, order], groups[order] = codes, index
    return placed, scale, zero, groups


def by_matrix(weight, H, bits, group_size):
    order = sorted(range(len(H)), key=lambda j: float(H[j, j]), reverse=True)
    P = torch.eye(len(H), dtype=H.dtype)[order]
    codes, scale, zero = quantize_layer(weight @ P.T, P @ H @ P.T, bits, group_size)
    index = P.T @ (torch.arange(len(H)) // group_size).to(P)
    return (codes.to(P) @ P).to(torch.uint8), scale, zero, index.long()


def hessian_left(weight, H, bits, group_size):
    order = H.diagonal().argsort(descending=True)
    codes, scale, zero = quantize_layer(weight[:, order], H, bits, group_size)
    back = order.argsort()
    return codes[:, back], scale, zero, back // group_size


def falling(H):
    return H.diagonal().argsort(descending=True)


here = torch.arange


def by_columns(weight, H, bits, group_size):
    """Code and group of each column are looked up by its place in the order."""
    order = sorted(range(len(H)), key=lambda j: -float(H[j, j]))
    codes, scale, zero = quantize_layer(weight[:, order], H[order][:, order], bits, group_size)
    where = [order.index(column) for column in range(len(H))]
    placed = torch.stack([codes[:, place] for place in where], dim=1)
    return placed, scale, zero, torch.tensor([place // group_size for place in where])


RIGHT = {"lab_gptq.act_order": [by_columns, by_argsort, by_writing, by_matrix]}
WRONG = {
    "lab_gptq.act_order": [
        (lambda weight, H, bits, group_size:
            by_argsort(weight, H, bits, group_size, order=falling(-H)), "ascending"),
        (lambda weight, H, bits, group_size: walked(weight, H, bits, group_size, here(len(H))),
         "no_order"),
        (lambda weight, H, bits, group_size: by_argsort(weight, H, bits, group_size,
            order=weight.square().sum(0).argsort(descending=True)), "by_weights"),
        (hessian_left, "hessian_left"),
        (lambda weight, H, bits, group_size: walked(weight, H, bits, group_size, falling(H)),
         "not_put_back"),
        (lambda weight, H, bits, group_size:
            by_argsort(weight, H, bits, group_size, index_by=here(len(H))), "index_not_put_back"),
        (lambda weight, H, bits, group_size:
            by_argsort(weight, H, bits, group_size, codes_by=here(len(H))), "codes_not_put_back"),
        (lambda weight, H, bits, group_size: by_argsort(weight, H, bits, group_size,
            codes_by=falling(H), index_by=falling(H)), "taken_twice"),
        (lambda weight, H, bits, group_size: by_argsort(weight, H, bits, len(H)), None),
        (lambda weight, H, bits, group_size: by_argsort(weight, H, bits, group_size)[:3], None),
    ]
}  # fmt: skip
