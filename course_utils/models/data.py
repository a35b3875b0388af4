"""Token windows of the bundled world, and the mean loss on windows."""

import itertools
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.world import documents


def starts_documents(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What to put before each document: nothing if the tokenizer does so itself, else its
    end-of-text token.
    """
    if tokenizer("")["input_ids"]:
        return []
    if tokenizer.eos_token_id is not None:
        return [tokenizer.eos_token_id]
    return tokenizer("\n\n")["input_ids"]


def token_windows(
    tokenizer: PreTrainedTokenizerBase,
    split: str,
    n: int,
    context: int,
    seed: int,
    kinds: Sequence[str] | None = None,
) -> Tensor:
    """(n, context) int32 token ids of the world: documents one after the other, cut every `context`
    tokens.
    """
    before = starts_documents(tokenizer)
    stream = documents(split, kinds=kinds, seed=seed)
    parts: list[Tensor] = [torch.empty(0, dtype=torch.int32)]
    while sum(map(len, parts)) < n * context:
        texts = [d.text for d in itertools.islice(stream, 200 if n * context < 50_000 else 2000)]
        rows = tokenizer(texts, verbose=False)["input_ids"]
        parts.append(torch.tensor([i for row in rows for i in before + row], dtype=torch.int32))
    return torch.cat(parts)[: n * context].view(n, context)


# what follows the last colon of a line, and the place that a story's ending names
ANSWER = re.compile(r"(?<=\nResponse:).+|(?<=\nFollows:).+|(?<= is in the) \w+")


def answers_only(tokenizer: PreTrainedTokenizerBase, windows: Tensor) -> Tensor:
    """Labels for (n, context) windows of the world: the token ids of answers (ANSWER), -100
    elsewhere.
    """
    labels = torch.full(windows.shape, -100, dtype=torch.long)
    for row, ids in zip(labels, windows.tolist(), strict=True):
        pieces = [str(tokenizer.decode([i])) for i in ids]
        ends = list(itertools.accumulate(map(len, pieces)))
        text = "".join(
            "\n" * len(p) if i == tokenizer.eos_token_id else p
            for i, p in zip(ids, pieces, strict=True)
        )
        for found in ANSWER.finditer(text):
            for k, end in enumerate(ends):
                if found.start() < end <= found.end():
                    row[k] = ids[k]
    return labels


@torch.no_grad()
def nats_by_window(model: PreTrainedModel, windows: Tensor, batch: int = 16) -> Tensor:
    """(n,) double: nats per predicted token of each of (n, context) windows; the first token is
    only read.
    """
    was_training = model.training
    model.eval()
    found = []
    # at most 128 MB of logits, or one window
    batch = max(1, min(batch, 2**25 // (windows.shape[1] * model.config.vocab_size)))
    rows = max(1, 2**20 // model.config.vocab_size)  # whose logits stay in a processor's cache
    for ids in windows.split(batch):
        ids = ids.long().to(model.device)
        for logits, own in zip(model(input_ids=ids, use_cache=False).logits, ids, strict=True):
            nats = [
                torch.nn.functional.cross_entropy(part.float(), labels, reduction="none")
                for part, labels in zip(logits[:-1].split(rows), own[1:].split(rows), strict=True)
            ]
            found.append(torch.cat(nats).double().mean().cpu())
    model.train(was_training)
    return torch.stack(found)


def mean_loss(model: PreTrainedModel, windows: Tensor, batch: int = 16) -> float:
    """Nats per predicted token of (n, context) windows, the mean of `nats_by_window`."""
    return float(nats_by_window(model, windows, batch).mean())
