"""Lesson 5.4 on the bundled model: 2:4 masks that were learned, beside magnitude, Wanda and
SparseGPT, with three calibration sets.

    python benchmarks/learned_masks.py  # eight minutes on one core; goes on where it was stopped
    python benchmarks/learned_masks.py --seconds 200

A calibration set is 64 × 128 tokens, the same for all rows; a learned mask is trained for 160 steps
of 4 sequences of it.
Writes learn/tables/learned-masks.json.
"""

from functools import partial

from tables import PROTOCOL, Kept, bundled

from course_utils import evaluation
from course_utils.evaluation.comparison import compare
from course_utils.pruning import learned_masks, magnitude, sparsegpt, wanda

COMMAND = "python benchmarks/learned_masks.py"


def main() -> None:
    kept = Kept("learned-masks")
    model, tokenizer, divergences = bundled()
    sets = {
        seed: evaluation.calibration(tokenizer, "bundled", n=64, context=128, seed=200 + seed)
        for seed in (0, 1, 2)
    }
    methods = {
        "magnitude": lambda seed: magnitude.prune(model, pattern="2:4"),
        "Wanda": lambda seed: wanda.prune(model, sets[seed], pattern="2:4"),
        "learned": lambda seed: learned_masks.prune(model, sets[seed], seed=seed),
        "learned, no noise": lambda seed: learned_masks.prune(
            model, sets[seed], seed=seed, noise=0.0
        ),
        "SparseGPT (moves weights)": lambda seed: sparsegpt.prune(model, sets[seed], pattern="2:4"),
    }

    def row(name: str, seed: int):
        return kept.tensor(f"{name}, {seed}", lambda: divergences(methods[name](seed).model))

    for seed in sets:  # a seed at a time, so that a stopped run has whole seeds
        for name in methods:
            print(f"{seed} {name}: {float(row(name, seed).mean()):.4f}", flush=True)
    rows = {name: partial(row, name) for name in methods}
    table = compare(
        "2:4 masks: KL from the original", rows, against="Wanda", unit="nats",
        protocol=f"{PROTOCOL}; 3 calibration sets of 64 × 128 tokens; 160 steps of 4 sequences for "
                 "what is learned",
    )  # fmt: skip
    print(table)
    table.save("learned-masks", command=COMMAND)


if __name__ == "__main__":
    main()
