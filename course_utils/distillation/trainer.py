"""Distil a student from a teacher on token windows."""

import copy
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.data import mean_loss
from course_utils.quantization.compressed import Compressed

from . import objectives
from .cache import TeacherCache, check_ids, fingerprint, vocabulary_of
from .fit import fit
from .views import View, teacher_view, view

NAMED = {
    "labels": lambda student, teacher: objectives.Labels(),
    "response": lambda student, teacher: objectives.Response(),
    "feature": objectives.Feature,
    "attention": objectives.Attention,
    "values": objectives.ValueRelations,
    "relation": lambda student, teacher: objectives.Relation(),
    "contrastive": objectives.Contrastive,
}
IGNORED = -100


@dataclass
class Result(Compressed):
    """The trained copy in evaluation mode.

    `history`: step, loss, validation nats per token, seconds at each evaluation.

    `step` is the one whose weights were kept; `stopped` is "steps" or "early".
    """

    model: PreTrainedModel
    history: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    stopped: str = "steps"

    @property
    def validation(self) -> float | None:
        """Validation loss of the kept weights."""
        return next(
            (line.get("validation") for line in self.history if line["step"] == self.step), None
        )


def train(
    student: PreTrainedModel, teacher: Any, data: Tensor, *, steps: int = 200,
    loss: str | objectives.Objective = "response", validation: Tensor | None = None,
    labels: Tensor | None = None, mask: Tensor | None = None, batch: int = 16, accumulate: int = 1,
    peak: float = 1e-3, warmup: int | None = None, weight_decay: float = 0.01, seed: int = 0,
    folder: str | Path | None = None, every: int = 50, patience: int | None = None,
    keep: str | None = None, settings: dict[str, Any] | None = None,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase] | None = None,
    progress: bool = True,
) -> Result:  # fmt: skip
    """Train a copy of `student` on token ids `data` (n, context); `student` and `teacher` are left
    as they are.

    teacher: a causal language model with the same vocabulary; a list of them for an objective that
    takes several; a `cache.TeacherCache` made from the same data; or None for objectives that need
    no teacher.
    loss: labels, response, feature, attention, values, relation, contrastive, several joined by
    "+", or an Objective.
    labels (n, context): token ids, IGNORED (−100) where nothing should be predicted, though
    something in each row; by default `data` itself.
    mask (n, context): False at padding, which no loss looks at. validation (m, context): its mean
    cross-entropy is the validation loss. tokenizers: (student's, teacher's), compared with each
    other when given.
    With them, the widths of the logits may differ, as they do where vocabularies are padded: ids
    that both have are compared.
    A student in half precision learns in float32 (one in bfloat16 is computed in that, by autocast)
    and comes back in its own types.
    The other keywords are those of `fit.fit`.

    Raises CompressionError for empty data, ids outside the vocabulary, vocabularies or tokenizers
    that differ, a cache of other data, and what `fit.fit` raises (Diverged at NaN).
    """
    teachers = _teachers(teacher)
    for one in (student, *teachers):
        if isinstance(one, nn.Module):
            walk.check_loaded(one)
    given, student = student, copy.deepcopy(student)
    check_ids("data", data, student)
    half = next(
        (p.dtype for p in student.parameters() if p.dtype in (torch.bfloat16, torch.float16)), None
    )
    # steps are lost beside weights of 8 or 11 bits, so they are gathered in float32
    if half is not None:
        student = student.float()
    data = data.long()
    if validation is not None:
        check_ids("validation", validation, student)
    for name, extra in (("labels", labels), ("mask", mask)):
        if extra is not None and extra.shape != data.shape:
            raise CompressionError(
                f"{name}: shape {tuple(extra.shape)}; data has {tuple(data.shape)}."
            )
    for one in teachers:
        if tokenizers is None:
            check_vocabulary(student, one)
        check_ids("data", data, one, "teacher")
        walk.check_context("data", data.shape[1], one)
    if tokenizers is not None:
        check_tokenizers(*tokenizers)
    objective = _objective(loss, student, teacher)
    labels = data if labels is None else labels.long()
    labels = labels if mask is None else labels.masked_fill(~mask.bool(), IGNORED)
    if len(silent := (labels[:, 1:] == IGNORED).all(1).nonzero()):
        raise CompressionError(
            f"labels, mask: {len(silent)} rows have nothing to predict, such as row "
            f"{int(silent[0])}; leave them out."
        )
    if isinstance(teacher, TeacherCache):
        teacher.check(data, student)
        _check_cached(objective, teacher, mask)
    device = student.device
    teacher_device = teachers[0].device if teachers else device

    def batch_of(rows: Tensor) -> objectives.Batch:
        real = None if mask is None else mask[rows].to(device)
        shifted = labels[rows, 1:].to(device)
        return objectives.Batch(rows, data[rows].to(device), real, shifted, shifted != IGNORED)

    def views(rows: Tensor) -> Any:
        here = batch_of(rows)
        there = (
            here.ids.to(teacher_device),
            None if here.real is None else here.real.to(teacher_device),
        )
        seen: Any = None
        if isinstance(teacher, TeacherCache):
            seen = teacher.rows(rows, device)
        elif teachers and objective.needs_teacher:
            seen = [_moved(teacher_view(one, *there, objective.needs), device) for one in teachers]
            for one in seen:
                one.logits = as_wide(one.logits, vocabulary_of("student", student))
            seen = seen if isinstance(teacher, Sequence) else seen[0]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half is torch.bfloat16):
            mine = view(student, here.ids, here.real, objective.needs)
        return mine, seen, here

    def losses(rows: Tensor) -> tuple[dict[str, Tensor], float]:
        mine, seen, here = views(rows)
        return objective(mine, seen, here), float(here.counted.sum())

    @torch.no_grad()
    def explain(rows: Tensor) -> str | None:
        mine, seen, _ = views(rows)
        every_teacher = seen if isinstance(seen, list) else [seen] if seen is not None else []
        for one in every_teacher:
            if isinstance(one, View) and not torch.isfinite(one.logits).all():
                return (
                    "the teacher's logits hold NaN or infinity; if it is in float16, "
                    "load it in bfloat16 or float32"
                )
        return (
            None
            if torch.isfinite(mine.logits).all()
            else "the student's logits hold NaN or infinity"
        )

    def evaluate() -> float:
        assert validation is not None
        return mean_loss(student, validation)

    told: dict[str, Any] = {
        "loss": objective.describe(),
        "data": fingerprint(data),
        "labels": fingerprint(labels),
    }
    told |= {"mask": fingerprint(mask), "validation": fingerprint(validation)}
    told |= {
        "student": weights_fingerprint(student),
        "teacher": [weights_fingerprint(one) for one in teachers],
    }
    if isinstance(teacher, TeacherCache):
        told["teacher"] = [teacher.description]
    both = nn.ModuleDict({"student": student, "objective": objective.to(device)})
    with ExitStack() as stack:
        for one in teachers:
            stack.enter_context(ready(one, objective.needs))
        stack.enter_context(ready(student, objective.needs))
        student.train()
        fitted = fit(
            both, losses, len(data), steps=steps, batch=batch, accumulate=accumulate, peak=peak,
            warmup=warmup, weight_decay=weight_decay, seed=seed, folder=folder, every=every,
            evaluate=None if validation is None else evaluate, patience=patience, keep=keep,
            settings=told | (settings or {}), explain=explain, progress=progress,
        )  # fmt: skip
    walk.as_precise_as(given, student)
    used = {
        "method": "distillation",
        **objective.describe(),
        "steps": fitted.step,
        "batch": batch,
        "peak": peak,
    }
    used |= {"seed": seed, "tokens": fitted.step * batch * data.shape[1], **(settings or {})}
    return Result(
        student.eval(), used, fitted.seconds, {}, fitted.history, fitted.step, fitted.stopped
    )


