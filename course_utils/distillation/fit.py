"""One training loop for everything in this folder: deterministic, resumable, and honest when it
goes wrong.

Batches and random numbers are a function of (seed, step) only. So a run that was killed anywhere
continues from its last checkpoint to the same weights as an uninterrupted one.
"""

import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils.errors import CompressionError
from course_utils.models.checkpointing import (
    load_checkpoint,
    read_notes,
    save_checkpoint,
    write_tensors,
    write_text,
)
from course_utils.models.train import learning_rate

from . import parallel

CHECKPOINT, BEST, LOG = "checkpoint.safetensors", "best.safetensors", "log.jsonl"
Losses = Callable[[Tensor], tuple[dict[str, Tensor], float]]


class Diverged(CompressionError):
    """Training met NaN or infinity. `step` counts from 1, `cause` names where it was seen first."""

    def __init__(self, step: int, cause: str, kept: str) -> None:
        super().__init__(
            f"step {step}: {cause}. Training stopped; {kept} Try a lower peak learning rate."
        )
        self.step, self.cause = step, cause


@dataclass
class Fitted:
    """`history` has a line for each evaluation; the module holds the weights of `step`."""

    history: list[dict[str, Any]]
    step: int
    stopped: str
    seconds: float


@functools.lru_cache(maxsize=4)
def _order(rows: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))


def batch_rows(step: int, rows: int, batch: int, seed: int) -> Tensor:
    """The rows of a step's batch: each epoch is a new permutation of all rows."""
    place, end, parts = step * batch, (step + 1) * batch, []
    while place < end:
        epoch, first = divmod(place, rows)
        parts.append(_order(rows, seed, epoch)[first : first + end - place])
        place += len(parts[-1])
    return torch.cat(parts)


