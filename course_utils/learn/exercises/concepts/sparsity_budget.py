"""Lesson 2.2: the smallest format of a sparse matrix, and how sparse each layer should be."""

import itertools

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick

# --- the smallest format ---


def format_inputs(rng: torch.Generator) -> dict:
    """Counts near the two places where the best format changes, and far from them."""
    rows, columns, bits = pick(rng, 6, 40), pick(rng, 64, 96, 160), pick(rng, 8, 16, 32)
    total = rows * columns
    no_mask = total * (1 - 1 / bits)  # more values than this: dense is smaller than the bitmask
    no_csr = (total - 32 * (rows + 1)) / 32  # fewer than this: CSR is smaller than the bitmask
    where = pick(
        rng,
        no_mask + 1,
        no_mask + 9,
        no_mask - 9,
        no_csr - 1,
        no_csr,
        no_csr + 1,
        no_csr + 4,
        total / 2,
        total / 24,
    )
    return {
        "rows": rows,
        "columns": columns,
        "nonzeros": min(total, max(0, round(where))),
        "bits": bits,
    }


def sizes(rows: int, columns: int, nonzeros: int, bits: int) -> dict[str, float]:
    """Bits of each format, the plainest first."""
    values = nonzeros * bits
    return {
        "dense": rows * columns * bits,
        "bitmask": values + rows * columns,
        "csr": values + 32 * nonzeros + 32 * (rows + 1),
    }


def smallest_format(rows: int, columns: int, nonzeros: int, bits: int) -> str:
    """The format with the fewest bytes; of equal ones the plainer: dense, bitmask, csr."""
    found = sizes(rows, columns, nonzeros, bits)
    return min(found, key=found.__getitem__)


def by_sizes(**changed):
    """A wrong answer: other sizes, as functions of (rows, columns, nonzeros, bits)."""

    def answer(rows, columns, nonzeros, bits):
        given = (rows, columns, nonzeros, bits)
        found = sizes(*given) | {name: size(*given) for name, size in changed.items()}
        return min(found, key=found.__getitem__)

    return answer


# --- how sparse each layer should be ---


LEVELS = [0.0, 0.4, 0.6, 0.8]
WAYS = list(itertools.product(range(4), repeat=4))


def gone(chosen, sizes: list[int], levels: list[float]) -> float:
    """How many weights go when layer i is pruned to levels[chosen[i]]."""
    return sum(n * levels[k] for n, k in zip(sizes, chosen, strict=True))


def total(chosen, harm: list[list[float]]) -> float:
    return sum(row[k] for row, k in zip(harm, chosen, strict=True))


def layer_inputs(rng: torch.Generator) -> dict:
    """Four layers of unlike size and patience; harm grows with the level.

    No other choice is nearly as good as the best, and in half of the trials one step after another
    does not lead there.
    """
    tricky = pick(rng, True, False)
    while True:
        sizes = (torch.randint(1, 6, (4,), generator=rng) * 100).tolist()
        steps = torch.rand(4, 4, generator=rng, dtype=torch.float64) ** 2 * torch.tensor(
            [0.0, 1, 2, 4]
        )
        harm = steps.cumsum(1) * (torch.rand(4, 1, generator=rng, dtype=torch.float64) * 4 + 0.2)
        goal = pick(rng, 0.4, 0.5, 0.6)
        enough = [c for c in WAYS if gone(c, sizes, LEVELS) >= goal * sum(sizes)]
        near = min(abs(gone(c, sizes, LEVELS) - goal * sum(sizes)) for c in WAYS)
        best, second = sorted(total(c, harm.tolist()) for c in enough)[:2]
        inputs = {"harm": harm, "sizes": sizes, "levels": LEVELS, "goal": goal}
        decided = near > 1e-6 and second > 1.02 * best  # else rounding would decide
        if decided and not (tricky and total(greedy(**inputs), harm.tolist()) < 1.02 * best):
            return inputs


def layer_levels(harm: Tensor, sizes: list[int], levels: list[float], goal: float) -> list[int]:
    """The levels k_i with the least Σ harm[i, k_i] such that Σ n_i levels[k_i] ≥ goal · Σ n_i, by
    trying all of them.
    """
    ways = itertools.product(range(len(levels)), repeat=len(sizes))
    enough = [c for c in ways if gone(c, sizes, levels) >= goal * sum(sizes)]
    rows = harm.tolist()
    return list(min(enough, key=lambda c: total(c, rows)))


def alike(harm, sizes, levels, goal):
    return [min(k for k, level in enumerate(levels) if level >= goal)] * len(sizes)


def without_sizes(harm, sizes, levels, goal):
    return layer_levels(harm, [1] * len(sizes), levels, goal)


def greedy(harm, sizes, levels, goal):
    """Raise by one level the layer in which a weight costs least, until enough is gone."""
    chosen, rows = [0] * len(sizes), harm.tolist()
    while gone(chosen, sizes, levels) < goal * sum(sizes):
        price = {
            i: (rows[i][k + 1] - rows[i][k]) / (sizes[i] * (levels[k + 1] - levels[k]))
            for i, k in enumerate(chosen) if k + 1 < len(levels)
        }  # fmt: skip
        chosen[min(price, key=price.__getitem__)] += 1
    return chosen


def hardest_first(harm, sizes, levels, goal):
    return layer_levels(-harm, sizes, levels, goal)


def at_most(harm, sizes, levels, goal):
    """The most that may go without reaching the goal."""
    ways = itertools.product(range(len(levels)), repeat=len(sizes))
    return list(
        max(
            (c for c in ways if gone(c, sizes, levels) < goal * sum(sizes)),
            key=lambda c: gone(c, sizes, levels),
        )
    )


def as_sparsities(harm, sizes, levels, goal):
    return [levels[k] for k in layer_levels(harm, sizes, levels, goal)]


EXERCISES = [
    Exercise(
        id="sparsity_budget.smallest_format", inputs=format_inputs, spec=smallest_format,
        lesson="2.2-pruning", trials=40, kind="decide", difficulty=2, minutes=10,
        mistakes={
            "places_free": by_sizes(bitmask=lambda r, c, n, bits: n * bits,
                                    csr=lambda r, c, n, bits: n * bits),
            "mask_in_bytes": by_sizes(bitmask=lambda r, c, n, bits: n * bits + 8 * r * c),
            "mask_of_kept": by_sizes(bitmask=lambda r, c, n, bits: n * bits + n),
            "starts_forgotten": by_sizes(csr=lambda r, c, n, bits: n * bits + 32 * n),
            "row_numbers": by_sizes(csr=lambda r, c, n, bits: n * bits + 64 * n),
            "narrow_numbers": by_sizes(csr=lambda r, c, n, bits:
                n * bits + bits * n + 32 * (r + 1)),
            "never_dense": by_sizes(dense=lambda r, c, n, bits: float("inf")),
            "largest": lambda rows, columns, nonzeros, bits:
                max(sizes(rows, columns, nonzeros, bits).items(), key=lambda item: item[1])[0],
            "half_and_half": lambda rows, columns, nonzeros, bits:
                "bitmask" if 2 * nonzeros <= rows * columns else "dense",
        },
    ),
    Exercise(
        id="sparsity_budget.layer_levels", inputs=layer_inputs, spec=layer_levels,
        lesson="2.2-pruning", trials=12, kind="design", difficulty=3, minutes=15,
        mistakes={
            "alike": alike,
            "sizes_ignored": without_sizes,
            "greedy": greedy,
            "hardest_first": hardest_first,
            "at_most": at_most,
            "as_sparsities": as_sparsities,
        },
    ),
]  # fmt: skip
