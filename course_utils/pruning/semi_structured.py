"""2:4 weights through torch's semi-structured kernels, on NVIDIA GPUs from the Ampere generation
on.

The kernels skip the two zeros of every four neighbours; torch keeps the two values and two bits for
each place (`storage` writes the same places). Speed depends on shapes and device: measure it
(benchmarks/sparse_cpu.py).
"""

import torch
from torch import nn

from course_utils.errors import CompressionError
from course_utils.models import walk

from . import storage

CAPABILITY = (8, 0)
DTYPES = (torch.float16, torch.bfloat16)
ROWS, COLUMNS = 32, 64  # what both of torch's backends ask of 16-bit weights (out, in)


def check_device() -> None:
    """Raises CompressionError that says what is missing on this machine."""
    if not torch.cuda.is_available():
        raise CompressionError(
            "device: torch sees no NVIDIA GPU, and the 2:4 kernels run nowhere else. "
            "On this machine 2:4 saves bytes (storage.compress) but no time."
        )
    if (found := torch.cuda.get_device_capability()) < CAPABILITY:
        raise CompressionError(
            f"device: {torch.cuda.get_device_name()} has compute capability {found[0]}.{found[1]}; "
            f"the 2:4 kernels need {CAPABILITY[0]}.{CAPABILITY[1]} (Ampere) or higher."
        )


def use_kernels(model: nn.Module) -> list[str]:
    """Give every nn.Linear whose weight is 2:4 torch's compressed weight, in place, and return the
    names of those layers.

    For inference: the weights cannot be trained or saved as they are afterwards. Layers whose
    weight is not 2:4, or not a multiple of 32 outputs and 64 inputs, stay dense. Raises
    CompressionError without such a GPU, for weights that are not on it in 16 bits, or if no layer
    fits; the model is then unchanged.
    """
    check_device()
    layers = {name: m for name, m in walk.compressible(model).items() if isinstance(m, nn.Linear)}
    for name, module in layers.items():
        if module.weight.dtype not in DTYPES or not module.weight.is_cuda:
            raise CompressionError(
                f"model: {name} is {module.weight.dtype} on {module.weight.device}; "
                "call model.half().cuda() first."
            )
    chosen = [name for name, m in layers.items() if _fits(m.weight)]
    if not chosen:
        raise CompressionError(
            "model: no linear layer is 2:4 with a multiple of 32 outputs and 64 inputs; "
            "prune with pattern='2:4'."
        )
    for name in chosen:
        sparse = torch.sparse.to_sparse_semi_structured(layers[name].weight.detach())
        layers[name].weight = nn.Parameter(sparse, requires_grad=False)
    return chosen


def _fits(weight: torch.Tensor) -> bool:
    return (
        weight.shape[0] % ROWS == 0
        and weight.shape[1] % COLUMNS == 0
        and storage.fits("2:4", weight)
    )
