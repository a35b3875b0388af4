"""How a model answers: the likeliest choice, or a greedy continuation. In batches, with the result of one by one."""

import functools
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.models.walk import longest_context
from course_utils.world import Choice, Generate

from .subject import Subject, scoring

NEW_TOKENS = 96  # a generated answer is cut here
LOGITS = 2**25  # most entries of one batch of logits
TOKENS = 4096  # most tokens of one batch


def encode_pair(tokenizer: PreTrainedTokenizerBase, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of both parts: the whole is tokenized at once and divided where the context's own ids end.

    Spaces at the end of the context belong to the continuation. This is how lm-evaluation-harness divides them.
    """
    bare = context.rstrip()
    whole = tokenizer(context + continuation)["input_ids"]
    ids = tokenizer(bare)["input_ids"]
    return whole[: len(ids)], whole[len(ids) :]


@torch.no_grad()
def log_probabilities(model: PreTrainedModel, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """For each (context, continuation): Σ ln p(token of the continuation | all before it), in nats.

    Rows are padded on the right behind an attention mask, so that positions count from 0 in every architecture.
    What does not fit the model's context is cut on the left. Pairs with the same input (one-token continuations
    of one context) share a row.
    """
    longest = longest_context(model)
    rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, (context, continuation) in enumerate(pairs):
        if not continuation or not context:
            raise CompressionError("items: a prompt and each of its choices must hold at least one token.")
        whole = (context + continuation)[:-1]
        rows[tuple(whole[-longest:] if longest else whole)].append(i)
    scores = [0.0] * len(pairs)
    for batch in batches(sorted(rows, key=len), model.config.vocab_size):
        width = len(batch[-1])
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for r, row in enumerate(batch):
            for i in rows[row]:
                wanted = torch.tensor(pairs[i][1][-len(row) :], device=model.device)
                log_p = logits[r, len(row) - len(wanted) : len(row)].float().log_softmax(-1)
                scores[i] = float(log_p.gather(1, wanted[:, None]).double().sum())
    return scores


def batches(rows: Sequence[tuple[int, ...]], vocabulary: int) -> list[list[tuple[int, ...]]]:
    """Rows, sorted by length, divided so that a padded batch stays within TOKENS and LOGITS."""
    limit = min(TOKENS, LOGITS // vocabulary)
    out: list[list[tuple[int, ...]]] = []
    for row in rows:
        if out and (len(out[-1]) + 1) * len(row) <= limit:
            out[-1].append(row)
        else:
            out.append([row])
    return out


@torch.no_grad()
def continuations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], new_tokens: int = NEW_TOKENS
) -> list[str]:
    """The most likely next token again and again, up to a newline, the end of the text, or `new_tokens`.

    Prompts of equal length go together, so no row is padded; keys and values are cached.
    """
    longest = longest_context(model)
    if longest is not None and longest <= new_tokens:
        raise CompressionError(f"new_tokens={new_tokens}: the model reads only {longest} tokens; ask for fewer.")
    by_length: dict[int, list[int]] = defaultdict(list)
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    if longest is not None:
        ids = [row[new_tokens - longest :] for row in ids]
    for i, row in enumerate(ids):
        by_length[len(row)].append(i)
    ends, newline = ends_of_text(model, tokenizer), newline_test(tokenizer)
    texts = [""] * len(prompts)
    for length, members in by_length.items():
        size = max(1, min(TOKENS, LOGITS // model.config.vocab_size) // length)
        for start in range(0, len(members), size):
            part = members[start : start + size]
            new = greedy(model, torch.tensor([ids[i] for i in part], device=model.device), new_tokens, ends, newline)
            for i, row in zip(part, new, strict=True):
                texts[i] = str(tokenizer.decode(row, skip_special_tokens=True)).split("\n")[0]
    return texts


def greedy(model: PreTrainedModel, ids: Tensor, new_tokens: int, ends: set[int], newline) -> list[list[int]]:
    """New tokens of each row of `ids` (rows, length); an end of text is left out."""
    rows: list[list[int]] = [[] for _ in ids]
    running, cache, step = set(range(len(rows))), None, ids
    for _ in range(new_tokens):
        out = model(input_ids=step, past_key_values=cache, use_cache=True)
        cache, step = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
        for i in sorted(running):
            token = int(step[i])
            if token in ends:
                running.discard(i)
                continue
            rows[i].append(token)
            if newline(token):
                running.discard(i)
        if not running:
            break
    return rows


def ends_of_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return {i for i in (*ends, tokenizer.eos_token_id) if i is not None}


def newline_test(tokenizer: PreTrainedTokenizerBase):
    """token id → does its text hold a newline?"""
    return functools.cache(lambda token: "\n" in tokenizer.decode([token]))


def judge(model: Subject, tokenizer: PreTrainedTokenizerBase, items: Sequence[Choice | Generate]) -> list[bool]:
    """For each item: is the model's answer right? A choice whose log-probability is not a number is never the answer."""
    pairs = [encode_pair(tokenizer, i.prompt, c) for i in items if isinstance(i, Choice) for c in i.choices]
    with scoring(model) as ready:
        scores = iter(log_probabilities(ready, pairs))
        written = iter(continuations(ready, tokenizer, [i.prompt for i in items if isinstance(i, Generate)]))
    return [
        pick([next(scores) for _ in item.choices]) == item.answer if isinstance(item, Choice) else item.is_correct(next(written))
        for item in items
    ]


def pick(scores: Sequence[float]) -> int | None:
    """The index of the highest score, the first of equals; None if any is not a number."""
    if any(s != s for s in scores):
        return None
    return max(range(len(scores)), key=scores.__getitem__)
