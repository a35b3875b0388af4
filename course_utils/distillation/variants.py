"""Ways to arrange teachers and students.

Every one runs the loop of `fit`, with its seeds, checkpoints and early stop.

Keywords that are not named here go to `train`. With a `folder`, each part of a run has a folder of
its own inside it, so that a killed run continues in the part where it was.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.models.data import mean_loss

from . import losses, objectives, students
from .cache import check_ids, fingerprint
from .fit import fit
from .trainer import Result, check_vocabulary, train, weights_fingerprint


def _inside(folder: str | Path | None, name: str) -> Path | None:
    return None if folder is None else Path(folder) / name


def assistants(
    chain: Sequence[PreTrainedModel],
    teacher: PreTrainedModel,
    data: Tensor,
    *,
    folder: str | Path | None = None,
    **options: Any,
) -> list[Result]:
    """Progressive distillation through teacher assistants (Mirzadeh et al., 2020).

    The first model of `chain` learns from the teacher, each other from the trained one before it;
    the last is the student. Raises CompressionError for an empty chain.
    """
    if not chain:
        raise CompressionError(
            "chain: empty; give the assistants in falling size, the student last."
        )
    results: list[Result] = []
    for i, student in enumerate(chain):
        above = results[-1].model if results else teacher
        results.append(
            train(student, above, data, folder=_inside(folder, f"assistant-{i}"), **options)
        )
    return results


def grow(
    student: PreTrainedModel, has: Sequence[int], teacher: PreTrainedModel, wants: Sequence[int]
) -> PreTrainedModel:
    """A student with the blocks `wants` of the teacher, those it `has` taken over from `student`
    with all else.
    """
    if len(walk.blocks(student)) != len(has) or not set(has) <= set(wants):
        raise CompressionError(
            f"has={list(has)}: must name the student's blocks and be among wants={list(wants)}."
        )
    taller = students.from_layers(teacher, wants)
    inside = walk.blocks(taller)
    place = walk.place_of_blocks(taller)
    outside = {k: v for k, v in student.state_dict().items() if not k.startswith(place)}
    taller.load_state_dict(outside, strict=False)
    old, new = walk.blocks(student), inside
    for i, layer in enumerate(has):
        new[list(wants).index(layer)].load_state_dict(old[i].state_dict())
    return taller


def growing(
    teacher: PreTrainedModel,
    data: Tensor,
    *,
    stages: Sequence[Sequence[int]],
    folder: str | Path | None = None,
    **options: Any,
) -> list[Result]:
    """Progressive distillation by growing depth: train with few of the teacher's blocks, add some,
    train again.

    `stages` are lists of the teacher's blocks, each containing the one before, such as [0], [0, 4],
    [0, 2, 4].
    """
    results: list[Result] = []
    for i, layers in enumerate(stages):
        start = (
            grow(results[-1].model, stages[i - 1], teacher, layers)
            if results
            else students.from_layers(teacher, layers)
        )
        results.append(train(start, teacher, data, folder=_inside(folder, f"depth-{i}"), **options))
    if not results:
        raise CompressionError("stages: empty; give lists of the teacher's blocks.")
    return results


def born_again(
    student: PreTrainedModel,
    data: Tensor,
    *,
    generations: int = 2,
    loss: Any = None,
    folder: str | Path | None = None,
    **options: Any,
) -> list[Result]:
    """Self-distillation by generations (Furlanello et al., 2018): all start from the same weights.

    Generation 0 learns from the labels, each next from the one before it too. `loss` is that of the
    later ones (response by default).
    """
    if generations < 1:
        raise CompressionError(f"generations={generations}: choose 1 or more.")
    results = [
        train(student, None, data, loss="labels", folder=_inside(folder, "generation-0"), **options)
    ]
    for i in range(1, generations + 1):
        above = results[-1].model
        results.append(
            train(
                student,
                above,
                data,
                loss=loss or "response",
                folder=_inside(folder, f"generation-{i}"),
                **options,
            )
        )
    return results


def deep_to_shallow(
    model: PreTrainedModel,
    data: Tensor,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    **options: Any,
) -> Result:
    """Self-distillation inside one network: its last block teaches all others to end it
    (`objectives.Exits`).
    """
    return train(model, None, data, loss=objectives.Exits(temperature, alpha), **options)


def several_teachers(
    student: PreTrainedModel, teachers: Sequence[PreTrainedModel], data: Tensor, *,
    weighting: str = "uniform", temperature: float = 2.0, alpha: float = 0.5, **options: Any,
) -> Result:  # fmt: skip
    """One student of several teachers, weighted "uniform", by "entropy" or by "label"
    (`losses.mixture`).
    """
    return train(
        student,
        list(teachers),
        data,
        loss=objectives.Mixture(temperature, alpha, weighting),
        **options,
    )


def stages(
    student: PreTrainedModel, teacher: PreTrainedModel, data: Tensor,
    plan: Sequence[tuple[Any, int]], *, folder: str | Path | None=None,
    **options: Any,
) -> list[Result]:  # fmt: skip
    """Several (loss, steps) one after the other on the same student.

    TinyBERT (Jiao et al., 2020): [("feature+attention", …), ("response", …)], what is inside first,
    then the answers.
    MiniLM (Wang et al., 2020): [("attention+values", …), ("labels", …)], the last block's
    relations, then the task.
    An objective with a projector gets a new one in each stage.
    """
    if not plan:
        raise CompressionError("plan: empty; give pairs of a loss and a number of steps.")
    results: list[Result] = []
    for i, (loss, steps) in enumerate(plan):
        start = results[-1].model if results else student
        results.append(
            train(
                start,
                teacher,
                data,
                loss=loss,
                steps=steps,
                folder=_inside(folder, f"stage-{i}"),
                **options,
            )
        )
    return results


def mutual(
    peers: Sequence[PreTrainedModel], data: Tensor, *, validation: Tensor | None = None,
    temperature: float = 1.0, weight: float = 1.0, **options: Any,
) -> list[Result]:  # fmt: skip
    """Online distillation by mutual learning (Zhang et al., 2018): peers without a teacher, trained
    together.

    L_i = CE_i + weight · τ² / (K − 1) · Σ_{j≠i} KL(P_j ‖ P_i), every peer's P_j fixed while it
    teaches. The validation loss is the mean over peers. `options` go to `fit`. Peers are copied;
    they should differ.
    """
    if len(peers) < 2:
        raise CompressionError(f"peers: {len(peers)} given; mutual learning needs at least two.")
    for peer in peers:
        check_ids("data", data, peer, "peers")
        check_vocabulary(peer, peers[0])
        if validation is not None:
            check_ids("validation", validation, peer, "peers")
    cohort = nn.ModuleList(copy.deepcopy(peer).train() for peer in peers)
    data = data.long()

    def step(rows: Tensor) -> tuple[dict[str, Tensor], float]:
        ids = data[rows].to(peers[0].device)
        logits = [peer(input_ids=ids, use_cache=False).logits[:, :-1] for peer in cohort]
        found = {}
        for i, mine in enumerate(logits):
            others = [
                losses.kl(mine, other, temperature) for j, other in enumerate(logits) if j != i
            ]
            together = weight * temperature**2 * torch.stack(others).mean()
            found[f"peer {i}"] = losses.cross_entropy(mine, ids[:, 1:]) + together
        return found, float(ids[:, 1:].numel())

    def evaluate() -> float:
        assert validation is not None
        each = [mean_loss(peer, validation) for peer in cohort]  # type: ignore[arg-type]
        return sum(each) / len(each)

    told = {"temperature": temperature, "weight": weight, "peers": len(peers)}
    inputs = {
        "cohort": weights_fingerprint(cohort),
        "data": fingerprint(data),
        "validation": fingerprint(validation),
    }
    fitted = fit(
        cohort,
        step,
        len(data),
        evaluate=evaluate if validation is not None else None,
        settings=told | inputs,
        **options,
    )
    settings = {"method": "mutual learning", **told, "steps": fitted.step}
    peers_now: list[Any] = list(cohort.eval())
    return [
        Result(peer, settings, fitted.seconds, {}, fitted.history, fitted.step, fitted.stopped)
        for peer in peers_now
    ]


def quantization_aware(
    model: PreTrainedModel, data: Tensor, *, bits: int = 2, group_size: int | None = 64,
    symmetric: bool = False, loss: Any=None, **options: Any,
) -> Result:  # fmt: skip
    """Quantization-aware distillation: a model with `bits`-bit weights learns from its own
    full-precision self.

    The blocks' linear layers train through their rounding (`quantization.qat.QATLinear`, steps
    learned) to answer as before (by default the teacher's softened answers alone, τ = 1), in single
    precision. What comes out holds packed integers, and all else in the model's own precision.
    Embeddings, norms and head stay as they were.
    """
    from course_utils.quantization import qat, rtn
    from course_utils.quantization.layer import QuantizedLinear

    student = copy.deepcopy(model).float().eval()
    student.requires_grad_(False)
    for name, module in walk.compressible(student).items():
        weight = walk.weight_of(module).float()
        grid = rtn.quantize_layer(
            weight, bits=bits, group_size=group_size, symmetric=symmetric
        ).grid
        walk.replace(student, name, qat.QATLinear(weight, getattr(module, "bias", None), grid))
    result = train(student, model, data, loss=loss or objectives.Response(1.0, 0.0), **options)
    for name, module in list(result.model.named_modules()):
        if isinstance(module, qat.QATLinear):
            walk.replace(result.model, name, QuantizedLinear.of(module.result(), module.bias))
    result.model.requires_grad_(False)
    walk.as_precise_as(model, result.model)
    result.settings |= {
        "method": "quantization-aware distillation",
        "bits": bits,
        "group_size": group_size,
        "symmetric": symmetric,
    }
    return result
