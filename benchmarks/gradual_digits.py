"""Pruning gradually against pruning at once on scikit-learn's digits, with ten seeds.

    python benchmarks/gradual_digits.py      # some minutes on one core

`pruning.schedules.experiment`: a trained perceptron 64-128-64-10, one ranking over all layers, 150
steps of 64 images for both ways on the same batches, each with the better of the peak learning
rates 1e-2 and 3e-2.
Writes learn/tables/gradual_digits.json: test accuracy on 500 images.
"""

from collections import defaultdict

import torch

from course_utils.evaluation.comparison import compare
from course_utils.pruning import schedules

SEEDS, SPARSITIES = range(10), (0.9, 0.95, 0.97, 0.98)


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for seed in SEEDS:
        for row in schedules.experiment(seeds=[seed], sparsities=SPARSITIES, steps=150):
            found["dense"][seed] = row["dense"]
            for way in ("at once", "gradually"):
                found[f"{way}, {row['sparsity']:.0%} gone"][seed] = row[way]
        print(f"seed {seed} done", flush=True)
    table = compare(
        "Pruning while training, on digits: test accuracy",
        {label: by_seed.__getitem__ for label, by_seed in found.items()}, seeds=SEEDS,
        against="dense", better="higher",
        protocol="500 test images; 150 steps of 64 images after the pruning begins, the same "
                 "batches for both ways",
    )  # fmt: skip
    print(table)
    for share in SPARSITIES:
        print(
            f"{share:.0%}: gradually − at once",
            table.difference(f"gradually, {share:.0%} gone", f"at once, {share:.0%} gone"),
        )
    table.save("gradual_digits", command="python benchmarks/gradual_digits.py")


if __name__ == "__main__":
    main()
