"""A forward pass that stops in front of every block, so that the block can be looked at, and
changed, before it runs.

The pass is the model's own, in a thread: each block gets exactly the arguments that the model gives
it (masks by layer type, rotary embeddings, per-layer inputs, key-value states of earlier blocks),
and whatever the model does between blocks is done.
Only one thread computes at a time; the others wait.
"""

import inspect
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError

from .shelf import Place, Shelf

Arrival = tuple[nn.Module, Tensor, dict[str, Any]]


class _Stopped(BaseException):  # not an Exception: a model's own error handling must not swallow it
    pass


def by_name(block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """(hidden states, all other arguments by keyword) of a call of a block.

    Raises CompressionError where positional arguments have no name.
    """
    names = [
        name for name, p in inspect.signature(block.forward).parameters.items()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]  # fmt: skip
    if len(args) > len(names):
        raise CompressionError(
            f"model: {type(block).__name__} takes arguments that have no names; "
            "it cannot be run block by block."
        )
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    return named.pop("hidden_states" if "hidden_states" in named else next(iter(named))), named


class Pass(threading.Thread):
    """One forward pass of `model` on `inputs`, which halts wherever `gate` is called."""

    def __init__(self, model: nn.Module, inputs: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.model, self.inputs = model, inputs
        self.stopped, self.started, self.go = False, False, threading.Semaphore(0)
        self.reports: queue.SimpleQueue[Arrival | BaseException | None] = queue.SimpleQueue()

    def run(self) -> None:
        """The model's own forward pass, in a thread of its own."""
        try:
            with torch.no_grad():
                self.model(**self.inputs)
            self.reports.put(None)
        except _Stopped:
            self.reports.put(None)
        except BaseException as error:  # handed to the thread that waits
            self.reports.put(error)

    def gate(self, block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Called in this pass's thread when the model calls a block."""
        self.reports.put((block, *by_name(block, args, kwargs)))
        del args, kwargs
        self.go.acquire()
        if self.stopped:
            raise _Stopped

    def arrive(self) -> Arrival | None:
        """Start or go on, and wait for the next block's arguments; None at the end."""
        if self.started:
            self.go.release()
        else:
            self.started = True
            self.start()
        report = self.reports.get()
        if isinstance(report, BaseException):
            raise report
        return report

    def stop(self) -> None:
        """End the pass early."""
        self.stopped = True
        if self.started and self.is_alive():
            self.go.release()
            self.join()


class States(Sequence[tuple[Tensor, dict[str, Any]]]):
    """What enters one block: (hidden states, all other arguments by keyword) of each batch.

    With a shelf, hidden states are there only while their turn lasts: look at them in a loop, and
    keep none of them.
    """

    def __init__(self, arrived: list[Arrival], shelf: Shelf | None = None) -> None:
        self.arrived, self.shelf = arrived, shelf

    def __len__(self) -> int:
        return len(self.arrived)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        _, hidden, kwargs = self.arrived[i]
        if self.shelf is not None:
            self.shelf.bring(hidden)
        return hidden, kwargs

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        for i in range(len(self)):
            hidden, kwargs = self[i]
            try:
                yield hidden, kwargs
            finally:
                if self.shelf is not None:
                    self.shelf.put(hidden)


def stations(
    model: nn.Module,
    blocks: nn.ModuleList,
    batches: Iterable[dict[str, Any]],
    shelf: Shelf | None = None,
) -> Generator[tuple[nn.Module, States], None, None]:
    """For each block that the model calls, in its order: (block, what enters it in every batch),
    before it has run.

    Asking for the next lets the block, as it is then, run; with a shelf, that empties the states
    that were given before.
    It ends before the last block of `blocks` runs.
    """
    passes = [Pass(model, inputs) for inputs in batches]
    places = [Place(shelf or Shelf()) for _ in passes]

    def gate(block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        here = threading.current_thread()
        # another walk through the same model has gates of its own
        if isinstance(here, Pass) and here in passes:
            here.gate(block, args, kwargs)

    handles = [
        block.register_forward_pre_hook(gate, with_kwargs=True) for block in dict.fromkeys(blocks)
    ]
    met: list[Arrival] = []
    try:
        for _ in blocks:
            now: list[Arrival] = []
            for each, place in zip(passes, places, strict=True):
                place.depart()
                if shelf is not None and met:
                    del met[0]
                report = each.arrive()
                if report is not None:
                    place.arrive(report[1])
                    now.append(report)
                del report
            if len(now) < len(passes):
                break
            if len({id(block) for block, _, _ in now}) > 1:
                raise CompressionError(
                    "model: its blocks are called in an order that depends on the text; "
                    "it cannot be run block by block."
                )
            met = now
            yield met[0][0], States(met, shelf)
    finally:
        for each in passes:
            each.stop()
        for handle in handles:
            handle.remove()
