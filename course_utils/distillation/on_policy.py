"""On-policy distillation: the student writes, the teacher says at every token what it would have
said (GKD; Agarwal et al., 2024).

L = (1 − λ) E_(x, y) in data [D(p_T ‖ p_S)(y | x)] + λ E_{x, y ~ p_S(·|x)} [D(p_T ‖ p_S)(y | x)]
(arXiv 2306.13649, eq. 5)

D is a divergence of the two next-token distributions, the mean over the tokens of y. No gradient
goes through the drawing of y.
Any causal language models that number their tokens alike.
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.models import walk

from .cache import check_ids, fingerprint
from .fit import fit
from .losses.logits import DIVERGENCES
from .trainer import (
    IGNORED,
    Result,
    as_wide,
    check_tokenizers,
    check_vocabulary,
    ready,
    weights_fingerprint,
)
from .views import teacher_view, view


class Written(NamedTuple):
    """Prompts and what a model wrote behind them, (n, tokens), padding at the end: `real` is False
    there, `own` True where it wrote.
    """

    ids: Tensor
    real: Tensor
    own: Tensor


def pushed(ids: Tensor, real: Tensor, side: str) -> tuple[Tensor, Tensor]:
    """The rows of `ids` with their padding moved to the "left" or the "right"; the order of real
    tokens stays.
    """
    order = (real.bool() if side == "left" else ~real.bool()).long().argsort(dim=1, stable=True)
    return ids.gather(1, order), real.bool().gather(1, order)


@torch.no_grad()
def sample(
    model: PreTrainedModel, prompts: Tensor, *, tokens: int, real: Tensor | None = None,
    temperature: float = 1.0,
    end: int | list[int] | None = None,
) -> Written:  # fmt: skip
    """What `model` writes behind each prompt, drawn from softmax(logits / temperature); temperature
    0 takes the likeliest token.

    prompts (n, p): token ids; `real` (n, p) is False at padding, on either side. At most `tokens`
    new ones; a row ends behind the first token of `end` (by default the model's own), which counts
    as written. Settings for generation that come with a model (top-k, penalties) are not used: they
    would draw from another distribution. PyTorch's own generator is used.
    Raises CompressionError for empty prompts, ids outside the vocabulary, a temperature below 0,
    texts beyond the model's context.
    """
    _check_prompts(prompts, model)
    if tokens < 1 or not 0 <= temperature < float("inf"):
        raise CompressionError(
            f"tokens={tokens}, temperature={temperature}: write at least one token, "
            "at a temperature of 0 or more."
        )
    real = torch.ones_like(prompts, dtype=torch.bool) if real is None else real.bool()
    if real.shape != prompts.shape or not real.any(1).all():
        raise CompressionError("real: needs the shape of the prompts, and a token in each row.")
    walk.check_context("prompts", prompts.shape[1] + tokens, model)
    own_settings = model.generation_config
    stop: Any = own_settings.eos_token_id if end is None and own_settings is not None else end
    ends: list[int] = [] if stop is None else [stop] if isinstance(stop, int) else list(stop)
    filler = ends[0] if ends else 0
    ids, real = pushed(prompts.to(model.device), real.to(model.device), "left")
    chance: dict[str, Any] = (
        {"do_sample": True, "temperature": float(temperature), "top_k": 0, "top_p": 1.0}
        if temperature
        else {"do_sample": False}
    )
    training, writer = model.training, cast(Any, model)
    model.eval()
    model.generation_config = GenerationConfig(
        max_new_tokens=tokens, eos_token_id=ends or None, pad_token_id=filler, **chance
    )
    try:
        out = writer.generate(input_ids=ids, attention_mask=real.long())
    finally:
        model.generation_config = own_settings
        model.train(training)
    new = out[:, ids.shape[1] :]
    stops = (
        torch.isin(new, torch.tensor(ends, device=new.device, dtype=new.dtype))
        if ends
        else torch.zeros_like(new, dtype=torch.bool)
    )
    fresh = (stops.long().cumsum(1) - stops.long()) == 0
    own = torch.cat([torch.zeros_like(real), fresh], 1)
    together, both = pushed(out, torch.cat([real, fresh], 1), "right")
    return Written(
        together, both, pushed(own.long(), torch.cat([real, fresh], 1), "right")[0].bool() & both
    )


def loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    own: Tensor,
    divergence: str = "reverse",
    temperature: float = 1.0,
) -> Tensor:
    """The mean divergence at the tokens that count, in nats: logits (n, tokens, V) of whole rows,
    `own` (n, tokens) their tokens.

    The logits at t − 1 belong to the token t. `divergence`: forward KL(p_T ‖ p_S), reverse KL(p_S ‖
    p_T), or js.
    """
    if divergence not in DIVERGENCES:
        raise CompressionError(
            f"divergence={divergence!r}: choose one of {', '.join(DIVERGENCES)}."
        )
    return DIVERGENCES[divergence](
        student_logits[:, :-1], teacher_logits[:, :-1], temperature, own[:, 1:]
    )


def train(
    student: PreTrainedModel, teacher: PreTrainedModel, prompts: Tensor, *, steps: int, tokens: int,
    share: float = 1.0, divergence: str = "reverse", data: Tensor | None = None,
    labels: Tensor | None = None, mask: Tensor | None = None, real: Tensor | None = None,
    temperature: float = 1.0, end: int | list[int] | None = None, batch: int = 16,
    accumulate: int = 1, peak: float = 3e-4, warmup: int | None = None, weight_decay: float = 0.0,
    seed: int = 0, folder: str | Path | None = None, every: int = 50,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase] | None = None,
    progress: bool = True,
) -> Result:  # fmt: skip
    """Train a copy of `student` (GKD): each batch comes with probability `share` (λ) from the
    student itself, else from `data`.

    prompts (n, p), `real`, `tokens`, `end`: as in `sample`. `temperature` is that of sampling; the
    divergence is taken at 1.
    data (n, context), needed for λ < 1: row i is a text with prompt i; labels (n, context): IGNORED
    where nothing counts (by default all tokens behind the first count); mask: False at padding. λ =
    0 is ordinary distillation on the data.
    Both models are as they were afterwards. A student in half precision learns in float32. The
    report counts the tokens that the student was scored on. The other keywords are those of
    `fit.fit`.
    Raises CompressionError for a share outside 0 … 1, missing or unlike data, other vocabularies or
    tokenizers, and as `fit.fit` does.
    """
    if not 0 <= share <= 1:
        raise CompressionError(
            f"share={share}: choose 0 (data alone) to 1 (the student's own texts alone)."
        )
    if divergence not in DIVERGENCES:
        raise CompressionError(
            f"divergence={divergence!r}: choose one of {', '.join(DIVERGENCES)}."
        )
    for one in (student, teacher):
        walk.check_loaded(one)
    _check_prompts(prompts, student)
    if tokenizers is None:
        check_vocabulary(student, teacher)
    else:
        check_tokenizers(*tokenizers)
    rows = _rows(prompts, data, labels, mask, share, student)
    given, learner = student, copy.deepcopy(student)
    if any(p.dtype in (torch.bfloat16, torch.float16) for p in learner.parameters()):
        learner = learner.float()
    scored: dict[int, int] = {}

    def batch_of(chosen: Tensor) -> Written:
        if rows is None or float(torch.rand(())) < share:
            return sample(
                learner,
                prompts[chosen],
                tokens=tokens,
                real=None if real is None else real[chosen],
                temperature=temperature,
                end=end,
            )
        return Written(*(part[chosen].to(learner.device) for part in rows))

    def losses_of(chosen: Tensor) -> tuple[dict[str, Tensor], float]:
        texts = batch_of(chosen)
        there = teacher_view(
            teacher, texts.ids.to(teacher.device), texts.real.to(teacher.device)
        ).logits.to(learner.device)
        mine = view(learner, texts.ids, texts.real).logits
        count = int(texts.own[:, 1:].sum())
        scored[len(scored)] = count
        return {
            divergence: loss(mine, as_wide(there, mine.shape[-1]), texts.own, divergence)
        }, float(count)

    told: dict[str, Any] = {"method": "on-policy distillation", "share": share,
                            "divergence": divergence, "tokens": tokens,
                            "temperature": temperature, "prompts": fingerprint(prompts),
                            "data": fingerprint(data), "real": fingerprint(real),
                            "labels": fingerprint(labels), "mask": fingerprint(mask), "end": end,
                            "student": weights_fingerprint(student),
                            "teacher": weights_fingerprint(teacher)}  # fmt: skip
    with ready(teacher):
        fitted = fit(
            learner, losses_of, len(prompts), steps=steps, batch=batch, accumulate=accumulate,
            peak=peak, warmup=warmup, weight_decay=weight_decay, seed=seed, folder=folder,
            every=every, keep="last", settings=told, progress=progress,
            description="on-policy",
        )  # fmt: skip
    walk.as_precise_as(given, learner)
    used = {"method": "on-policy distillation", "share": share, "divergence": divergence,
            "steps": fitted.step, "batch": batch, "peak": peak,
            "temperature": temperature, "seed": seed, "scored tokens": sum(scored.values())
    }  # fmt: skip
    return Result(
        learner.eval(), used, fitted.seconds, {}, fitted.history, fitted.step, fitted.stopped
    )


def _check_prompts(prompts: Tensor, model: PreTrainedModel) -> None:
    """As `check_ids`; a prompt may be a single token."""
    alone = isinstance(prompts, Tensor) and prompts.dim() == 2 and prompts.shape[1] == 1
    check_ids("prompts", prompts.repeat(1, 2) if alone else prompts, model)


def _rows(
    prompts: Any,
    data: Any,
    labels: Tensor | None,
    mask: Tensor | None,
    share: float,
    student: PreTrainedModel,
) -> Written | None:
    """The data as `Written`: own is True at labels that count.

    None where all comes from the student.
    """
    if data is None:
        if share < 1:
            raise CompressionError(
                f"data: needed for share={share}; give a text for each prompt, or share=1."
            )
        return None
    check_ids("data", data, student)
    for name, extra in (("labels", labels), ("mask", mask)):
        if extra is not None and extra.shape != data.shape:
            raise CompressionError(
                f"{name}: shape {tuple(extra.shape)}; data has {tuple(data.shape)}."
            )
    if len(data) != len(prompts):
        raise CompressionError(
            f"data: {len(data)} texts for {len(prompts)} prompts; row i of both belongs together."
        )
    real = torch.ones_like(data, dtype=torch.bool) if mask is None else mask.bool()
    own = real.clone() if labels is None else real & (labels != IGNORED)
    own = pushed(own.long(), real, "right")[0].bool()
    data, real = pushed(data.long(), real, "right")
    own = own & real
    if not own[:, 1:].any(1).all():
        raise CompressionError(
            "labels, mask: some rows have nothing to learn from; leave them out."
        )
    return Written(data, real, own)
