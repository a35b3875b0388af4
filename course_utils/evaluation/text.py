"""Token windows of a text: the bundled world, Python's own documentation, a file, strings, or a
data set from the hub.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.models import loading
from course_utils.models.data import token_windows

SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0), "all": (0.0, 1.0)}
HUB = {"wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1")}

Text = str | Path | Sequence[str]


@dataclass(frozen=True)
class Windows:
    """`ids` (n, context); `text` and `split` say in words where they come from."""

    ids: Tensor
    text: str
    split: str


def windows(
    tokenizer: PreTrainedTokenizerBase, text: Text, *, split: str, n: int | None,
    context: int, seed: int,
    scattered: bool = False,
) -> Windows:  # fmt: skip
    """`n` windows of `context` tokens.

    "bundled": fresh documents of the world from `seed`. "pydoc": Python's documentation, see
    `pydoc`. Any other text is tokenized as a whole; a file, a list of strings and "pydoc" are
    divided by characters, the first 80 % for training, then 10 % for validation and 10 % for
    testing ("all" takes everything), a hub data set by its own splits. The first `n` windows are
    taken in order (None: all of them) or, `scattered`, `n` different ones in an order drawn from
    `seed`.
    """
    check_sizes(n, context)
    if split not in SHARES:
        raise CompressionError(f"split={split!r}: choose one of {', '.join(SHARES)}.")
    if isinstance(text, str) and text == "bundled":
        if split == "all" or n is None:
            raise CompressionError(
                "text='bundled': the world is endless; give n, and split as "
                "train, validation or test."
            )
        return Windows(token_windows(tokenizer, split, n, context, seed).long(), "bundled", split)
    content, name, split = read(text, split)
    ids = torch.tensor(tokenizer(content, verbose=False)["input_ids"], dtype=torch.long)
    found = len(ids) // context
    if found < max(1, n or 0):
        wanted = "even one window" if not found else f"n={n} windows"
        raise CompressionError(
            f"text: {name} ({split}) holds {len(ids):,} tokens, too few for {wanted} of {context}; "
            + (
                "give a longer text or a smaller context."
                if not found
                else f"ask for n={found} or fewer, or n=None for all."
            )
        )
    rows = ids[: found * context].view(found, context)
    if scattered:
        rows = rows[torch.randperm(found, generator=torch.Generator().manual_seed(seed))]
    return Windows(rows[:n], name, split)


def check_sizes(n: int | None, context: int) -> None:
    """Raises CompressionError unless there is at least one window of two tokens."""
    if n is not None and n < 1:
        raise CompressionError(f"n={n}: ask for at least one window.")
    if context < 2:
        raise CompressionError(
            f"context={context}: a window needs at least two tokens, one to "
            "read and one to predict."
        )


def read(text: Text, split: str) -> tuple[str, str, str]:
    """(content, name, split in words) of a file, of strings, or of a hub data set."""
    if isinstance(text, str | Path):
        if len(str(text)) > 200 or "\n" in str(text):
            raise CompressionError(
                "text: a string names a file or a data set; put the text itself in a list: [text]."
            )
        if str(text) == "pydoc":
            return share(pydoc(), f"pydoc's topics of Python {platform.python_version()}", split)
        path = Path(text).expanduser()
        if path.is_file():
            try:
                return share(path.read_text(encoding="utf-8"), path.name, split)
            except UnicodeDecodeError as error:
                raise CompressionError(
                    f"text: {path.name} is not UTF-8 text ({error.reason} at byte {error.start})."
                ) from error
        if (
            isinstance(text, Path)
            or text.endswith(".txt")
            or path.is_absolute()
            or text.startswith((".", "~"))
        ):
            raise CompressionError(f"text={str(text)!r}: there is no such file.")
        return from_hub(text, split)
    strings = list(text)
    if not strings or not all(isinstance(s, str) for s in strings):
        raise CompressionError(
            "text: expected 'bundled', 'pydoc', a text file, a hub data set, "
            "or a non-empty list of strings."
        )
    return share("\n\n".join(strings), f"{len(strings)} strings", split)


def pydoc() -> str:
    """English that every Python brings: the chapters of its language reference that help() shows
    (0.4 MB), each paragraph once.
    """
    from pydoc_data import topics

    paragraphs = (part for topic in topics.topics.values() for part in topic.split("\n\n"))
    return "\n\n".join({" ".join(part.split()): part for part in paragraphs}.values())


def share(content: str, name: str, split: str) -> tuple[str, str, str]:
    """A split's part of a text, its name, and the words for it."""
    low, high = SHARES[split]
    part = content[int(low * len(content)) : int(high * len(content))]
    return (
        part,
        name,
        split if split == "all" else f"{split}, {low:.0%} to {high:.0%} of the characters",
    )


def from_hub(name: str, split: str) -> tuple[str, str, str]:
    """The `text` column of a hub data set, joined by blank lines as in the GPTQ and Wanda
    protocols.
    """
    if split == "all":
        raise CompressionError(
            f"text={name!r}: a hub data set has its own splits; choose train, validation or test."
        )
    source, configuration = HUB.get(name, (name, None))
    try:
        import datasets
    except ImportError as error:
        raise CompressionError(
            f"text={name!r}: reading it needs the extra `eval` (pip install '.[eval]')."
        ) from error
    rows = load_split(datasets, name, source, configuration, split)
    if "text" not in rows.column_names:
        raise CompressionError(
            f"text={name!r}: has no column 'text' but {', '.join(rows.column_names)}; "
            "save the one you want to a file."
        )
    return "\n\n".join(rows["text"]), " ".join(filter(None, (source, configuration))), split


def load_split(datasets: Any, name: str, source: str, configuration: str | None, split: str) -> Any:
    """The split from this machine's cache, else from the hub if it answers."""
    online, was_offline = loading._hub_answers(), datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = was_offline or not online
    try:
        return datasets.load_dataset(source, configuration, split=split)
    except Exception as error:
        if not online:
            raise CompressionError(
                f"text={name!r}: no such file, and the hub cannot be reached and no copy is on "
                "this machine; use 'bundled' or a text file of yours."
            ) from error
        reason = str(error).strip().split("\n")[0]
        raise CompressionError(
            f"text={name!r}: the hub does not give its {split} split ({reason})."
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
