"""Lab 5.4: what the embedding and the blocks lose at a rate, the ladder of baselines, and what a
file is worth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.challenge import gates, layout, model, recipes
from course_utils.errors import CompressionError
from course_utils.evaluation import by_window
from course_utils.evaluation.comparison import plain

from .plots import table

GOOD, EXCELLENT = 865_000, 775_000  # bytes


def sensitivities(
    network: PreTrainedModel, ids: Tensor, plans: dict[str, tuple[float, ...]]
) -> dict[tuple[str, float], tuple[int, float]]:
    """{("embedding" or "blocks", bits): (bytes of the streams, KL)}: this part alone is rounded to
    one step and coded, the rest stays.
    """
    tables = {
        "embedding": {recipes.EMBEDDING: recipes.embedding_of(network)},
        "blocks": recipes.matrices(network),
    }
    goal, found = by_window.predictions(network, ids), {}
    for part, rates in plans.items():
        for bits in rates:
            step = recipes.step_for(tables[part], bits)
            parts = {name: recipes.coded(weight, step) for name, weight in tables[part].items()}
            changed = model.load(model.pack(network, parts))
            found[part, bits] = (
                sum(p.size for p in parts.values()),
                float(by_window.kl_by_window(goal, changed, ids).mean()),
            )
    return found


def show_sensitivities(found: dict[tuple[str, float], tuple[int, float]]) -> None:
    """The table of `sensitivities`."""
    table(
        [
            [part, f"{bits:g}", f"{size:,}", f"{kl:.4f}"]
            for (part, bits), (size, kl) in found.items()
        ],
        ["coded alone", "bits", "bytes", "KL (nats)"],
    )


def show_ladder() -> None:
    """The committed baselines, with the command that made them."""
    held = plain("challenge")
    names = ["kl", "facts_head", "facts_tail", "addition", "programs", "stories", "sentiment"]
    lines = []
    for row in held["rows"]:
        values = [
            f"{row['gates'][n]['value']:.4f}" if n == "kl" else f"{row['gates'][n]['value']:.1%}"
            for n in names
            if n in row["gates"]
        ]
        lines.append(
            [
                row["name"],
                f"{row['bytes']:,}",
                *values,
                *[""] * (len(names) - len(values)),
                "yes" if row["passed"] else "no",
            ]
        )
    table(
        lines,
        ["file", "bytes", *[n.replace("_", " ") for n in names], "passed"],
        f"{held['command']}, {held['date']}",
    )


def as_tensor(content: bytes) -> Tensor:
    """A file's bytes as the grader takes them: a tensor of uint8."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def judged(file: Any, seeds: tuple[int, ...]) -> dict[str, Any]:
    """The score of a file's bytes, a tensor of uint8.

    Raises CompressionError for another thing, and for a file that is refused.
    """
    if (
        not isinstance(file, Tensor)
        or file.dtype != torch.uint8
        or file.dim() != 1
        or not 0 < len(file) <= layout.LARGEST
    ):
        raise CompressionError(
            f"my_file: return the bytes as a tensor of uint8, at most {layout.LARGEST:,} of them "
            "(`smallest.as_tensor`)."
        )
    found = gates.score(file.numpy().tobytes(), seeds)
    if not found["valid"]:
        raise CompressionError(f"the file is refused: {found['reason']}")
    return found


def show_score(found: dict[str, Any]) -> None:
    """Bytes and gates of a file."""
    lines = [
        [
            name,
            f"{g['value']:.4f}",
            f"{g['interval'][0]:.4f} to {g['interval'][1]:.4f}",
            f"{g['needed']:g}",
            "yes" if g["passed"] else "no",
        ]
        for name, g in found["gates"].items()
    ]
    table(
        lines, ["gate", "value", "95 % interval", "needed", "passed"], f"{found['bytes']:,} bytes"
    )


def points(found: dict[str, Any]) -> int:
    """Of 20: 10 for a file that passes every gate, 5 more at 865,000 bytes, the other 5 below
    775,000.
    """
    return (
        10 + 5 * (found["bytes"] <= GOOD) + 5 * (found["bytes"] < EXCELLENT)
        if found["passed"]
        else 0
    )