def best_line(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first line with the lowest validation loss."""
    scored = [line for line in history if line.get("validation") is not None]
    return min(scored, key=lambda line: line["validation"]) if scored else None


def _exhausted(history: list[dict[str, Any]], patience: int | None) -> bool:
    best = best_line(history)
    return (
        patience is not None
        and best is not None
        and len(history) - 1 - history.index(best) >= patience
    )


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters and saved buffers, tied ones once."""
    kept = module.state_dict().keys()
    found = dict(module.named_parameters()) | {k: v for k, v in module.named_buffers() if k in kept}
    return {k: v.detach().clone().contiguous() for k, v in found.items()}


def put(module: nn.Module, saved: dict[str, Tensor]) -> None:
    """Copy `weights` back."""
    with torch.no_grad():
        for name, tensor in (
            dict(module.named_parameters()) | dict(module.named_buffers())
        ).items():
            if name in saved:
                tensor.copy_(saved[name])


def _resume(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, settings: str
) -> tuple[int, list[dict[str, Any]]]:
    """Step and history of the folder's checkpoint, whose weights are put in place; (0, []) without
    one.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return 0, []
    notes = read_notes(path)
    if notes.get("settings") != settings:
        old, new = json.loads(notes.get("settings", "{}")), json.loads(settings)
        differ = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        raise CompressionError(
            f"folder={folder}: holds a run with other settings ({', '.join(differ)}); "
            "choose another folder."
        )
    load_checkpoint(path, module, optimizer)
    return int(notes["step"]), json.loads(notes["history"])


def _best_of(folder: Path) -> dict[str, Tensor]:
    """The best weights so far, written before every checkpoint that could need them."""
    try:
        return load_file(folder / BEST)
    except (OSError, SafetensorError) as error:
        raise CompressionError(
            f"{folder / BEST}: cannot be read ({error}); choose another folder to start again."
        ) from error


def _finite(module: nn.Module) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in module.parameters())


def fit(
    module: nn.Module, losses: Losses, rows: int, *, steps: int, batch: int = 16,
    accumulate: int = 1, peak: float = 1e-3, warmup: int | None = None, weight_decay: float = 0.01,
    seed: int = 0, folder: str | Path | None = None, every: int = 50,
    evaluate: Callable[[], float] | None = None, patience: int | None = None,
    keep: str | None = None, settings: dict[str, Any] | None = None, explain: Callable[[Tensor],
        str | None] | None = None, progress: bool = True, description: str = "distilling",
) -> Fitted:  # fmt: skip
    """Minimize the sum of `losses(row numbers) → (named losses, weight)` over the trainable
    parameters of `module`.

    AdamW (β = 0.9, 0.95), gradients clipped to norm 1, linear warm-up to `peak` over `warmup` steps
    (by default a tenth of all, at most 200), constant, linear to zero over the last 35 %. `weight`
    is the number of terms in the mean, needed when several processes share a batch. `accumulate`
    parts of a batch are read one after the other and make one step, in less memory; a loss that
    compares the rows of a batch with each other then sees those of a part.

    Every `every` steps `evaluate` is called (lower is better) and, with a `folder`,
    checkpoint.safetensors, best.safetensors and log.jsonl are written, each in one move. Training
    ends early after `patience` evaluations without a new best. `keep` is "best" (the default with
    `evaluate`) or "last": the weights the module ends with.
    The same call on the same folder continues; other `settings` there are refused.

    Raises Diverged at the first NaN or infinite loss or gradient, before it touches the weights, or
    NaN validation, and CompressionError for a number that makes no sense or a checkpoint that
    cannot be written (the one before stays whole).
    """
    keep = keep or ("best" if evaluate else "last")
    warmup = max(1, min(200, steps // 10)) if warmup is None else warmup
    _check(rows, steps, batch, every, warmup, peak, patience, keep, evaluate)
    if not isinstance(accumulate, Integral) or not 1 <= accumulate <= batch:
        raise CompressionError(
            f"accumulate={accumulate}: choose a whole number from 1 to the batch of {batch}."
        )
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise CompressionError(
            "student: no parameter requires a gradient; unfreeze what should learn."
        )
    optimizer = torch.optim.AdamW(
        trainable, lr=peak, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True
    )
    plan = {"rows": rows, "steps": steps, "batch": batch, "peak": peak, "warmup": warmup,
            "decay": weight_decay,
            "seed": seed, "every": every, "patience": patience, "keep": keep, **(settings or {}),
            **({"accumulate": accumulate} if accumulate > 1 else {})}  # fmt: skip
    told = json.dumps(plan, sort_keys=True, default=str)
    where = Path(folder) if folder is not None else None
    start, best = 0, None
    history: list[dict[str, Any]] = []
    if where is not None:
        try:
            where.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CompressionError(
                f"folder={folder}: cannot be made ({error}); choose another."
            ) from error
        start, history = _resume(where, module, optimizer, told)
        if start and keep == "best":
            best = _best_of(where)
    began, before = time.perf_counter(), history[-1]["seconds"] if history else 0.0
    sums: dict[str, float] = {}
    shown = progress and parallel.rank() == 0
    bar = tqdm(
        range(start, steps),
        initial=start,
        total=steps,
        desc=description,
        mininterval=1,
        disable=not shown,
    )
    with torch.random.fork_rng():
        for step in bar:
            if _exhausted(history, patience):
                break
            torch.manual_seed(seed * 1_000_003 + step * parallel.world() + parallel.rank())
            mine = parallel.share(batch_rows(step, rows, batch, seed))
            parts, scale = _backward(losses, mine, accumulate, trainable)
            parallel.average_gradients(trainable)
            norm = torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            shown_parts = {
                k: parallel.total(v * scale, trainable[0]) / parallel.world()
                for k, v in parts.items()
            }
            if not all(map(math.isfinite, (*shown_parts.values(), float(norm)))):
                optimizer.zero_grad(set_to_none=True)
                raise Diverged(step + 1, _cause(shown_parts, mine, explain), _kept(where, history))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak, max(1, warmup))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            for name, value in shown_parts.items():
                sums[name] = sums.get(name, 0.0) + value
            if (step + 1) % every and step + 1 < steps:
                continue
            if not _finite(module):
                raise Diverged(
                    step + 1, "the update made the weights infinite", _kept(where, history)
                )
            count = step + 1 - (history[-1]["step"] if history else 0)
            line: dict[str, Any] = {"step": step + 1, "loss": sum(sums.values()) / count}
            line |= {k: v / count for k, v in sums.items()} if len(sums) > 1 else {}
            sums = {}
            if evaluate is not None:
                line["validation"] = float(evaluate())
                if math.isnan(line["validation"]):
                    raise Diverged(
                        step + 1, "the validation loss is not a number", _kept(where, history)
                    )
                bar.set_postfix(validation=f"{line['validation']:.4f}")
            line["seconds"] = round(before + time.perf_counter() - began, 2)
            history.append(line)
            if keep == "best" and best_line(history) is line:
                best = weights(module)
            if where is not None and parallel.rank() == 0:
                _write(where, module, optimizer, history, best, line, told)
            parallel.wait()
    if keep == "best" and best is not None:
        put(module, best)
    chosen = best_line(history) if keep == "best" else None
    early = bool(history) and history[-1]["step"] < steps
    kept_step = chosen["step"] if chosen is not None else history[-1]["step"]
    return Fitted(
        history, kept_step, "early" if early else "steps", before + time.perf_counter() - began
    )


def _backward(
    losses: Losses, rows: Tensor, accumulate: int, trainable: list[nn.Parameter]
) -> tuple[dict[str, float], float]:
    """Gradients of the weighted mean of the losses of `accumulate` parts of a batch: (sum of each
    loss, what its mean is multiplied by).
    """

    def scaled(weight: float) -> float:
        return parallel.world() / max(1e-12, parallel.total(weight, trainable[0]))

    zero, pieces = trainable[0].new_zeros(()), rows.chunk(accumulate)
    if len(pieces) == 1:
        parts, weight = losses(rows)
        part_of_all = weight * scaled(weight)
        (sum(parts.values(), zero) * part_of_all).backward()
        return {k: float(v.detach()) for k, v in parts.items()}, part_of_all
    sums: dict[str, float] = {}
    in_all = 0.0
    for few in pieces:
        parts, weight = losses(few)
        (sum(parts.values(), zero) * weight).backward()
        sums = {k: sums.get(k, 0.0) + float(v.detach()) * weight for k, v in parts.items()}
        in_all += weight
    scale = scaled(in_all)
    for p in trainable:
        if p.grad is not None:
            p.grad.mul_(scale)
    return sums, scale


def _write(
    where: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
    best: dict[str, Tensor] | None,
    line: dict[str, Any],
    told: str,
) -> None:
    if best is not None and history.index(line) == history.index(best_line(history) or line):
        write_tensors(where / BEST, best, {"step": str(line["step"])})
    save_checkpoint(
        where / CHECKPOINT,
        module,
        optimizer,
        line["step"],
        history=json.dumps(history),
        settings=told,
    )
    write_text(where / LOG, "".join(json.dumps(entry) + "\n" for entry in history))


def _kept(where: Path | None, history: list[dict[str, Any]]) -> str:
    if where is None:
        return "no folder was given, so no checkpoint is kept."
    return (
        f"the checkpoint of step {history[-1]['step']} is kept in {where}."
        if history
        else f"no checkpoint was due in {where} yet."
    )


def _cause(
    parts: dict[str, float], rows: Tensor, explain: Callable[[Tensor], str | None] | None
) -> str:
    wrong = [name for name, value in parts.items() if not math.isfinite(value)]
    what = f"the loss is not finite ({', '.join(wrong)})" if wrong else "the gradient is not finite"
    why = explain(rows) if explain is not None else None
    return f"{what}: {why}" if why else what


def _check(
    rows: Any,
    steps: Any,
    batch: Any,
    every: Any,
    warmup: Any,
    peak: Any,
    patience: Any,
    keep: Any,
    evaluate: Any,
) -> None:
    if rows < 1:
        raise CompressionError("data: empty; give at least one example.")
    counts = (
        ("steps", steps, 1),
        ("batch", batch, 1),
        ("every", every, 1),
        ("patience", patience, 1),
        ("warmup", warmup, 0),
    )
    for name, value, least in counts:
        if value is not None and (not isinstance(value, Integral) or value < least):
            raise CompressionError(f"{name}={value}: choose a whole number, {least} or more.")
    if not peak > 0:
        raise CompressionError(f"peak={peak}: the highest learning rate must be positive.")
    if keep not in ("best", "last"):
        raise CompressionError(f"keep={keep!r}: choose best or last.")
    if evaluate is None and (keep == "best" or patience is not None):
        raise CompressionError("validation: needed to keep the best weights or to stop early.")
