"""Entropy-coded models that decode block by block: memory holds the streams, and the codes of one
block at a time.

By default an entropy-coded layer keeps its codes, one or two bytes each, after its first product.
Here a block lets go of them when it is done, and decodes them again in the next pass: slower, and
the only way where even codes of one byte are too many. The dense matrices are never there together:
each layer expands its own for its product.
"""

from typing import Any

from torch import nn

from course_utils.errors import CompressionError
from course_utils.models import walk

from .entropy_coded import EntropyCodedLinear


def one_block_at_a_time(model: nn.Module) -> nn.Module:
    """The same model, which from now on lets the codes of each block go when the block is done.

    Raises CompressionError where no layer is entropy-coded.
    """
    layers = [module for module in model.modules() if isinstance(module, EntropyCodedLinear)]
    if not layers:
        raise CompressionError(
            "model: no layer of it is entropy-coded; make one with entropy_coded.quantize."
        )
    for layer in layers:
        layer.forget()
    for block in walk.blocks(model):
        block.register_forward_hook(_let_go)
    return model


def _let_go(block: nn.Module, _given: Any, _result: Any) -> None:
    for module in block.modules():
        if isinstance(module, EntropyCodedLinear):
            module.forget()
