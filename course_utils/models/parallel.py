"""One calibration for several processes: each runs its share of the sequences, and the sums over
tokens are added up.

Start the same program several times with torchrun, call
torch.distributed.init_process_group("gloo") (or "nccl" with a GPU each), and compress inside `with
parallel.calibration():`. Every process then gets the same Hessians, and so the same result; let one
save it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from course_utils.errors import CompressionError

from .calibration import Calibration

_shared = False


@contextmanager
def calibration() -> Iterator[None]:
    """While this is open, methods that go block by block (gptq, sparsegpt, wanda) share their
    calibration.

    Every process must give the same model, calibration and settings; of a model that is compressed
    from disk to disk (`quantization.streaming`) the first process writes the result. Raises
    CompressionError where no process group was made.
    """
    global _shared
    if not (distributed.is_available() and distributed.is_initialized()):
        raise CompressionError(
            "parallel: no process group; start with torchrun and call "
            'torch.distributed.init_process_group("gloo") first.'
        )
    _shared = True
    try:
        yield
    finally:
        _shared = False


def processes() -> int:
    """How many share the calibration."""
    return distributed.get_world_size() if _shared else 1


def leads() -> bool:
    """Whether this process is the only one, or the first of those that share:
    the one that writes.
    """
    return not _shared or distributed.get_rank() == 0


def first(work: Callable[[], Any]) -> Any:
    """What work() returns in the process that leads, for all of them; its CompressionError is one
    in all of them.
    """
    if not _shared:
        return work()
    told: list[Any] = [None, None]
    if leads():
        try:
            told[0] = work()
        except CompressionError as error:
            told[1] = str(error)
    distributed.broadcast_object_list(told)
    if told[1] is not None:
        raise CompressionError(told[1])
    return told[0]


def meet() -> None:
    """Wait until every process is here."""
    if _shared:
        distributed.barrier()


def part_of(ids: Any) -> Any:
    """This process's sequences of a calibration; all of them if nothing is shared.

    Raises CompressionError for fewer than processes.
    """
    if not _shared:
        return ids
    rank, size = distributed.get_rank(), distributed.get_world_size()
    if len(ids) < size:
        raise CompressionError(
            f"calibration: {len(ids)} sequences for {size} processes; give one to each at least."
        )
    return Calibration(ids.rows[rank::size]) if isinstance(ids, Calibration) else ids[rank::size]


def add_up(
    sums: dict[nn.Module, Tensor],
    counts: dict[nn.Module, int],
    layers: Sequence[nn.Module],
    dimensions: int = 2,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Add what the processes summed over their tokens, in place: the sums (in, in), or (in,), of
    `layers` and the numbers of tokens.
    """
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
                total = weight.new_zeros((inputs,) * dimensions, dtype=dtype)
            elif any(total is other for other in sums.values()):
                total = total.clone()
            distributed.all_reduce(total)
            sums[layer], counts[layer] = total, count
