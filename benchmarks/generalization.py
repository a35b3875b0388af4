"""Does compression help on new data? Digits with a fifth of the training labels drawn by chance.

    python benchmarks/generalization.py  # one minute on one core; goes on where it was stopped

A perceptron 64-128-64-10 is trained for 600 steps on 300 images, then rounded (one scale a row) or
pruned without further training. Controls: training that stops where 200 other images with equally
noisy labels are read best (of every 25 steps), and pruning while training. Ten seeds. Writes
learn/tables/generalization-noisy.json: accuracy on 500 test images.
"""

import copy

import torch
from tables import Kept

from course_utils.distillation import digits
from course_utils.evaluation.comparison import compare
from course_utils.models import walk
from course_utils.pruning import apply, magnitude, schedules
from course_utils.quantization import rtn

SEEDS, STEPS, COMMAND = range(10), 600, "python benchmarks/generalization.py"


def rounded(net, bits: int):
    changed = copy.deepcopy(net)
    for module in walk.compressible(changed).values():
        module.weight.data = rtn.quantize_layer(module.weight.data, bits=bits, group_size=-1).weight
    return changed


def measured(seed: int, wrong: float) -> dict[str, float]:
    """Test accuracy of every row."""
    data, rng = digits.load(seed), torch.Generator().manual_seed(seed)

    def labels(y):
        flip = torch.rand(len(y), generator=rng) < wrong
        return torch.where(flip, torch.randint(10, y.shape, generator=rng), y)

    x, y = data.train_x[:300], labels(data.train_y[:300])
    held_x, held_y = data.train_x[300:500], labels(data.train_y[300:500])
    start, best = digits.network(64, 128, 64, 10, seed=seed), (-1.0, 0.0)
    net = copy.deepcopy(start)

    def fit(model):
        return digits.train(model, x, y, steps=STEPS, peak=3e-3, seed=seed)

    def look(step: int) -> None:
        nonlocal best
        if step % 25 == 0:
            best = max(
                best,
                (
                    digits.accuracy(net, held_x, held_y),
                    digits.accuracy(net, data.test_x, data.test_y),
                ),
                key=lambda each: each[0],
            )

    with apply.each_step(net, after=look):
        fit(net)

    def accuracy(model):
        return digits.accuracy(model, data.test_x, data.test_y)

    found = {"trained to the end": accuracy(net), "stopped early": best[1]}
    found |= {f"rounded to {bits} bits": accuracy(rounded(net, bits)) for bits in (4, 3, 2)}
    found |= {f"{s:.0%} pruned": accuracy(magnitude.prune(net, s).model) for s in (0.5, 0.7, 0.9)}
    for s in (0.7, 0.9, 0.97):
        target = lambda step, s=s: schedules.cubic(step, end=int(0.75 * STEPS), final=s)  # noqa: E731
        found[f"{s:.0%} pruned while training"] = accuracy(
            schedules.while_training(start, fit, target, update=20)
        )
    return found


def main() -> None:
    kept = Kept("generalization")
    torch.set_num_threads(1)
    found = {
        seed: kept.value(f"0.2, {seed}", lambda seed=seed: measured(seed, 0.2)) for seed in SEEDS
    }
    table = compare(
        "Digits, a fifth of the labels drawn by chance: test accuracy",
        {name: (lambda seed, name=name: found[seed][name]) for name in found[0]}, seeds=SEEDS,
        against="trained to the end", better="higher",
        protocol=f"500 test images with right labels; 300 training images, {STEPS} steps of 64, "
                 "the same for all rows",
    )  # fmt: skip
    print(table)
    table.save("generalization-noisy", command=COMMAND)


if __name__ == "__main__":
    main()
