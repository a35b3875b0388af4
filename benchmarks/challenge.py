"""The ladder of the challenge (lab 5.4): real bytes of real files, each beside its gates.

    python benchmarks/challenge.py     # about two minutes on one core

Every file is written, and scored from its bytes, as a learner's is, on the test seeds 0, 1 and 2 (a
third of the items each).
Calibration: 64 windows of 256 tokens of the training split. Writes
learn/tables/plain/challenge.json.
"""

import datetime
import json

from course_utils import evaluation, models
from course_utils.challenge import gates, model, recipes
from course_utils.evaluation.comparison import TABLES

COMMAND, SEEDS = "python benchmarks/challenge.py", (0, 1, 2)


def ladder():
    """(name, parts) of each baseline, the largest file first."""
    network, tokenizer = models.load("bundled")
    ids = evaluation.text.windows(
        tokenizer, "bundled", split="train", n=64, context=256, seed=0
    ).ids
    table, blocks = recipes.embedding_of(network), recipes.matrices(network)
    yield "BF16", {}
    eight = {
        name: recipes.on_grid(weight, bits=8)
        for name, weight in {recipes.EMBEDDING: table, **blocks}.items()
    }
    yield "INT8, groups of 64", eight
    yield (
        "GPTQ 4 bits, embedding INT8",
        recipes.by_gptq(network, ids) | {recipes.EMBEDDING: eight[recipes.EMBEDDING]},
    )
    step, own_step = (
        recipes.step_for(blocks, 1.7),
        recipes.step_for({recipes.EMBEDDING: table}, 4.9),
    )
    rounded = {name: recipes.coded(weight, step) for name, weight in blocks.items()}
    yield (
        "rounding and rANS, blocks 1.7, embedding 4.9",
        rounded | {recipes.EMBEDDING: recipes.coded(table, own_step)},
    )
    for bits, own in ((1.7, 4.9), (1.5, 4.9), (1.4, 4.4)):
        yield (
            f"walk and rANS, blocks {bits}, embedding {own}",
            recipes.mixed(network, ids, blocks=bits, embedding=own),
        )


def main() -> None:
    """Score every rung, print it, and keep the table."""
    network, rows = models.load("bundled")[0], []
    for name, parts in ladder():
        found = gates.score(model.pack(network, parts), SEEDS)
        rows.append(
            {
                "name": name,
                "bytes": found["bytes"],
                "passed": found["passed"],
                "gates": found["gates"],
            }
        )
        print(
            f"{name}: {found['bytes']:,} bytes, {'passed' if found['passed'] else 'stopped'}",
            {g: round(s["value"], 4) for g, s in found["gates"].items()},
            flush=True,
        )
    kept = {
        "command": COMMAND,
        "date": datetime.date.today().isoformat(),
        "seeds": list(SEEDS),
        "rows": rows,
    }
    TABLES.joinpath("plain", "challenge.json").write_text(
        json.dumps(kept, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
