"""How a model answers: the likeliest choice, or a greedy continuation.

In batches, with the result of one by one.
"""

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from course_utils.errors import CompressionError
from course_utils.models.walk import longest_context
from course_utils.world import Choice, Generate

from .memory import kv_cache
from .subject import Subject, scoring

NEW_TOKENS = 96  # a generated answer is cut here
LOGITS = 2**25  # most entries of one batch of logits
TOKENS = 1024  # most tokens of one batch: what lies between two layers stays in the cache
CACHE = 3 * 2**29  # most bytes of keys and values that are held while answers are written


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Token ids of both parts: the whole is tokenized at once and divided where the context's own
    ids end.

    Spaces at the end of the context belong to the continuation. This is how lm-evaluation-harness
    divides them.
    """
    bare = context.rstrip()
    whole = tokenizer(context + continuation)["input_ids"]
    ids = tokenizer(bare)["input_ids"]
    return whole[: len(ids)], whole[len(ids) :]


@torch.no_grad()
def log_probabilities(
    model: PreTrainedModel, pairs: Sequence[tuple[list[int], list[int]]]
) -> list[float]:
    """For each (context, continuation): Σ ln p(token of the continuation | all before it), in nats.

    A context with several continuations of more than one token is read once, and they go on from
    its keys and values, where the architecture keeps nothing but these. Other pairs are rows of
    their own: see `by_rows`.
    """
    longest = longest_context(model)
    contexts: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, (context, continuation) in enumerate(pairs):
        if not continuation or not context:
            raise CompressionError(
                "items: a prompt and each of its choices must hold at least one token."
            )
        contexts[tuple(context)].append(i)
    # contexts by their length: no row is padded on the left
    together: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for read, members in contexts.items():
        whole = len(read) + max(len(pairs[i][1]) for i in members) - 1
        if len({tuple(pairs[i][1][:-1]) for i in members}) > 1 and (
            not longest or whole <= longest
        ):
            together[len(read)].append(read)
    found: dict[int, float] = {}
    for length, group in together.items():
        tails = max(len(contexts[c]) * max(len(pairs[i][1]) for i in contexts[c]) for c in group)
        size = max(1, min(TOKENS // length, LOGITS // (tails * model.config.vocab_size)))
        for start in range(0, len(group), size):
            found |= by_contexts(
                model, pairs, {c: contexts[c] for c in group[start : start + size]}
            )
    rest = [i for i in range(len(pairs)) if i not in found]
    found |= zip(rest, by_rows(model, [pairs[i] for i in rest]), strict=True)
    return [found[i] for i in range(len(pairs))]


def by_contexts(
    model: PreTrainedModel,
    pairs: Sequence[tuple[list[int], list[int]]],
    contexts: dict[tuple[int, ...], list[int]],
) -> dict[int, float]:
    """Pair → its log-probability, for pairs of contexts that are equally long; {} where the cache
    holds more than keys and values.
    """
    out = run(model, 1, input_ids=torch.tensor(list(contexts), device=model.device), use_cache=True)
    cache = getattr(out, "past_key_values", None)
    if not isinstance(cache, DynamicCache) or any(
        type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    ):
        return {}
    ends = [
        (place, i)
        for place, members in enumerate(contexts.values())
        for i in members
        if len(pairs[i][1]) > 1
    ]
    rows = {
        key: row
        for row, key in enumerate(
            dict.fromkeys((place, tuple(pairs[i][1][:-1])) for place, i in ends)
        )
    }
    width = max(len(tail) for _, tail in rows)
    cache.reorder_cache(torch.tensor([place for place, _ in rows], device=model.device))  # type: ignore[arg-type]
    # nothing looks at what comes after
    ids = torch.tensor(
        [[*tail, *[0] * (width - len(tail))] for _, tail in rows], device=model.device
    )
    later = (
        run(model, width, input_ids=ids, past_key_values=cache, use_cache=True)
        .logits.float()
        .log_softmax(-1)
    )
    first = out.logits[:, -1].float().log_softmax(-1)
    found = {
        i: float(first[place, pairs[i][1][0]])
        for place, members in enumerate(contexts.values())
        for i in members
    }
    for place, i in ends:
        wanted = torch.tensor(pairs[i][1][1:], device=model.device)
        log_p = later[rows[place, tuple(pairs[i][1][:-1])], : len(wanted)]
        found[i] += float(log_p.gather(1, wanted[:, None]).double().sum())
    return found


def by_rows(model: PreTrainedModel, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """`log_probabilities`, each different input in a row of its own.

    Rows are padded on the right behind an attention mask, so that positions count from 0 in every
    architecture.
    What does not fit the model's context is cut on the left. Pairs with the same input (one-token
    continuations of one context) share a row, and the head sees only the last positions, those that
    a continuation asks for.
    """
    longest = longest_context(model)
    rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, (context, continuation) in enumerate(pairs):
        whole = (context + continuation)[:-1]
        rows[tuple(whole[-longest:] if longest else whole)].append(i)
    asked = {
        row: max(min(len(pairs[i][1]), len(row)) for i in members) for row, members in rows.items()
    }
    scores = [0.0] * len(pairs)
    for batch in batches(sorted(rows, key=len), model.config.vocab_size, asked):
        width = len(batch[-1])
        ids = torch.tensor(
            [[*row, *[0] * (width - len(row))] for row in batch], device=model.device
        )
        mask = torch.tensor(
            [[1] * len(row) + [0] * (width - len(row)) for row in batch], device=model.device
        )
        keep = max(width - len(row) + asked[row] for row in batch)
        logits = run(model, keep, input_ids=ids, attention_mask=mask, use_cache=False).logits
        first = width - logits.shape[1]  # the position of the first logits
        for r, row in enumerate(batch):
            for i in rows[row]:
                wanted = torch.tensor(pairs[i][1][-len(row) :], device=model.device)
                log_p = (
                    logits[r, len(row) - len(wanted) - first : len(row) - first]
                    .float()
                    .log_softmax(-1)
                )
                scores[i] = float(log_p.gather(1, wanted[:, None]).double().sum())
    return scores


def run(model: PreTrainedModel, keep: int, **inputs: Any) -> Any:
    """The model's output with the logits of the last `keep` positions, or of all where it has no
    way to make a part of them.
    """
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = keep
    return model(**inputs)


def batches(
    rows: Sequence[tuple[int, ...]], vocabulary: int, asked: dict[tuple[int, ...], int]
) -> list[list[tuple[int, ...]]]:
    """Rows, sorted by length, divided so that a padded batch stays within TOKENS, and its logits
    within LOGITS.

    `asked`: how many of the last positions of a row need logits.
    """
    out: list[list[tuple[int, ...]]] = []
    kept = 0
    for row in rows:
        shorter = len(row) - len(out[-1][-1]) if out else 0
        kept = max(kept + shorter, asked[row])
        if (
            out
            and (len(out[-1]) + 1) * len(row) <= TOKENS
            and (len(out[-1]) + 1) * kept * vocabulary <= LOGITS
        ):
            out[-1].append(row)
        else:
            out.append([row])
            kept = asked[row]
    return out


@torch.no_grad()
def continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    new_tokens: int = NEW_TOKENS,
    may_begin: Sequence[Callable[[str], bool] | None] | None = None,
) -> list[str]:
    """The most likely next token again and again, up to a newline, the end of the text, or
    `new_tokens`.

    See `greedy`.

    may_begin[i] of a prompt: whether what is written so far is worth going on; where it is not, the
    text ends there.
    """
    longest = longest_context(model)
    if longest is not None and longest <= new_tokens:
        raise CompressionError(
            f"new_tokens={new_tokens}: the model reads only {longest} tokens; ask for fewer."
        )
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    if longest is not None:
        ids = [row[new_tokens - longest :] for row in ids]
    ends, newline = ends_of_text(model, tokenizer), newline_test(tokenizer)
    texts = [""] * len(prompts)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)  # the longest first
    room = CACHE // bytes_of_a_token(model)

    def over(i: int) -> Callable[[list[int]], bool] | None:
        goes_on = may_begin[i] if may_begin else None
        if goes_on is None:
            return None
        # a character of which only the first bytes are there says nothing yet
        return lambda row: (
            not goes_on(str(tokenizer.decode(row, skip_special_tokens=True)).rstrip("\ufffd"))
        )

    while order:
        size = max(
            1, min(room // (len(ids[order[0]]) + new_tokens), LOGITS // model.config.vocab_size)
        )
        part, order = order[:size], order[size:]
        asked = [ids[i] for i in part]
        rows = greedy(model, asked, new_tokens, ends, newline, [over(i) for i in part])
        for i, row in zip(part, rows, strict=True):
            texts[i] = str(tokenizer.decode(row, skip_special_tokens=True)).split("\n")[0]
    return texts


def greedy(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    new_tokens: int,
    ends: set[int],
    newline: Callable[[int], bool],
    over: Sequence[Callable[[list[int]], bool] | None] | None = None,
) -> list[list[int]]:
    """New tokens of each prompt; an end of text is left out.

    A row ends behind a newline, at `new_tokens`, or where its `over` says so.

    No row is padded: the pass over all prompts stops where the shortest ends, and a longer one
    gives its own next tokens before the model's. Keys and values are cached; rows that are done
    leave the batch.
    """
    rows: list[list[int]] = [[] for _ in prompts]
    running, cache = list(range(len(rows))), None
    read = min(map(len, prompts))
    step = torch.tensor([row[:read] for row in prompts], device=model.device)
    while running:
        out = run(model, 1, input_ids=step, past_key_values=cache, use_cache=True)
        cache, guesses = out.past_key_values, out.logits[:, -1].argmax(-1).tolist()
        going, given = [], []  # places in the batch of those that go on, and what each reads next
        for place, (i, token) in enumerate(zip(running, guesses, strict=True)):
            if read < len(prompts[i]):
                token = prompts[i][read]
            elif token in ends:
                continue
            else:
                rows[i].append(token)
                if newline(token) or len(rows[i]) == new_tokens:
                    continue
                if over and (ended := over[i]) and ended(rows[i]):
                    continue
            going.append(place)
            given.append(token)
        if going and len(going) < len(running):
            cache.reorder_cache(torch.tensor(going, device=model.device))
        running, read = [running[place] for place in going], read + 1
        step = torch.tensor(given, device=model.device)[:, None]
    return rows


def reply(model: Any, tokenizer: Any, prompt: str, tokens: int) -> str:
    """What the model adds, greedily: to the prompt, or to its chat template if the tokenizer has
    one.
    """
    if tokenizer.chat_template:
        turn = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(
            turn, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
    else:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
        )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def bytes_of_a_token(model: PreTrainedModel) -> int:
    """What one token's keys and values take; of an architecture without the usual names, as with
    keys as wide as the states.
    """
    config = model.config.get_text_config()
    if hasattr(config, "num_attention_heads"):
        return kv_cache(config, context=1, batch=1, bits=8 * model.dtype.itemsize)
    return 2 * config.num_hidden_layers * config.hidden_size * model.dtype.itemsize


def ends_of_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end an answer, by the model's settings and the tokenizer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return {i for i in (*ends, tokenizer.eos_token_id) if i is not None}


def newline_test(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], bool]:
    """Token id → does its text hold a newline?"""
    return functools.cache(lambda token: "\n" in tokenizer.decode([token]))


def judge(
    model: Subject, tokenizer: PreTrainedTokenizerBase, items: Sequence[Choice | Generate]
) -> list[bool]:
    """For each item: is the model's answer right?

    A choice whose log-probability is not a number is never the answer.
    """
    pairs = [
        encode_pair(tokenizer, i.prompt, c)
        for i in items
        if isinstance(i, Choice)
        for c in i.choices
    ]
    with scoring(model) as ready:
        scores = iter(log_probabilities(ready, pairs))
        asked = [i for i in items if isinstance(i, Generate)]
        written = iter(
            continuations(
                ready,
                tokenizer,
                [i.prompt for i in asked],
                may_begin=[i.may_begin for i in asked],
            )
        )
    return [
        pick([next(scores) for _ in item.choices]) == item.answer
        if isinstance(item, Choice)
        else item.is_correct(next(written))
        for item in items
    ]


def pick(scores: Sequence[float]) -> int | None:
    """The index of the highest score, the first of equals; None if any is not a number."""
    if any(s != s for s in scores):
        return None
    return max(range(len(scores)), key=scores.__getitem__)
