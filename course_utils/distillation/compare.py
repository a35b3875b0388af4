"""Fair comparisons: the same student, data, steps and seeds, only the loss differs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from course_utils.models.data import mean_loss
from course_utils.theory.intervals import interval

from .trainer import Result, train

__all__ = ["interval", "losses"]


def losses(
    student: Callable[[int], PreTrainedModel], teacher: PreTrainedModel,
    data: Callable[[int], Tensor], ways: Mapping[str, Any], *, validation: Tensor,
    choose: Tensor | None = None, seeds: Sequence[int] = (0, 1, 2),
    score: Callable[[PreTrainedModel], float] | None = None, progress: bool = True, **options,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Train `student(seed)` on `data(seed)` by each way (a loss, or a function student, teacher →
    Objective).

    Every way sees the same students, batches and steps. The last weights count; or, with the
    windows `choose`, those of the evaluation that is best on them, while `validation` only judges.
    For each way: loss, the validation nats per token by seed; step, whose weights count, by seed;
    score, what `score(model)` says by seed, if given; seconds in all.
    """
    found: dict[str, dict[str, Any]] = {
        name: {"loss": [], "step": [], "score": [], "seconds": 0.0} for name in ways
    }
    with tqdm(total=len(seeds) * len(ways), desc="students", disable=not progress) as bar:
        for seed in seeds:
            start, ids = student(seed), data(seed)
            for name, way in ways.items():
                loss = way(start, teacher) if callable(way) and not hasattr(way, "needs") else way
                result: Result = train(
                    start, teacher, ids, loss=loss,
                    validation=validation if choose is None else choose,
                    keep="last" if choose is None else "best", seed=seed, progress=False, **options,
                )  # fmt: skip
                judged = (
                    result.history[-1]["validation"]
                    if choose is None
                    else mean_loss(result.model, validation)
                )
                found[name]["loss"].append(judged)
                found[name]["step"].append(result.step)
                found[name]["seconds"] += result.seconds
                if score is not None:
                    found[name]["score"].append(score(result.model))
                bar.update()
    return found
