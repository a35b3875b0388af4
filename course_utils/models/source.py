"""Where the blocks of a model lie that is not in memory."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

from .shelf import Shelf

# what a method has to tell of each layer: plain numbers and names
Facts = dict[str, dict[str, Any]]


class Source(Protocol):
    """Where the blocks of a model lie that is not in memory: see `models.shards` and
    `quantization.streaming`.
    """

    shelf: Shelf

    def all_done(self) -> Facts | None:
        """What an interrupted run had to tell, if it was done with every block."""

    def begin(self, model: nn.Module, calibrated: bool) -> None:
        """Give the model what it needs before its first block."""

    def visit(self, model: nn.Module, number: int, work: Callable[[], Facts]) -> Facts:
        """Give block `number` its numbers, do the work on it, and keep what came out."""

    def end(self, model: nn.Module) -> None:
        """Let go of all that is still there."""


def source_of(model: nn.Module) -> Source | None:
    """Where the numbers of a model's blocks are, if not in the model itself."""
    return getattr(model, "blocks_lie_in", None)
