"""What a layer does without some of its inputs: the moments of those it had, and the least-squares
fit by those that stay.
"""

import warnings

from torch import Tensor, nn

from course_utils.errors import CompressionWarning
from course_utils.models import walk
from course_utils.quantization.hessians import check_hessian, shrunk
from course_utils.quantization.layer import naming

from . import anatomy, groups

ENOUGH = 2  # tokens an input, from which on the fit is by all that they say


def second_moment(
    block: nn.Module, states: walk.States, layer: nn.Module, name: str = "model"
) -> Tensor:
    """H = (2/N) XᵀX of the inputs that the states bring to one layer of a block, `name` in
    messages.

    Raises CompressionError where they hold NaN or infinity.
    """
    total: list = [0, 0]

    def see(_: nn.Module, x: Tensor) -> None:
        total[0], total[1] = total[0] + x.T @ x, total[1] + len(x)

    walk.watch_inputs(block, states, see, [layer])
    H = total[0] * (2.0 / total[1])
    with naming(name):
        check_hessian(H, H.shape[1])
    return H


def narrow(out: nn.Module, H: Tensor, columns: Tensor, compensate: bool, tokens: int) -> None:
    """Leave a layer these inputs only.

    `compensate`: its weights for them take over what they can of the others' work.
    """
    weight = walk.weight_of(out).float()
    anatomy.set_weight(
        out,
        groups.compensated(weight, shrunk(H, tokens, ENOUGH), columns)
        if compensate
        else weight[:, columns],
    )


def warn_of_few_tokens(tokens: int, inputs: int, name: str, compensate: bool) -> None:
    """Warn where a fit has so few tokens for its inputs that it is `shrunk`."""
    if compensate and tokens < ENOUGH * inputs:
        warnings.warn(
            f"calibration: {tokens} tokens for the {inputs} inputs of {name}, whose weights are "
            "refitted to those that stay. What so few say "
            "of correlations is mostly chance, so that it is used in part only (hessians.shrunk); "
            f"give {8 * inputs} or more.",
            CompressionWarning, stacklevel=3,
        )  # fmt: skip
