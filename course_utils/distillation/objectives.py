"""What a student is asked to do, as modules that `train` calls: (student's view, teacher's view,
batch) → named losses.

An objective says in `needs` what it wants to see inside both models; its own parameters
(projectors) are trained with the student. Losses of several objectives add up: `Sum(Response(),
Feature(student, teacher))`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk

from . import losses
from .views import read_out


@dataclass
class Batch:
    """`ids` and `real` (batch, tokens); `labels` and `counted` (batch, tokens − 1) belong to the
    logits before them.

    `real` is None where there is no padding. `rows` are the numbers of the examples in the data.
    """

    rows: Tensor
    ids: Tensor
    real: Tensor | None
    labels: Tensor
    counted: Tensor


class Objective(nn.Module):
    """Base of all objectives.

    `forward` returns a dictionary of weighted losses, whose sum is minimized.
    """

    needs: frozenset[str] = frozenset()
    needs_teacher = True
    takes = "model"  # or "list" of models, or "cache" of one model's logits

    def describe(self) -> dict[str, Any]:
        """Plain settings: a run may only be continued with the same ones."""
        plain = {
            k: v
            for k, v in vars(self).items()
            if isinstance(v, bool | int | float | str | list | tuple)
        }
        return {"objective": type(self).__name__} | {
            k: v for k, v in plain.items() if not k.startswith("_") and k != "training"
        }


class Labels(Objective):
    """Cross-entropy with the next token: no teacher."""

    needs_teacher = False

    def forward(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        return {"labels": losses.cross_entropy(student.logits[:, :-1], batch.labels, batch.counted)}


class Response(Objective):
    """`losses.response` on every next-token distribution. α = 0 learns from the teacher alone."""

    def __init__(
        self, temperature: float = 2.0, alpha: float = 0.5, divergence: str = "forward"
    ) -> None:
        super().__init__()
        self.temperature, self.alpha, self.divergence = temperature, alpha, divergence

    def forward(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        return {
            "response": losses.response(
                student.logits[:, :-1], teacher.logits[:, :-1], batch.labels, self.temperature,
                self.alpha, batch.counted, self.divergence,
            )
        }  # fmt: skip


class CachedResponse(Objective):
    """`Response` from a `cache.TeacherCache`,
    with `losses.top_k` in place of the full divergence.
    """

    takes = "cache"

    def __init__(self, temperature: float = 2.0, alpha: float = 0.5, tail: str = "bucket") -> None:
        super().__init__()
        self.temperature, self.alpha, self.tail = temperature, alpha, tail

    def forward(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        logits = student.logits[:, :-1]
        far = losses.top_k(logits, teacher, self.temperature, batch.counted, self.tail)
        loss = (1 - self.alpha) * self.temperature**2 * far
        if self.alpha > 0:
            loss = loss + self.alpha * losses.cross_entropy(logits, batch.labels, batch.counted)
        return {"response": loss}


class Mixture(Objective):
    """`Response` from a list of teachers, mixed by `losses.mixture` with weights "uniform",
    "entropy" or "label".
    """

    takes = "list"

    def __init__(
        self, temperature: float = 2.0, alpha: float = 0.5, weighting: str = "uniform"
    ) -> None:
        super().__init__()
        self.temperature, self.alpha, self.weighting = temperature, alpha, weighting

    def forward(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        several = torch.stack([one.logits[:, :-1].float() for one in teacher])
        known = batch.labels.masked_fill(~batch.counted, 0)
        mixed = losses.mixture(several, known, self.temperature, self.weighting) * self.temperature
        logits = student.logits[:, :-1]
        return {
            "response": losses.response(
                logits, mixed, batch.labels, self.temperature, self.alpha, batch.counted
            )
        }


class Exits(Objective):
    """Self-distillation from deep to shallow (Zhang et al., 2019): every block learns to end the
    model.

    Cross-entropy at the end, and the mean over all earlier blocks of `losses.response` between what
    the output head reads there and the model's own last logits. No other teacher. After it,
    `from_layers(model, range(k))` is a model.
    """

    needs = frozenset({"hidden"})
    needs_teacher = False

    def __init__(self, temperature: float = 2.0, alpha: float = 0.5, weight: float = 1.0) -> None:
        super().__init__()
        self.temperature, self.alpha, self.weight = temperature, alpha, weight

    def forward(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        last = student.logits[:, :-1]
        early = [
            losses.response(
                read_out(student.model, hidden[:, :-1]),
                last,
                batch.labels,
                self.temperature,
                self.alpha,
                batch.counted,
            )
            for hidden in student.hidden[1:-1]
        ]
        found = {"labels": losses.cross_entropy(last, batch.labels, batch.counted)}
        return found | ({"exits": self.weight * torch.stack(early).mean()} if early else {})


class Sum(Objective):
    """The losses of several objectives together."""

    def __init__(self, *objectives: Objective) -> None:
        super().__init__()
        if not objectives:
            raise CompressionError("objectives: empty; name at least one.")
        self.objectives: Any = nn.ModuleList(objectives)
        self.needs = frozenset().union(*(o.needs for o in objectives))
        self.needs_teacher = any(o.needs_teacher for o in objectives)
        self.takes = next((o.takes for o in objectives if o.needs_teacher), "model")

    def describe(self) -> dict[str, Any]:
        """The settings, as they are kept in a checkpoint."""
        return {"objective": "Sum", "parts": [o.describe() for o in self.objectives]}

    def forward(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for objective in self.objectives:
            parts: dict[str, Tensor] = objective(student, teacher, batch)
            for name, value in parts.items():
                found[name] = found[name] + value if name in found else value
        return found


def layer_pairs(student: PreTrainedModel, teacher: PreTrainedModel) -> list[tuple[int, int]]:
    """Which block of the teacher each block of the student learns from, counted from 0: evenly,
    last with last.
    """
    few, many = len(walk.blocks(student)), len(walk.blocks(teacher))
    return [(i, max(0, round((i + 1) * many / few) - 1)) for i in range(few)]


def _check_pairs(
    pairs: Sequence[tuple[int, int]] | None, student: PreTrainedModel, teacher: PreTrainedModel
) -> list[tuple[int, int]]:
    pairs = layer_pairs(student, teacher) if pairs is None else [(int(s), int(t)) for s, t in pairs]
    few, many = len(walk.blocks(student)), len(walk.blocks(teacher))
    for s, t in pairs:
        if not (0 <= s < few and 0 <= t < many):
            raise CompressionError(
                f"pairs: ({s}, {t}) does not exist; the student has blocks 0 … {few - 1}, "
                f"the teacher 0 … {many - 1}."
            )
    if not pairs:
        raise CompressionError("pairs: empty; name at least one (student block, teacher block).")
    return pairs


def _projector(narrow: int, wide: int, seed: int) -> nn.Module:
    """The identity where widths agree, else a linear map without bias whose start is a seeded
    random rotation.
    """
    if narrow == wide:
        return nn.Identity()
    layer = nn.Linear(narrow, wide, bias=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nn.init.orthogonal_(layer.weight)
    return layer


class Feature(Objective):
    """`losses.feature` between what leaves paired blocks, relative to the teacher's size, with a
    projector for each.
    """

    needs = frozenset({"hidden"})

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        weight: float = 1.0,
        pairs: Sequence[tuple[int, int]] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.weight, self.pairs = weight, _check_pairs(pairs, student, teacher)
        widths = student.config.hidden_size, teacher.config.hidden_size
        self.projectors = nn.ModuleList(
            _projector(*widths, seed + i) for i in range(len(self.pairs))
        )

    def forward(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        each = [
            losses.feature(
                walk.exact(student.hidden[s + 1]),
                teacher.hidden[t + 1],
                project,
                batch.real,
                relative=True,
            )
            for (s, t), project in zip(self.pairs, self.projectors, strict=True)
        ]
        return {"feature": self.weight * torch.stack(each).mean()}


class Attention(Objective):
    """`losses.attention_maps` between paired blocks (by default only the last ones, as MiniLM
    does).
    """

    needs = frozenset({"attention"})

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        weight: float = 1.0,
        pairs: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        last = [layer_pairs(student, teacher)[-1]]
        self.weight, self.pairs = (
            weight,
            _check_pairs(last if pairs is None else pairs, student, teacher),
        )

    def forward(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        each = [
            losses.attention_maps(student.attention[s], teacher.attention[t], batch.real)
            for s, t in self.pairs
        ]
        return {"attention": self.weight * torch.stack(each).mean()}


class ValueRelations(Objective):
    """`losses.value_relations` between paired blocks (by default only the last ones, as MiniLM
    does).
    """

    needs = frozenset({"values"})

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        weight: float = 1.0,
        heads: int = 1,
        pairs: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        last = [layer_pairs(student, teacher)[-1]]
        self.weight, self.heads = weight, heads
        self.pairs = _check_pairs(last if pairs is None else pairs, student, teacher)

    def forward(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        each = [
            losses.value_relations(student.values[s], teacher.values[t], self.heads, batch.real)
            for s, t in self.pairs
        ]
        return {"values": self.weight * torch.stack(each).mean()}


def sample_tokens(batch: Batch, n: int) -> Tensor:
    """(n, 2) places (row, token) of real tokens, evenly spread over the batch."""
    real = torch.ones_like(batch.ids, dtype=torch.bool) if batch.real is None else batch.real.bool()
    places = real.nonzero()
    return places[
        torch.linspace(0, len(places) - 1, min(n, len(places)), device=places.device).round().long()
    ]


class Relation(Objective):
    """RKD on the last hidden states of `tokens` tokens of the batch: distance, and `angle_weight`
    times angle.
    """

    needs = frozenset({"hidden"})

    def __init__(self, weight: float = 1.0, angle_weight: float = 2.0, tokens: int = 48) -> None:
        super().__init__()
        self.weight, self.angle_weight, self.tokens = weight, angle_weight, tokens

    def forward(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        row, token = sample_tokens(batch, self.tokens).T
        s, t = student.hidden[-1][row, token], teacher.hidden[-1][row, token]
        value = losses.distance(s, t)
        if self.angle_weight:
            value = value + self.angle_weight * losses.angle(s, t)
        return {"relation": self.weight * value}


class Contrastive(Objective):
    """`losses.contrastive` on the projected last hidden states of `tokens` tokens of the batch."""

    needs = frozenset({"hidden"})

    def __init__(
        self, student: PreTrainedModel, teacher: PreTrainedModel, weight: float = 1.0,
        temperature: float = 0.1, tokens: int = 256, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight, self.temperature, self.tokens = weight, temperature, tokens
        self.projector = _projector(student.config.hidden_size, teacher.config.hidden_size, seed)

    def forward(self, student: Any, teacher: Any, batch: Batch) -> dict[str, Tensor]:
        row, token = sample_tokens(batch, self.tokens).T
        s, t = (
            self.projector(walk.exact(student.hidden[-1][row, token])),
            teacher.hidden[-1][row, token],
        )
        return {"contrastive": self.weight * losses.contrastive(s, t, self.temperature)}
