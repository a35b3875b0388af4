"""One calibration for several processes: each runs its share of the sequences, and the sums over tokens are added up.

Start the same program several times with torchrun, call torch.distributed.init_process_group("gloo") (or "nccl" with a GPU each),
and compress inside `with parallel.calibration():`. Every process then gets the same Hessians, and so the same result; let one save it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from course_utils.errors import CompressionError

from .calibration import Calibration

_shared = False


@contextmanager
def calibration() -> Iterator[None]:
    """While this is open, methods whose Hessians come from `hessians.block_hessians` (gptq, sparsegpt) share their calibration.

    Every process must give the same model, calibration and settings. Raises CompressionError where no process group was made.
    """
    global _shared
    if not (distributed.is_available() and distributed.is_initialized()):
        raise CompressionError('parallel: no process group; start with torchrun and call torch.distributed.init_process_group("gloo") first.')
    _shared = True
    try:
        yield
    finally:
        _shared = False


def part_of(ids: Any) -> Any:
    """This process's sequences of a calibration; all of them if nothing is shared. Raises CompressionError for fewer than processes."""
    if not _shared:
        return ids
    rank, size = distributed.get_rank(), distributed.get_world_size()
    if len(ids) < size:
        raise CompressionError(f"calibration: {len(ids)} sequences for {size} processes; give one to each at least.")
    return Calibration(ids.rows[rank::size]) if isinstance(ids, Calibration) else ids[rank::size]


def add_up(sums: dict[nn.Module, Tensor], counts: dict[nn.Module, int], layers: Sequence[nn.Module]) -> None:
    """Add what the processes summed over their tokens, in place: the sums (in, in) of `layers` and the numbers of tokens."""
    if not _shared:
        return
    every = torch.tensor([counts.get(layer, 0) for layer in layers])
    distributed.all_reduce(every)
    for layer, count in zip(layers, every.tolist(), strict=True):
        if count:
            weight: Any = layer.weight
            inputs = weight.shape[0] if type(layer).__name__ == "Conv1D" else weight.shape[1]
            total = sums.pop(layer, None)
            if total is None:
                total = weight.new_zeros(inputs, inputs, dtype=torch.float32)
            elif any(total is other for other in sums.values()):
                total = total.clone()
            distributed.all_reduce(total)
            sums[layer], counts[layer] = total, count
