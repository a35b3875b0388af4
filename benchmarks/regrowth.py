"""Sparse networks whose connections move, on scikit-learn's digits, with every control, three
seeds.

    python benchmarks/regrowth.py  # three minutes on one core; goes on where it was stopped
    python benchmarks/regrowth.py --seconds 200

A perceptron 64-128-64-10 without 95 % and 98 % of its weights. Every row trains for 250 steps of 64
images and is tuned alike:
of three peak learning rates the one that is best on 197 images of the training part, for each seed.
Writes learn/tables/regrowth-95.json and regrowth-98.json: accuracy on 500 test images.
"""

import copy

import torch
from tables import Kept

from course_utils.distillation import digits
from course_utils.evaluation.comparison import compare
from course_utils.models import walk
from course_utils.pruning import apply, regrowth, schedules, scores

SEEDS, STEPS, PEAKS, HELD_OUT = range(3), 250, (1e-2, 3e-2, 0.1), 197
COMMAND = "python benchmarks/regrowth.py"


def halfway(net, fit, sparsity):
    """Dense for half of the steps, then without the smallest weights of each layer."""
    return schedules.while_training(
        net, fit, lambda step: sparsity if step >= STEPS // 2 else 0.0, update=STEPS // 2
    )


def gradual(net, fit, sparsity):
    return schedules.while_training(
        net,
        fit,
        lambda step: schedules.cubic(step, end=int(0.75 * STEPS), final=sparsity),
        update=20,
    )


def at_the_end(net, fit, sparsity):
    net = copy.deepcopy(net)
    fit(net)
    apply.apply(
        net,
        apply.make_masks(
            {
                name: scores.magnitude(walk.weight_of(m))
                for name, m in walk.compressible(net).items()
            },
            sparsity,
        ),
    )
    return net


def moving(method, seed):
    return lambda net, fit, sparsity: (
        regrowth.train(
            net, fit, regrowth.begin(net, sparsity, seed), steps=STEPS, method=method, seed=seed
        ).model
    )


def small_dense(seed):
    """64-h-10 with as many weights as are left."""

    def make(net, fit, sparsity):
        left = round((1 - sparsity) * (64 * 128 + 128 * 64 + 64 * 10))
        net = digits.network(64, round(left / 74), 10, seed=seed)
        fit(net)
        return net

    return make


def accuracy(make, sparsity: float, seed: int) -> dict[str, float]:
    """Test accuracy of the peak that is best on held-out images, and that peak."""
    data = digits.load(seed)
    x, y = data.train_x[:-HELD_OUT], data.train_y[:-HELD_OUT]
    found = []
    for peak in PEAKS:
        net = make(
            digits.network(64, 128, 64, 10, seed=seed),
            lambda n, peak=peak: digits.train(n, x, y, steps=STEPS, peak=peak, seed=seed),
            sparsity,
        )
        held = digits.accuracy(net, data.train_x[-HELD_OUT:], data.train_y[-HELD_OUT:])
        found.append((held, peak, digits.accuracy(net, data.test_x, data.test_y)))
    best = max(found, key=lambda each: each[0])
    return {"accuracy": best[2], "peak": best[1]}


def main() -> None:
    kept = Kept("regrowth")
    torch.set_num_threads(1)
    rows = {
        "dense": lambda seed: at_the_end,
        "static": lambda seed: moving("static", seed), "SET": lambda seed: moving("set", seed),
        "RigL": lambda seed: moving("rigl", seed), "small and dense": small_dense,
        "pruned at the end": lambda seed: at_the_end, "pruned halfway": lambda seed: halfway,
        "pruned gradually": lambda seed: gradual,
    }  # fmt: skip

    def value(name: str, sparsity: float, seed: int) -> float:
        s = 0.0 if name == "dense" else sparsity
        return kept.value(f"{name}, {s}, {seed}", lambda: accuracy(rows[name](seed), s, seed))[
            "accuracy"
        ]

    for sparsity in (0.95, 0.98):
        table = compare(
            f"Digits, {sparsity:.0%} of the weights gone: test accuracy",
            {name: (lambda seed, name=name, s=sparsity: value(name, s, seed)) for name in rows},
            seeds=SEEDS, against="static", better="higher",
            protocol=f"500 test images; {STEPS} steps of 64 images and the best of {len(PEAKS)} "
                     "learning rates for every row",
        )  # fmt: skip
        print(table)
        table.save(f"regrowth-{sparsity * 100:.0f}", command=COMMAND)


if __name__ == "__main__":
    main()
