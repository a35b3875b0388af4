"""Compress a model that does not fit into memory: its blocks are read, worked on and written one
after the other.

The methods are those for models in memory (`walk.each_block` is their one loop); here is where the
blocks come from and go to.
What is done lies beside the result's place, in `.NAME.part`, one file for each block, and is put
there as NAME when all of it is written. A run that is interrupted is taken up by the same call:
blocks that are done are read back, the states go through them (their forward passes are what an
interruption costs), and the result is bit for bit that of a run without interruption.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import checks, experts, parallel, sharing
from course_utils.models.blocks import blocks
from course_utils.models.checkpointing import read_notes, write_tensors, write_text
from course_utils.models.empty import drop, large_blocks_given_back, move
from course_utils.models.shards import Shards
from course_utils.models.shelf import Shelf
from course_utils.models.source import Facts

from . import compressed
from .compressed import Compressed, narrow
from .ternary_files import narrowed, widened

JOB = "job.json"
PIECE = 2**28  # bytes of the tensors outside the blocks that are written to one file


class Stream:
    """A model's blocks on their way from its folder to that of the result.

    See `models.source.Source`.

    `states`: where the hidden states of calibration wait ("memory", "half", "disk":
    `models.shelf`). `device`: where blocks and states are computed; everything is written from
    there.
    """

    def __init__(self, shards: Shards, part: Path, states: str = "memory") -> None:
        self.shards, self.part, self.states = shards, part, states
        self.shelf = Shelf(states, part if states == "disk" else None)
        self.ready: set[int] = parallel.first(
            lambda: {number for number in range(shards.count) if self.file(number).is_file()}
        )
        # the block that has its numbers, and the modules that got them
        self.here: tuple[int, list[nn.Module]] | None = None

    def __deepcopy__(self, memo: Any) -> "Stream":
        return self

    def file(self, number: int) -> Path:
        """Where a finished block is kept."""
        return self.part / f"block-{number:05d}.safetensors"

    def all_done(self) -> Facts | None:
        """What is known of the layers if all blocks are finished, else None."""
        if len(self.ready) < self.shards.count:
            return None
        return parallel.first(
            lambda: {
                k: v for number in range(self.shards.count) for k, v in self.facts(number).items()
            }
        )

    def facts(self, number: int) -> Facts:
        """What is known of a finished block's layers."""
        return json.loads(read_notes(self.file(number))["facts"])

    def begin(self, model: nn.Module, calibrated: bool) -> None:
        """Load what stands before the blocks."""
        if not calibrated:
            return
        head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
        names = {id(module): name for name, module in model.named_modules()}
        # the walk ends before it
        skipped = f"{names[id(head)]}." if head is not None and id(head) in names else "\n"
        tied = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
        for name, tensor in self.shards.outside(lambda ours: not ours.startswith(skipped)).items():
            module_name, _, last = name.rpartition(".")
            module = model.get_submodule(module_name)
            if last in module._parameters:
                module._parameters[last] = nn.Parameter(tensor.to(self.shards.device), False)
            else:
                module._buffers[last] = tensor.to(self.shards.device)
        self.embedding: Any = tied
        for module in model.modules():  # rotary frequencies and the like
            for last, buffer in module._buffers.items():
                if buffer is not None and not buffer.is_meta:
                    module._buffers[last] = buffer.to(self.shards.device)

    def visit(self, model: nn.Module, number: int, work: Callable[[], Facts]) -> Facts:
        """Load a block, let `work` compress it, write it; or take what was written before."""
        self.leave(model)
        if getattr(self, "embedding", None) is not None:
            drop(self.embedding)  # every batch has gone through it
            self.embedding = None
        block = blocks(model)[number]
        if number in self.ready:
            self.put_back(block, number)
            self.here = number, list(block.modules())
            return self.facts(number)
        move(self.shards.block(number), block)
        given = list(block.modules())
        self.here = number, given
        facts = work()
        for module in set(given) - set(block.modules()):  # layers that were replaced
            drop(module)
        if parallel.leads():
            self.write(block, number, facts)
        self.ready.add(number)
        return facts

    def leave(self, model: nn.Module) -> None:
        """Give back the memory of the block visited last."""
        if self.here is not None:
            number, given = self.here
            for module in (*given, blocks(model)[number]):
                drop(module)
            experts.fuse(blocks(model)[number])
            self.here = None

    def end(self, model: nn.Module) -> None:
        """Give back everything."""
        self.leave(model)
        self.shelf.close()
        drop(model)
        if isinstance(model, PreTrainedModel):
            model.tie_weights()

    def write(self, block: nn.Module, number: int, facts: Facts, **notes: str) -> None:
        """The block with the library's names, in one move."""
        whole = experts.fuse(sharing.structure(block))
        tensors = {
            name: narrow(tensor).contiguous().cpu()
            for name, tensor in narrowed(whole, whole.state_dict()).items()
        }
        kept = {
            "facts": json.dumps(facts),
            "layers": json.dumps(compressed.layers_of(whole)),
            **notes,
        }
        seen: set[int] = set()
        for name, tensor in tensors.items():  # what layers share is written for each of them
            tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
            seen.add(tensor.data_ptr())
        write_tensors(
            self.file(number),
            {f"{self.shards.path}.{number}.{name}": tensor for name, tensor in tensors.items()},
            kept,
        )

    def done(self, number: int) -> nn.Module:
        """A block that was written, with its numbers.

        Raises CompressionError if the file is damaged.
        """
        file = self.file(number)
        made = self.shards.blank_block(number)
        layers = json.loads(read_notes(file)["layers"])
        if any(".listed." in f".{name}" for name in layers):
            experts.list_in_place(made)
        compressed.build_layers(made, layers, self.shards.dtype, file)
        prefix = f"{self.shards.path}.{number}."
        dtypes = {name: tensor.dtype for name, tensor in made.state_dict().items()}
        try:
            tensors = widened(
                {name.removeprefix(prefix): tensor for name, tensor in load_file(file).items()},
                layers,
            )
            made.load_state_dict(
                {
                    name: tensor.to(self.shards.device, dtypes[name])
                    for name, tensor in tensors.items()
                },
                assign=True,
            )
        except (SafetensorError, RuntimeError, KeyError) as error:
            raise CompressionError(
                f"{file}: damaged ({str(error).splitlines()[0]}); delete it and run again."
            ) from error
        return made

    def put_back(self, block: nn.Module, number: int) -> None:
        """Make `block` the one that was written: what runs now is what would have run without an
        interruption.
        """
        made = self.done(number)
        experts.list_in_place(made)
        block._modules, block._parameters, block._buffers = (
            made._modules,
            made._parameters,
            made._buffers,
        )

    def finish(
        self,
        result: Compressed,
        out: Path,
        tokenizer: Any,
        stored: Callable[[nn.Module], None] | None,
    ) -> int:
        """Write what is missing, then the manifest, then put the folder in its place; returns its
        bytes.
        """
        skeleton: Any = result.model
        for number in range(self.shards.count):
            if not self.file(number).is_file():  # a block that the model does not call
                self.write(self.shards.block(number), number, {})
            if stored is not None and "stored" not in read_notes(self.file(number)):
                made, facts = self.done(number), self.facts(number)
                stored(made)
                self.write(made, number, facts, stored="yes")
            drop(made := self.done(number))
            experts.fuse(made)
            block = blocks(skeleton)[number]
            block._modules, block._parameters, block._buffers = (
                made._modules,
                made._parameters,
                made._buffers,
            )
        weights = [
            self.file(number).name for number in range(self.shards.count)
        ] + self._write_outside(stored is not None)
        compressed.write_rest(
            result, self.part, tokenizer, weights, {}, ignore=(JOB, compressed.MANIFEST)
        )
        compressed.swap_in(self.part, out)
        (out / JOB).unlink(missing_ok=True)
        return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())

    def _write_outside(self, halved: bool) -> list[str]:
        tied = set(getattr(self.shards.blank, "all_tied_weights_keys", None) or {})
        sizes = {name: tensor.nbytes for name, tensor in self.shards.blank.state_dict().items()}
        groups: list[list[str]] = [[]]
        for name in sorted(set(self.shards.units[None].values()) - tied):
            if groups[-1] and sum(sizes[other] for other in groups[-1]) + sizes[name] > PIECE:
                groups.append([])
            groups[-1].append(name)
        for number, names in enumerate(groups):
            tensors = self.shards.outside(lambda ours, names=names: ours in names)
            if halved:
                tensors = {
                    name: t.bfloat16().to(t.dtype) if t.is_floating_point() else t
                    for name, t in tensors.items()
                }
            write_tensors(
                self.part / f"outside-{number:05d}.safetensors",
                {n: narrow(t).contiguous().cpu() for n, t in tensors.items()},
            )
        return [f"outside-{number:05d}.safetensors" for number in range(len(groups))]


