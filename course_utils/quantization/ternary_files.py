"""Ternary layers in files: five codes in a byte, 1.6 bits each, where the products read 2 bits.

A layer of 2 bits with a symmetric grid whose codes are 1, 2 and 3 only (weights −s, 0 and s) is
stored under `packed_ternary` in the place of `packed`; reading gives the layer back bit for bit.
"""

from typing import Any

from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.kernels.packing import pack, pack_ternary, unpack, unpack_ternary

from .layer import QuantizedLinear

WIDE, NARROW = ".packed", ".packed_ternary"


def narrowed(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors`, by their names in `model`, with the codes of its ternary layers five in a byte."""
    found = dict(tensors)
    for name, layer in model.named_modules(remove_duplicate=False):
        if (
            not isinstance(layer, QuantizedLinear)
            or layer.bits != 2
            or not layer.symmetric
            or name + WIDE not in found
        ):
            continue
        codes = unpack(layer.packed, 2, layer.in_features)
        if codes.numel() and codes.all():  # no −2 s
            found[name + NARROW] = pack_ternary(codes - 1)
            del found[name + WIDE]
    return found


def widened(tensors: dict[str, Tensor], layers: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """The inverse of `narrowed`, for layers with these arguments of their constructors.

    Raises CompressionError, naming the layer.
    """
    found = dict(tensors)
    for stored in [name for name in tensors if name.endswith(NARROW)]:
        name = stored.removesuffix(NARROW)
        try:
            codes = unpack_ternary(found.pop(stored), layers[name]["in_features"])
        except (KeyError, CompressionError) as error:
            raise CompressionError(
                f"{stored}: not the codes of a layer of this model ({error}); save the model again."
            ) from error
        found[name + WIDE] = pack(codes + 1, 2)
    return found
