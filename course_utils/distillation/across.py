"""Distillation across tokenizers: Universal Logit Distillation (ULD; Boizard et al., 2024, arXiv
2402.12030).

Two vocabularies share no index, so that no token can be compared with its twin. What can be
compared is how sure both models are:
the probabilities of each, sorted, the shorter list filled with zeros. Σ_i |p_(i) − q_(i)| is the
least L1 distance over all ways to pair the tokens, and half of it the least cost of moving p onto q
where every move from one token to another costs 1.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from course_utils.errors import CompressionError
from course_utils.models import walk

from . import losses
from .cache import check_ids, fingerprint
from .fit import fit
from .trainer import Result, ready, weights_fingerprint

ALIGNMENTS = ("index", "characters")


def distance(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Σ_i |p_(i) − q_(i)| of sorted probabilities, the mean over positions: logits (n, V_S) and (n,
    V_T), n pairs of positions.

    0 … 2; no gradient reaches the teacher. Where V_S = V_T = V it is V times the 1-Wasserstein
    distance of the two lists of probabilities (`scipy.stats.wasserstein_distance(p, q)`). Raises
    CompressionError for unlike counts of positions.
    """
    if (
        student_logits.dim() != 2
        or teacher_logits.dim() != 2
        or len(student_logits) != len(teacher_logits)
        or not len(student_logits)
    ):
        raise CompressionError(
            f"teacher_logits: shapes {tuple(student_logits.shape)} and "
            f"{tuple(teacher_logits.shape)}; give paired positions, (n, V) each, n ≥ 1."
        )
    q = walk.exact(student_logits).softmax(-1).sort(-1, descending=True).values
    p = walk.exact(teacher_logits.detach()).softmax(-1).sort(-1, descending=True).values.to(q)
    wide = max(p.shape[-1], q.shape[-1])
    return (
        (F.pad(p, (0, wide - p.shape[-1])) - F.pad(q, (0, wide - q.shape[-1]))).abs().sum(-1).mean()
    )


def pairs(
    student_ends: Sequence[int], teacher_ends: Sequence[int], alignment: str = "characters"
) -> list[tuple[int, int]]:
    """Which positions see the same text: (i, j) of tokens that end at the same character
    ("characters"), or i = j ("index", as published).

    `…_ends`: for each token the number of characters up to its end, growing; tokens without
    characters (specials) carry 0 and pair with each other. Only where both have read the same text
    do the two predict the same continuation.
    """
    if alignment not in ALIGNMENTS:
        raise CompressionError(f"alignment={alignment!r}: choose one of {', '.join(ALIGNMENTS)}.")
    if alignment == "index":
        return [(i, i) for i in range(min(len(student_ends), len(teacher_ends)))]
    last = {end: j for j, end in enumerate(teacher_ends)}
    ours = {end: i for i, end in enumerate(student_ends)}
    return [(i, last[end]) for end, i in sorted(ours.items()) if end in last]


def character_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the single characters of `texts`, "<unk>" for others and "<s>"
    before each text (id 0, also the end).
    """
    letters = sorted(set("".join(texts)))
    vocabulary = {"<s>": 0, "<unk>": 1, **{c: i + 2 for i, c in enumerate(letters)}}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="<s>", unk_token="<unk>", pad_token="<s>"
    )


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """(ids with the tokenizer's first token before them, characters up to the end of each): what
    `pairs` reads.
    """
    if not tokenizer.is_fast:
        raise CompressionError(
            "tokenizer: it does not say where its tokens end; load a fast one (use_fast=True)."
        )
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    before = [] if first is None else [int(first)]
    return before + list(made["input_ids"]), [0] * len(before) + [
        end for _, end in made["offset_mapping"]
    ]


def train(
    student: PreTrainedModel, teacher: PreTrainedModel,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase], texts: Sequence[str], *,
    steps: int, context: int = 128, weight: float = 1.0, alignment: str = "characters",
    batch: int = 16, peak: float = 1e-3, seed: int = 0, progress: bool = True,
) -> Result:  # fmt: skip
    """Train a copy of `student` on texts: −log p of its own next tokens, plus `weight` times
    `distance` to a teacher with another tokenizer.

    tokenizers: (the student's, the teacher's). Each text is cut after `context` tokens of the
    student, and the teacher reads the characters that are left. weight = 0 learns from the text
    alone and never asks the teacher. Both models stay as they are.
    Raises CompressionError for empty texts, ids that a model does not have, tokenizers that cannot
    say where tokens end.
    """
    if not texts or weight < 0:
        raise CompressionError(
            f"texts, weight={weight}: give at least one text, and a weight of 0 or more."
        )
    learner = copy.deepcopy(student).float()
    ours: list[list[int]] = []
    theirs: list[list[int]] = []
    places: list[list[tuple[int, int]]] = []
    for text in texts:
        ids, ends = encode(tokenizers[0], text)
        ids, ends = ids[:context], ends[:context]
        other, other_ends = encode(tokenizers[1], text[: ends[-1]]) if ends else ([], [])
        if len(ids) < 2 or len(other) < 1:
            raise CompressionError(f"texts: {text[:30]!r} has fewer than two tokens; leave it out.")
        found = pairs(ends, other_ends, alignment)
        ours.append(ids)
        theirs.append(other)
        places.append([(i, j) for i, j in found if i < len(ids) - 1])
    data, real = _together(ours)
    asked, asked_real = _together(theirs)
    check_ids("texts", data, learner)
    check_ids("texts", asked, teacher, "teacher")

    def losses_of(rows: Tensor) -> tuple[dict[str, Tensor], float]:
        ids, there = data[rows].to(learner.device), real[rows].to(learner.device)
        logits = learner(input_ids=ids, attention_mask=there.long(), use_cache=False).logits
        found = {"labels": losses.cross_entropy(logits[:, :-1], ids[:, 1:], there[:, 1:])}
        if weight:
            with torch.no_grad():
                said = teacher(
                    input_ids=asked[rows].to(teacher.device),
                    attention_mask=asked_real[rows].long().to(teacher.device),
                    use_cache=False,
                ).logits
            at = [(n, i, j) for n, row in enumerate(rows.tolist()) for i, j in places[row]]
            n, i, j = (torch.tensor(part) for part in zip(*at, strict=True))
            found["uld"] = weight * distance(logits[n, i], said[n, j].to(logits.device))
        return found, float(there[:, 1:].sum())

    told: dict[str, Any] = {"method": "across tokenizers", "weight": weight, "alignment": alignment,
                            "data": fingerprint(data),
                            "student": weights_fingerprint(student),
                            "teacher": weights_fingerprint(teacher)}  # fmt: skip
    with ready(teacher):
        fitted = fit(
            learner,
            losses_of,
            len(data),
            steps=steps,
            batch=batch,
            peak=peak,
            seed=seed,
            keep="last",
            settings=told,
            progress=progress,
        )
    walk.as_precise_as(student, learner)
    used = {
        "method": "across tokenizers",
        "weight": weight,
        "alignment": alignment,
        "steps": fitted.step,
        "batch": batch,
        "peak": peak,
        "seed": seed,
    }
    return Result(
        learner.eval(), used, fitted.seconds, {}, fitted.history, fitted.step, fitted.stopped
    )


def _together(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Rows of unlike lengths, filled with 0 at the end: (ids, where they are real)."""
    wide = max(map(len, rows))
    real = torch.tensor([[True] * len(row) + [False] * (wide - len(row)) for row in rows])
    return torch.tensor([row + [0] * (wide - len(row)) for row in rows]), real