def compress(
    model: str | Path, method: Callable[..., Compressed], *calibration: Any, out: str | Path,
    tokenizer: Any = None, states: str = "memory", device: str = "cpu",
    stored: Callable[[nn.Module], None] | None = None,
    settle: Callable[[Compressed], Compressed] = lambda result: result, **settings: Any,
) -> Compressed:  # fmt: skip
    """method(models.load(model), *calibration, **settings).save(out), block by block: the same
    folder's model bit for bit.

    In memory at a time: one block in float32, what the method needs of it (the Hessians of its
    layers), and the states of the calibration, wherever `states` puts them. For methods that go
    block by block or layer by layer: rtn, gptq, hqq, nf4 and others of single layers, wanda,
    sparsegpt, magnitude. The model of the result is on the meta device; `compressed.load(out)`
    gives it with its numbers. `stored` changes each block's form in the file, after all blocks are
    done; `settle` what is told of the result.

    Raises CompressionError before any work if `out` holds something else, if a run with other
    settings was left unfinished there, or for a model that cannot be read block by block. After any
    later error, or a kill, the same call goes on where it was.
    """
    began, out = time.perf_counter(), Path(out).expanduser()
    compressed.check_folder(out, compressed.MANIFEST)
    part = out.with_name(f".{out.name}.part")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CompressionError(
            f"device={device!r}: cannot be used here ({str(error).splitlines()[0]}); choose 'cpu'."
        ) from error
    shards = Shards(model, device=device)
    if lacking := shards.lacking():
        raise CompressionError(f"model {str(model)!r}: its files lack {lacking[0]}; copy it again.")
    skeleton = shards.model()
    ids = [checks.check_calibration(each, skeleton) for each in calibration]
    told: dict[str, Any] = {"method": f"{method.__module__}.{method.__qualname__}",
                            "model": shards.fingerprint(),
                            "states": "half" if states == "half" else "exact",
            "calibration": [_digest(each) for each in ids], "settings": settings,
            "stored": stored is not None}  # fmt: skip
    if parallel.processes() > 1:
        told["processes"] = parallel.processes()
    with ExitStack() as alone, large_blocks_given_back():

        def begin() -> None:
            alone.enter_context(_alone(out))
            _check_job(part, json.dumps(told, sort_keys=True, default=str))

        parallel.first(begin)
        try:
            stream = Stream(shards, part, states)
            skeleton.blocks_lie_in = stream  # type: ignore[assignment]
            try:
                result = settle(method(skeleton, *ids, **settings))
            finally:
                stream.shelf.close()
        finally:
            if parallel.leads() and not any(part.glob("block-*")):  # nothing to go on with
                shutil.rmtree(part, ignore_errors=True)
        parallel.meet()  # every process is done with its states
        result.details["bytes"] = parallel.first(
            lambda: stream.finish(result, out, tokenizer, stored)
        )
    result.seconds = time.perf_counter() - began
    return result


def _digest(ids: Any) -> str:
    found = hashlib.sha256()
    for row in ids.rows if hasattr(ids, "rows") else ids:
        found.update(row.cpu().numpy().tobytes() + b"|")
    return found.hexdigest()


def _check_job(part: Path, job: str) -> None:
    """Begin in an empty folder, or go on in one in which the same was begun."""
    if (part / JOB).is_file():
        if (part / JOB).read_text(encoding="utf-8") != job:
            raise CompressionError(
                f"{part}: a run with another model, calibration or settings was left "
                "unfinished there. Repeat that call to go on, delete the folder to begin anew, "
                "or choose another name for the result."
            )
        for left in part.glob("*.tmp"):
            left.unlink()
        for left in part.glob("states-*"):
            shutil.rmtree(left)
        return
    part.mkdir(parents=True, exist_ok=True)
    if any(part.glob("block-*")):
        raise CompressionError(f"{part}: holds blocks without {JOB}; delete the folder.")
    write_text(part / JOB, job)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Refuse a second process that writes the same folder; the lock goes with the process that
    holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f".{out.name}.lock")
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CompressionError(
                f"folder: another process is writing {out}; wait for it, or choose another name."
            ) from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
