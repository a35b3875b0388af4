"""A learner's own losses as an objective that `distillation.train` takes, and a learner's own loop
against a twin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from course_utils.distillation import digits, objectives


class OwnLosses(objectives.Objective):
    """The sum of the learner's response, feature and attention loss, as far as they are given.

    `response(student_logits, teacher_logits, labels, temperature, alpha, mask)` on all next tokens;
    `feature(student_hidden, teacher_hidden, projector, mask)` on paired blocks, the mean over
    pairs, each divided by the teacher's mean square; `attention(student_map, teacher_map, mask)` on
    the last pair, both averaged over their heads first when these differ in number. They are called
    with these names. Projectors (teacher's width, student's width) are trained with the student.
    """

    def __init__(
        self, student: PreTrainedModel, teacher: PreTrainedModel, response: Callable[..., Tensor],
        feature: Callable[..., Tensor] | None = None,
        attention: Callable[..., Tensor] | None = None, *, temperature: float = 2.0,
        alpha: float = 0.5, weight: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.response, self.feature, self.attention = response, feature, attention
        self.temperature, self.alpha, self.weight = temperature, alpha, weight
        self.needs = _needs(feature, attention)
        self.pairs = objectives.layer_pairs(student, teacher)
        wide, narrow = teacher.config.hidden_size, student.config.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            starts = [
                nn.init.orthogonal_(torch.empty(wide, narrow))
                if wide != narrow
                else torch.eye(wide)
                for _ in self.pairs
            ]
        self.projectors = nn.ParameterList(starts if feature is not None else [])

    def forward(self, student: Any, teacher: Any, batch: objectives.Batch) -> dict[str, Tensor]:
        real = (
            torch.ones_like(batch.ids, dtype=torch.bool)
            if batch.real is None
            else batch.real.bool()
        )
        found = {
            "response": self.response(
                student_logits=student.logits[:, :-1], teacher_logits=teacher.logits[:, :-1],
                labels=batch.labels, temperature=self.temperature, alpha=self.alpha,
                mask=batch.counted,
            )
        }  # fmt: skip
        if self.feature is not None:
            each = []
            for (s, t), projector in zip(self.pairs, self.projectors, strict=True):
                target = teacher.hidden[t + 1]
                loss = self.feature(
                    student_hidden=student.hidden[s + 1],
                    teacher_hidden=target,
                    projector=projector,
                    mask=real,
                )
                each.append(loss / target[real].square().mean())
            found["feature"] = self.weight * torch.stack(each).mean()
        if self.attention is not None:
            s, t = self.pairs[-1]
            maps = student.attention[s], teacher.attention[t]
            if maps[0].shape[1] != maps[1].shape[1]:
                maps = maps[0].mean(1, keepdim=True), maps[1].mean(1, keepdim=True)
            found["attention"] = self.weight * self.attention(
                student_map=maps[0], teacher_map=maps[1], mask=real
            )
        return found


def _needs(feature: object, attention: object) -> frozenset[str]:
    return frozenset(
        name for name, given in (("hidden", feature), ("attention", attention)) if given is not None
    )


def twins(
    distil: Callable[..., Tensor],
    seeds: Sequence[int] = range(6),
    *,
    images: int = 50,
    steps: int = 100,
) -> list[tuple[float, float]]:
    """(accuracy alone, accuracy taught) by seed of two students of one layer, on handwritten
    digits.

    Both are matrices (10, 64) that begin at 0 and take `steps` steps of gradient descent at the
    rate 1 on the same `images` images: one on their labels, the other by `distil(student, teacher,
    batches, temperature, rate)` at τ = 4 from a matrix that was trained on all 1,297. The one alone
    keeps its best step by 100 images, the taught one its last; 400 others judge both.
    """
    found = []
    for seed in seeds:
        data = digits.load(seed)
        x, y = data.train_x.double(), data.train_y
        choose, judge = (
            (data.test_x[:100].double(), data.test_y[:100]),
            (data.test_x[100:].double(), data.test_y[100:]),
        )
        blank = torch.zeros(10, 64, dtype=torch.float64)
        *_, teacher = _by_labels(blank, x, y, 300)
        alone = min(
            _by_labels(blank, x[:images], y[:images], steps), key=lambda w: _miss(w, *choose)
        )
        taught = distil(
            blank.clone(), teacher, [x[:images].clone() for _ in range(steps)], 4.0, 1.0
        )
        found.append((_hit(alone, *judge), _hit(torch.as_tensor(taught).detach().double(), *judge)))
    return found


def _by_labels(weight: Tensor, x: Tensor, y: Tensor, steps: int) -> list[Tensor]:
    """The weight after each step of gradient descent, at the rate 1, on the mean cross-entropy."""
    ways = []
    for _ in range(steps):
        away = (x @ weight.T).softmax(-1) - F.one_hot(y, len(weight))
        weight = weight - away.T @ x / len(x)
        ways.append(weight)
    return ways


def _miss(weight: Tensor, x: Tensor, y: Tensor) -> float:
    return float(F.cross_entropy(x @ weight.T, y))


def _hit(weight: Tensor, x: Tensor, y: Tensor) -> float:
    return float(((x @ weight.T).argmax(-1) == y).double().mean())
