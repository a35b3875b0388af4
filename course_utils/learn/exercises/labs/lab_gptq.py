"""Lab 3.1 beyond lesson 3.2: GPTQ with the columns in the order of their importance."""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..formalization.gptq import layer_inputs, quantize_layer


def act_order(
    weight: Tensor,
    H: Tensor,
    bits: int,
    group_size: int,
    *,
    order=None,
    permute=True,
    codes_back=True,
    index_back=True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """GPTQ of the columns by falling H_jj; codes and group index in the original order.

    Returns codes (out, in), scale (out, groups), zero point (out, groups), group index (in,): the
    group of each column.
    """
    order = torch.argsort(H.diagonal(), descending=True) if order is None else order
    moved = H[order][:, order] if permute else H
    found, scale, zero = quantize_layer(weight[:, order], moved, bits, group_size)
    codes, index = found.clone(), torch.zeros(len(order), dtype=torch.long)
    for place, column in enumerate(order.tolist()):
        codes[:, column if codes_back else place] = found[:, place]
        index[column if index_back else place] = place // group_size
    return codes, scale, zero, index


def taken_twice(weight, H, bits, group_size):
    """The order applied again, where its inverse is wanted."""
    order = torch.argsort(H.diagonal(), descending=True)
    found, scale, zero = quantize_layer(weight[:, order], H[order][:, order], bits, group_size)
    return found[:, order], scale, zero, (torch.arange(len(order)) // group_size)[order]


def in_order(weight, H, bits, group_size):
    return act_order(weight, H, bits, group_size, order=torch.arange(len(H)))


EXERCISES = [
    Exercise(
        id="lab_gptq.act_order",
        inputs=layer_inputs,
        spec=act_order,
        lesson="lab-3.1-gptq",
        trials=5,
        mistakes={
            "ascending": lambda weight, H, bits, group_size: act_order(
                weight, H, bits, group_size, order=torch.argsort(H.diagonal())
            ),
            "no_order": in_order,
            "by_weights": lambda weight, H, bits, group_size: act_order(
                weight, H, bits, group_size, order=weight.norm(dim=0).argsort(descending=True)
            ),
            "hessian_left": lambda **given: act_order(**given, permute=False),
            "not_put_back": lambda **given: act_order(**given, codes_back=False, index_back=False),
            "index_not_put_back": lambda **given: act_order(**given, index_back=False),
            "codes_not_put_back": lambda **given: act_order(**given, codes_back=False),
            "taken_twice": taken_twice,
        },
    ),
]
