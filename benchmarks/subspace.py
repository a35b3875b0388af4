"""How many directions digits need: d₉₀ of random subspaces for perceptrons of three widths, with
eight seeds.

    python benchmarks/subspace.py      # two minutes on one core

Perceptrons 64-h-10 of 1,210, 4,810 and 19,210 parameters; θ = θ₀ + P z, z trained for 300 steps of
64 images with the same optimizer and rate for all. d₉₀: where test accuracy reaches 90 % of the
same network trained whole. The seed draws the division of the images, θ₀ and P. Writes
learn/tables/subspace.json (d₉₀) and learn/tables/subspace-labels.json (training accuracy in 320
directions, with the labels and with labels drawn by chance).
"""

import torch

from course_utils.distillation import digits
from course_utils.evaluation.comparison import compare
from course_utils.theory import dimension

SEEDS, DIMENSIONS, HIDDEN = range(8), (20, 40, 80, 160, 320, 640), (16, 64, 256)


def trained(data, y, hidden: int, d: int | None, seed: int):
    network = digits.network(64, hidden, 10, seed=seed)
    if d is None:
        return digits.train(network, data.train_x, y, steps=300, peak=1e-2, seed=seed)
    return digits.train(
        dimension.Subspace(network, d, seed), data.train_x, y, steps=300, peak=0.3, seed=seed
    )


def d90(hidden: int, seed: int) -> float:
    data = digits.load(seed)
    whole, *found = (
        digits.accuracy(trained(data, data.train_y, hidden, d, seed), data.test_x, data.test_y)
        for d in (None, *DIMENSIONS)
    )
    return dimension.dimension_at(DIMENSIONS, found, whole)


def learned(chance: bool, d: int | None, seed: int) -> float:
    data = digits.load(seed)
    y = data.train_y
    if chance:
        y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    return digits.accuracy(trained(data, y, 64, d, seed), data.train_x, y)


def main() -> None:
    torch.set_num_threads(1)
    counts = {h: sum(p.numel() for p in digits.network(64, h, 10).parameters()) for h in HIDDEN}
    table = compare(
        "Directions that digits need: d₉₀",
        {f"{counts[h]:,} parameters": lambda seed, h=h: d90(h, seed) for h in HIDDEN},
        seeds=SEEDS,
        against=f"{counts[max(HIDDEN)]:,} parameters",
        unit="directions",
        protocol="500 test images; 300 steps of 64 images for every run; one rate for all",
    )
    print(table)
    table.save("subspace", command="python benchmarks/subspace.py")
    table = compare(
        "What is learned of 1,297 labels: training accuracy",
        {
            "labels, 320 directions": lambda seed: learned(False, 320, seed),
            "drawn labels, 320 directions": lambda seed: learned(True, 320, seed),
            "drawn labels, all 4,810": lambda seed: learned(True, None, seed),
        },
        seeds=SEEDS,
        better="higher",
        protocol="perceptron 64-64-10, 300 steps of 64 images for every row",
    )
    print(table)
    table.save("subspace-labels", command="python benchmarks/subspace.py")


if __name__ == "__main__":
    main()
