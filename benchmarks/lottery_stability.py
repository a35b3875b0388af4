"""Is training stable from its start on, so that going back later can add nothing?

Digits, the networks of lesson 4.2.

    python benchmarks/lottery_stability.py      # two minutes on one core

Frankle et al. (2020): train for k steps, then go on twice with other batches, and walk the straight
line between the two results. If the error rises on the way (a barrier), step k was too early: the
batches still decide where training ends, and masks found from there do not fit. Dense 64-128-64-10
and its ticket with 4.7 % of the weights, 150 steps of 64 images, ten seeds. Writes
learn/tables/lottery-stability.json: the highest error on the line (9 points) minus the mean of both
ends, on 500 test images.
"""

import copy

import torch
from torch import nn

from course_utils.distillation import digits
from course_utils.distillation.fit import fit
from course_utils.distillation.losses import cross_entropy
from course_utils.evaluation.comparison import compare
from course_utils.pruning import lottery

SEEDS, STEPS, LATER = range(10), 150, (0, 5, 20, 50)


def training(data: digits.Digits, seed: int, common: int = STEPS, other: int = 0):
    """Training of the lesson; after `common` steps each batch goes through a permutation of the
    images, drawn from `other`.
    """
    order = torch.randperm(
        len(data.train_x), generator=torch.Generator().manual_seed(7919 * other + seed)
    )

    def train(net: nn.Module) -> nn.Module:
        taken = 0

        def step(rows):
            nonlocal taken
            rows = order[rows] if taken >= common else rows
            taken += 1
            return {"labels": cross_entropy(net(data.train_x[rows]), data.train_y[rows])}, float(
                len(rows)
            )

        net.train()
        fit(
            net,
            step,
            len(data.train_x),
            steps=STEPS,
            batch=64,
            peak=1e-2,
            seed=seed,
            every=STEPS,
            progress=False,
        )
        return net.eval()

    return train


def between(one: nn.Module, other: nn.Module, share: float) -> nn.Module:
    """The network on the straight line from one to the other."""
    net = copy.deepcopy(one)
    with torch.no_grad():
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            p.lerp_(q, share)
    return net


def barrier(data: digits.Digits, one: nn.Module, other: nn.Module) -> float:
    errors = [
        1 - digits.accuracy(between(one, other, i / 8), data.test_x, data.test_y) for i in range(9)
    ]
    return max(errors) - (errors[0] + errors[-1]) / 2


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, dict[int, float]] = {}
    for seed in SEEDS:
        data, start = digits.load(seed), digits.network(64, 128, 64, 10, seed=seed)
        tickets = lottery.find(start, training(data, seed), rounds=6, rate=0.4)
        for name, masks in (("dense", tickets[0].masks), ("ticket, 4.7 % left", tickets[-1].masks)):
            for common in LATER:
                ends = [
                    lottery.train_masked(start, training(data, seed, common, other), masks)
                    for other in (1, 2)
                ]
                found.setdefault(f"{name}, apart from step {common}", {})[seed] = barrier(
                    data, *ends
                )
        print(f"seed {seed}", {name: round(by[seed], 3) for name, by in found.items()}, flush=True)
    table = compare(
        "Error on the line between two trainings, above that of its ends",
        {name: by_seed.__getitem__ for name, by_seed in found.items()}, seeds=SEEDS,
        against="dense, apart from step 0",
        protocol="500 test images; 150 steps of 64 images, the first ones in common; 9 points "
                 "of the line",
    )  # fmt: skip
    print(table)
    table.save("lottery-stability", command="python benchmarks/lottery_stability.py")


if __name__ == "__main__":
    main()
