"""Lottery tickets on scikit-learn's digits: the ticket, the ticket rewound, and three controls,
with ten seeds.

    python benchmarks/lottery.py      # some minutes on one core

A perceptron 64-128-64-10; every row trains for 150 steps of 64 images. Iterative magnitude pruning,
40 % of what is left in each round. Controls: the dense network, a random mask with as many weights
in each layer, the ticket's mask from other initial weights. Writes learn/tables/lottery.json: test
accuracy on 500 images.
"""

from collections import defaultdict

import torch

from course_utils.evaluation.comparison import compare
from course_utils.pruning import lottery

SEEDS, ROUNDS, EVERY = range(10), 8, 2
WAYS = ("ticket", "rewound", "reinitialized", "random mask")


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for seed in SEEDS:
        for row in lottery.experiment(seeds=[seed], rounds=ROUNDS, steps=150, every=EVERY):
            if row["sparsity"] == 0:
                found["dense"][seed] = row["ticket"]
            else:
                for way in WAYS:
                    found[f"{way}, {1 - row['sparsity']:.1%} left"][seed] = row[way]
        print(f"seed {seed} done", flush=True)
    table = compare(
        "Tickets on digits: test accuracy",
        {label: by_seed.__getitem__ for label, by_seed in found.items()}, seeds=SEEDS,
        against="dense", better="higher",
        protocol="500 test images; 150 steps of 64 images for every row; rewinding goes "
                 "back to step 20",
    )  # fmt: skip
    print(table)
    table.save("lottery", command="python benchmarks/lottery.py")


if __name__ == "__main__":
    main()
