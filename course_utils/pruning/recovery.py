"""Short training after pruning: the weights that stay learn to do without the others."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.distillation import losses as distillation_losses
from course_utils.distillation.cache import fingerprint
from course_utils.distillation.fit import Fitted, fit
from course_utils.distillation.trainer import weights_fingerprint
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.data import mean_loss
from course_utils.quantization.compressed import Compressed

from . import apply
from .anatomy import check_model

Losses = Callable[[Tensor], tuple[dict[str, Tensor], float]]


def next_token(
    model: PreTrainedModel, ids: Tensor, teacher: PreTrainedModel | None = None
) -> Losses:
    """For row numbers of `ids`: the cross-entropy of the next token; with a teacher, half of it and
    half response distillation.
    """

    def losses(rows: Tensor) -> tuple[dict[str, Tensor], float]:
        batch = ids[rows].to(model.device)
        labels = batch[:, 1:]
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
        if teacher is None:
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        else:
            with torch.no_grad():
                wanted = (
                    teacher(input_ids=batch.to(teacher.device), use_cache=False)
                    .logits[:, :-1]
                    .to(logits)
                )
            loss = distillation_losses.response(logits, wanted, labels)
        return {"loss": loss}, float(labels.numel())

    return losses


def train(
    model: PreTrainedModel, ids: Tensor, *, steps: int = 100,
    teacher: PreTrainedModel | None = None, hold: bool = True, peak: float = 1e-4, batch: int = 16,
    seed: int = 0, validation: Tensor | None = None, folder: str | Path | None = None,
    every: int = 50, progress: bool = True,
) -> Compressed:  # fmt: skip
    """Train a copy of a pruned model on token ids (n, context).

    `hold`: weights that are zero stay zero (after every step, since momentum would bring them
    back). `teacher`:
    usually the dense model, to learn from as well. `peak`: the default is careful; a model that has
    lost much recovers faster with up to 1e-3, which takes from one that has lost little
    (docs/benchmarks.md). `validation` (m, context):
    its loss is written to the history.
    With a `folder` a killed run goes on from its last checkpoint, `every` steps apart.
    Raises CompressionError for empty data, settings that make no sense, or a loss that is not
    finite.
    """
    check_model(model)
    ids = walk.check_calibration(ids, model, whole=True)
    model = copy.deepcopy(model).train()
    masks = apply.nonzero(model) if hold else {}
    losses = next_token(model, ids, None if teacher is None else teacher.eval())
    with apply.each_step(model, after=lambda _: apply.apply(model, masks)):
        fitted = run(
            model, losses, ids, steps=steps, peak=peak, batch=batch, seed=seed,
            validation=validation, folder=folder, every=every, progress=progress, title="recovery",
            told={"hold": hold,
                  "teacher": None if teacher is None else weights_fingerprint(teacher)},
        )  # fmt: skip
    settings = {
        "method": "recovery",
        "steps": steps,
        "peak": peak,
        "batch": batch,
        "seed": seed,
        "hold": hold,
    }
    settings |= {"tokens": steps * batch * ids.shape[1], "sparsity": apply.sparsity_of(model)}
    return Compressed(model.eval(), settings, fitted.seconds, {"history": fitted.history})


def run(
    model: PreTrainedModel, losses: Losses, ids: Tensor, *, steps: int, peak: float, batch: int,
    seed: int, validation: Tensor | None, folder: str | Path | None, every: int, progress: bool,
    told: dict[str, Any],
    title: str,
) -> Fitted:  # fmt: skip
    """`distillation.fit` with the last weights kept: the best would be those from before the
    pruning.

    A folder goes on only with the model, token ids and settings (`told` among them) that it began
    with.
    """
    if validation is not None:
        validation = walk.check_calibration(validation, model, whole=True).to(model.device)
    if not isinstance(steps, int) or steps < 1:
        raise CompressionError(f"steps={steps}: choose 1 or more training steps.")
    told = told | {"model": weights_fingerprint(model), "data": fingerprint(ids)}
    return fit(
        model, losses, len(ids), steps=steps, peak=peak, batch=batch, seed=seed, folder=folder,
        every=every, keep="last",
        evaluate=None if validation is None else lambda: mean_loss(model, validation),
        settings=told, progress=progress, description=title,
    )  # fmt: skip
