"""What calibration may be: token ids, a tokenizer's output, text, chats, a file.

Padding is taken out, so that no statistic sees it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.errors import CompressionError

from .loading import load_tokenizer

FORMS = (
    "token ids of shape (sequences, context), a tokenizer's output (padding is left out), "
    "lists of token ids of any length, strings, chats (lists of {'role', 'content'}), "
    "or a .txt or .jsonl file"
)


class Calibration:
    """Sequences of token ids that need not have one length, without padding.

    Stands where a tensor of ids would.
    """

    def __init__(self, rows: Sequence[Tensor]) -> None:
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """(sequences, tokens of the longest)."""
        return len(self.rows), max(map(len, self.rows))

    def numel(self) -> int:
        """The number of tokens."""
        return sum(map(len, self.rows))

    def to(self, device: torch.device | str) -> "Calibration":
        """The same tokens on a device."""
        return Calibration([row.to(device) for row in self.rows])

    def split(self, batch: int) -> list[Tensor]:
        """Batches (sequences, length) of at most `batch` sequences; those of one length go
        together.
        """
        lengths: dict[int, list[Tensor]] = {}
        for row in self.rows:
            lengths.setdefault(len(row), []).append(row)
        return [part for rows in lengths.values() for part in torch.stack(rows).split(batch)]


def of(
    what: Any, tokenizer: PreTrainedTokenizerBase | None = None, *, context: int = 512
) -> Tensor | Calibration:
    """Calibration in any of the forms above, as integers of 64 bits: one tensor if all sequences
    are equally long.

    A string, or a .txt file, is cut every `context` tokens; each string of a list, each chat and
    each line of a .jsonl file ({"text": …} or {"messages": […]}) is one sequence, cut after
    `context` tokens. Chats go through the tokenizer's template.
    Raises CompressionError for other things, nothing at all, or text without a tokenizer.
    """
    if isinstance(what, Calibration):
        return what
    if isinstance(what, Path) or (isinstance(what, str) and what.endswith((".txt", ".jsonl"))):
        what = _content(Path(what).expanduser())
    if isinstance(what, Tensor | np.ndarray):
        return _whole(torch.as_tensor(what))
    if isinstance(what, Mapping) or hasattr(what, "input_ids"):
        return _encoded(what["input_ids"], what.get("attention_mask"))
    if isinstance(what, str) and what.strip():
        ids = _words(tokenizer)(what, verbose=False)["input_ids"]
        return _joined([ids[i : i + context] for i in range(0, len(ids), context)])
    items = list(what) if isinstance(what, Iterable) and not isinstance(what, str) else []
    if not items:
        raise CompressionError(f"calibration: expected {FORMS}; at least one of each.")
    first = items[0]
    if all(isinstance(item, str) for item in items):
        return _joined(
            [_words(tokenizer)(text, verbose=False)["input_ids"][:context] for text in items]
        )
    if isinstance(first, Mapping) and "role" in first:
        items, first = [items], [first]
    if all(isinstance(item, list) and item and isinstance(item[0], Mapping) for item in items):
        return _joined([_chat(_words(tokenizer), turns)[:context] for turns in items])
    if all(isinstance(item, Mapping) and "input_ids" in item for item in items):
        return _encoded(
            [item["input_ids"] for item in items],
            [item.get("attention_mask", [1] * len(item["input_ids"])) for item in items],
        )
    if all(isinstance(item, int) for item in items):
        items = [items]
    return _encoded(items, None)


def _whole(ids: Tensor) -> Tensor:
    if ids.dim() != 2 or ids.numel() == 0 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise CompressionError(f"calibration: expected {FORMS}; at least one of each.")
    return ids.long()


def _encoded(ids: Any, mask: Any) -> Tensor | Calibration:
    """Rows of token ids with a mask that is 0 at padding, or without."""
    try:
        read = [torch.as_tensor(row) for row in ids]
        if any(row.is_floating_point() and row.numel() for row in read):
            raise TypeError("token ids are integers")
        rows = [row.long().flatten() for row in read]
        kept = (
            [torch.ones_like(row, dtype=torch.bool) for row in rows]
            if mask is None
            else [torch.as_tensor(m).bool().flatten() for m in mask]
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise CompressionError(f"calibration: expected {FORMS}; at least one of each.") from error
    if len(rows) != len(kept) or any(len(a) != len(b) for a, b in zip(rows, kept, strict=False)):
        raise CompressionError(
            "calibration: its attention_mask has another shape than its input_ids."
        )
    return _joined([row[here].tolist() for row, here in zip(rows, kept, strict=True)])


def _joined(rows: list[list[int]]) -> Tensor | Calibration:
    rows = [row for row in rows if row]
    if not rows:
        raise CompressionError("calibration: holds no token; give some text.")
    if len({len(row) for row in rows}) == 1:
        return torch.tensor(rows)
    return Calibration([torch.tensor(row) for row in rows])


def _words(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    if tokenizer is None:
        raise CompressionError(
            "calibration: text needs the model's tokenizer; "
            "give models.calibration.of(text, tokenizer)."
        )
    return tokenizer


def _chat(tokenizer: PreTrainedTokenizerBase, turns: list) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        raise CompressionError(
            "calibration: this tokenizer has no chat template; give the chats as strings."
        )
    found: Any = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)
    return list(found["input_ids"])


def _content(file: Path) -> Any:
    """The text of a .txt file; the texts or chats of a .jsonl file."""
    if not file.is_file():
        raise CompressionError(f"calibration: there is no file {str(file)!r}.")
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix != ".jsonl":
            return text
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        return [row["messages"] if "messages" in row else row["text"] for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise CompressionError(
            f"calibration: {file.name} is not readable as text, or as lines of 'text' or "
            f"'messages' ({error})."
        ) from error


def for_model(what: Any, model: Any) -> Tensor | Calibration:
    """`of` with the tokenizer that lies in the model's own folder, where text needs one."""
    known = Path(getattr(model, "name_or_path", "") or "")
    texts = isinstance(what, str | Path) or (
        isinstance(what, list) and bool(what) and not isinstance(what[0], int | Tensor)
    )
    own = texts and isinstance(model, PreTrainedModel) and str(known) != "." and known.is_dir()
    return of(what, load_tokenizer(known) if own else None)