def check_vocabulary(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Raises CompressionError unless both have logits of the same width."""
    sizes = [vocabulary_of("student", student), vocabulary_of("teacher", teacher)]
    if sizes[0] != sizes[1]:
        raise CompressionError(
            f"teacher: its vocabulary has {sizes[1]} tokens, the student's {sizes[0]}. "
            "Make the student from this teacher's tokenizer, or let the teacher write text "
            "and train the student on it with loss='labels'. If both have one tokenizer and only "
            "padding differs, say so with tokenizers=(the student's, the teacher's)."
        )


NEVER = 30.0  # nats below the least likely token: where a teacher has no such id


def as_wide(logits: Tensor, size: int) -> Tensor:
    """A teacher's logits (..., V) for a student of `size` ids: what the student lacks is cut, what
    it has beyond is all but ruled out.
    """
    if logits.shape[-1] >= size:
        return logits[..., :size]
    low = logits.amin(-1, keepdim=True) - NEVER
    return torch.cat([logits, low.expand(*low.shape[:-1], size - logits.shape[-1])], -1)


def check_tokenizers(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Raises CompressionError unless both give every token the same number."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours != theirs:
        differ = sorted(ours.items() ^ theirs.items())
        raise CompressionError(
            f"tokenizers: student and teacher number {len({token for token, _ in differ})} "
            f"tokens differently (such as {differ[0][0]!r}). Their logits cannot be compared "
            "token by token: use one tokenizer for both, or let the teacher write text and train "
            "the student on it with loss='labels'."
        )


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of names, shapes and about 4096 numbers of each parameter, evenly spread over it."""
    digest = hashlib.sha256()
    for name, p in model.named_parameters():
        some = p.detach().flatten()[:: max(1, p.numel() // 4096)].float().cpu().numpy()
        digest.update(json.dumps([name, list(p.shape)]).encode() + some.tobytes())
    return digest.hexdigest()[:16]


def _teachers(teacher: Any) -> list[PreTrainedModel]:
    if isinstance(teacher, PreTrainedModel):
        return [teacher]
    if isinstance(teacher, Sequence):
        if not teacher:
            raise CompressionError("teacher: an empty list; give at least one.")
        return list(teacher)
    return []


def _objective(loss: Any, student: PreTrainedModel, teacher: Any) -> objectives.Objective:
    if loss == "response" and isinstance(teacher, TeacherCache):
        return objectives.CachedResponse(teacher.temperature)
    if isinstance(loss, str):
        names = loss.split("+")
        unknown = [name for name in names if name not in NAMED]
        if unknown:
            raise CompressionError(
                f"loss={loss!r}: choose from {', '.join(NAMED)}, several joined by '+'."
            )
        if not isinstance(teacher, PreTrainedModel) and names != ["labels"]:
            raise CompressionError(
                f"loss={loss!r}: needs one teacher model; for others give an Objective."
            )
        parts = [NAMED[name](student, teacher) for name in names]
        return parts[0] if len(parts) == 1 else objectives.Sum(*parts)
    if not isinstance(loss, objectives.Objective):
        raise CompressionError(f"loss={loss!r}: give a name such as 'response', or an Objective.")
    if loss.needs_teacher and teacher is None:
        raise CompressionError(
            f"teacher: {type(loss).__name__} needs one; give a model or a cache of its logits."
        )
    takes = loss.takes
    given = (
        "cache"
        if isinstance(teacher, TeacherCache)
        else "model"
        if isinstance(teacher, PreTrainedModel)
        else "list"
    )
    if teacher is not None and loss.needs_teacher and takes != given:
        raise CompressionError(f"teacher: {type(loss).__name__} takes a {takes}, not a {given}.")
    return copy.deepcopy(loss)


def _check_cached(
    objective: objectives.Objective, teacher: TeacherCache, mask: Tensor | None
) -> None:
    for part in objective.modules():
        if (
            isinstance(part, objectives.CachedResponse)
            and part.tail == "bucket"
            and part.temperature != teacher.temperature
        ):
            raise CompressionError(
                f"temperature={part.temperature}: the cache holds the rest of its tokens at "
                f"{teacher.temperature}; use that, or write the cache again."
            )
    if mask is not None and bool((mask[:, 1:].bool() & ~mask[:, :-1].bool()).any()):
        raise CompressionError(
            "mask: the teacher of a cache has read padding as text; "
            "move it behind the real tokens of each row."
        )


def _moved(seen: View, device: torch.device | str) -> View:
    move = lambda tensors: tuple(t.to(device) for t in tensors)  # noqa: E731
    return View(
        seen.model,
        seen.logits.to(device),
        move(seen.hidden),
        move(seen.attention),
        move(seen.values),
    )


@contextmanager
def ready(model: PreTrainedModel, needs: Collection[str] = ()) -> Iterator[None]:
    """In evaluation mode, with attention maps to see if they are needed;
    both as before afterwards.
    """
    training, attention = model.training, model.config._attn_implementation
    if "attention" in needs:
        model.set_attn_implementation("eager")
    model.eval()
    try:
        yield
    finally:
        if "attention" in needs:
            model.set_attn_implementation(attention)
        model.train(training)
