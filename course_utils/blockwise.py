"""`course compress` with one block in memory at a time, where method, file and format allow it."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from course_utils import pruning
from course_utils.errors import CompressionError
from course_utils.models.shards import Shards
from course_utils.quantization import Compressed, compressed, streaming

METHODS = (
    "rtn",
    "gptq",
    "hqq",
    "nf4",
    "mxfp4",
    "nvfp4",
    "e8p",
    "trellis",
    "magnitude",
    "wanda",
    "sparsegpt",
)


def shards_of(
    given: argparse.Namespace, packed_by: Callable[[Path], str | None]
) -> tuple[Shards | None, str]:
    """The model's files, if they can be taken block by block; otherwise None, and a sentence that
    says why if that was not chosen.
    """
    if given.in_memory:
        return None, ""
    if given.format != "course":
        return (
            None,
            (
                f"--format {given.format} is written from all of it (for a large one: "
                "--format course, then course export)."
            ),
        )
    if given.method in ("qronos", "gptaq"):
        return None, f"{given.method} runs the original beside it."
    if given.method == "additive":
        return None, "its layers share codebooks that are learned from all of them."
    if given.method not in METHODS:
        return None, f"{given.method} looks at all of it at once."
    if given.pattern == "global":
        return None, "one ranking needs all weights at once."
    place = Path(given.model).expanduser()
    if (
        (place / compressed.MANIFEST).is_file()
        or place.suffix == ".gguf"
        or (given.model != "bundled" and packed_by(place) is not None)
    ):
        return None, "it is no folder of a model as it was trained."
    try:
        return Shards(given.model), ""
    except CompressionError as error:
        return None, str(error)


def compress(
    given: argparse.Namespace,
    method: Callable[..., Compressed],
    ids: list[Any],
    tokenizer: Any,
    chosen: dict[str, Any],
) -> Compressed:
    """What `course compress` does for a model in memory, by `quantization.streaming`: pruned blocks
    are stored without their zeros.
    """
    pruned = method.__module__.startswith(pruning.__name__)
    sparse: dict[str, Any] = (
        {"stored": pruning.storage.store, "settle": pruning.storage.stored_settings}
        if pruned
        else {}
    )
    return streaming.compress(
        given.model, method, *ids, out=given.out, tokenizer=tokenizer, states=given.states,
        device=given.device, **sparse, ignore=given.ignore or (), **chosen,
    )  # fmt: skip
