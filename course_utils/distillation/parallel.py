"""Data parallel training: every process works on its part of each batch, and the gradients are
averaged.

    torchrun --nproc-per-node 2 -m course_utils.distillation --out runs/student

With W processes, process r takes rows r, r + W, r + 2W … of each batch; weighting its mean loss by
its share of the counted tokens makes the averaged gradient that of the whole batch. Losses that
relate the examples of a batch to each other (relation, contrastive) see only their own part; with
padding, those that average over all real tokens (feature, attention, values) are weighted by the
predicted ones too, which differs a little from the mean over the whole batch.
"""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from course_utils.errors import CompressionError


def device() -> torch.device:
    """Where this process should work: a GPU of its own where there are GPUs, else the processor."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def start() -> bool:
    """Join the other processes if torchrun started this one (gloo for tensors on the CPU, nccl for
    those on GPUs).
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return dist.is_initialized()
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return True


def world() -> int:
    """How many processes train together; 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def share(rows: Tensor) -> Tensor:
    """This process's rows of a batch."""
    if len(rows) < world():
        raise CompressionError(
            f"batch: {len(rows)} rows for {world()} processes; use at least one for each."
        )
    return rows[rank() :: world()]


def total(value: float, like: Tensor) -> float:
    """The sum over all processes."""
    if world() == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64, device=like.device)
    dist.all_reduce(summed)
    return float(summed)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over the processes; a parameter without one anywhere keeps
    none.
    """
    if world() == 1:
        return
    parameters = list(parameters)
    used = torch.tensor(
        [float(p.grad is not None) for p in parameters], device=parameters[0].device
    )
    dist.all_reduce(used)
    live = [p for p, n in zip(parameters, used.tolist(), strict=True) if n]
    for p in live:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    flat = torch.cat([p.grad.flatten() for p in live])  # type: ignore[union-attr]
    dist.all_reduce(flat)
    for p, part in zip(live, flat.div_(world()).split([p.numel() for p in live]), strict=True):
        p.grad.copy_(part.view_as(p))  # type: ignore[union-attr]


def wait() -> None:
    """Until every process is here."""
    if world() > 1:
        dist.barrier()


def stop() -> None:
    """Leave the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
