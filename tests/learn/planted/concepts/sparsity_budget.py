"""Right and wrong answers to the exercises of sparsity_budget."""

import itertools

import torch

from course_utils.pruning import storage

# --- the smallest format ---


def in_bytes(rows, columns, nonzeros, bits):
    value = bits / 8
    found = [
        (rows * columns * value, 0, "dense"),
        (nonzeros * value + rows * columns / 8, 1, "bitmask"),
        (nonzeros * (value + 4) + 4 * (rows + 1), 2, "csr"),
    ]
    return min(found)[2]


def by_comparisons(rows, columns, nonzeros, bits):
    gone = rows * columns - nonzeros
    if gone * bits <= rows * columns and bits * gone <= 32 * (nonzeros + rows + 1):
        return "dense"
    return "bitmask" if rows * columns <= 32 * (nonzeros + rows + 1) else "csr"


def by_course(rows, columns, nonzeros, bits):
    formats = ("dense", "bitmask", "csr")
    found = [storage.size(name, (rows, columns), nonzeros, bits) for name in formats]
    return formats[found.index(min(found))]


def smallest(
    mask=lambda r, c, n, bits: r * c, csr=lambda r, c, n, bits: 32 * (n + r + 1), dense=None
):
    def answer(rows, columns, nonzeros, bits):
        given, values = (rows, columns, nonzeros, bits), nonzeros * bits
        whole = rows * columns * bits if dense is None else dense
        found = {"dense": whole, "bitmask": values + mask(*given), "csr": values + csr(*given)}
        return min(found, key=found.get)

    return answer


# --- how sparse each layer should be ---


def by_recursion(harm, sizes, levels, goal):
    """Best-first by hand: the levels of the first layer, then of the rest."""
    need, best = goal * sum(sizes), [float("inf"), None]

    def visit(layer, gone, cost, chosen):
        if cost >= best[0]:
            return
        if layer == len(sizes):
            if gone >= need:
                best[:] = cost, chosen
            return
        for k, level in enumerate(levels):
            visit(
                layer + 1, gone + sizes[layer] * level, cost + float(harm[layer, k]), [*chosen, k]
            )

    visit(0, 0.0, 0.0, [])
    return best[1]


def by_tensors(harm, sizes, levels, goal):
    ways = torch.cartesian_prod(*[torch.arange(len(levels))] * len(sizes))
    gone = (torch.tensor(levels, dtype=torch.float64)[ways] * torch.tensor(sizes)).sum(1)
    cost = sum(harm[i, ways[:, i]] for i in range(len(sizes)))
    return ways[cost.masked_fill(gone < goal * sum(sizes), torch.inf).argmin()].tolist()


def as_a_tuple(harm, sizes, levels, goal):
    best = None
    for way in itertools.product(range(len(levels)), repeat=len(sizes)):
        if sum(levels[k] * n for k, n in zip(way, sizes, strict=True)) / sum(sizes) < goal:
            continue
        cost = sum(harm[i][k].item() for i, k in enumerate(way))
        if best is None or cost < best[0]:
            best = cost, way
    return best[1]


def one_level(harm, sizes, levels, goal):
    return [next(k for k, level in enumerate(levels) if level >= goal) for _ in sizes]


def step_by_step(harm, sizes, levels, goal):
    chosen = [0] * len(sizes)

    def price(i):
        k = chosen[i]
        if k == len(levels) - 1:
            return float("inf")
        return float(harm[i, k + 1] - harm[i, k]) / (levels[k + 1] - levels[k]) / sizes[i]

    while sum(levels[k] * n for k, n in zip(chosen, sizes, strict=True)) < goal * sum(sizes):
        chosen[min(range(len(sizes)), key=price)] += 1
    return chosen


def below(harm, sizes, levels, goal):
    best = None
    for way in itertools.product(range(len(levels)), repeat=len(sizes)):
        gone = sum(levels[k] * n for k, n in zip(way, sizes, strict=True))
        if gone < goal * sum(sizes) and (best is None or gone > best[0]):
            best = gone, list(way)
    return best[1]


RIGHT = {
    "sparsity_budget.smallest_format": [in_bytes, by_comparisons, by_course],
    "sparsity_budget.layer_levels": [by_recursion, by_tensors, as_a_tuple],
}
WRONG = {
    "sparsity_budget.smallest_format": [
        (smallest(mask=lambda r, c, n, b: 0, csr=lambda r, c, n, b: 0), "places_free"),
        (smallest(mask=lambda r, c, n, b: 8 * r * c), "mask_in_bytes"),
        (smallest(mask=lambda r, c, n, b: n), "mask_of_kept"),
        (smallest(csr=lambda r, c, n, b: 32 * n), "starts_forgotten"),
        (smallest(csr=lambda r, c, n, b: 64 * n), "row_numbers"),
        (smallest(csr=lambda r, c, n, b: b * n + 32 * (r + 1)), "narrow_numbers"),
        (smallest(dense=10**9), "never_dense"),
        (lambda rows, columns, nonzeros, bits: max(
            (rows * columns * bits, "dense"), (nonzeros * bits + rows * columns, "bitmask"),
            (nonzeros * (bits + 32) + 32 * (rows + 1), "csr"))[1], "largest"),
        (lambda rows, columns, nonzeros, bits: "bitmask" if nonzeros / (rows * columns) <= 0.5
         else "dense", "half_and_half"),
        (lambda rows, columns, nonzeros, bits: in_bytes(rows, columns, nonzeros, bits).upper(),
         None),
        (lambda rows, columns, nonzeros, bits: "dense", None),
    ],
    "sparsity_budget.layer_levels": [
        (one_level, "alike"),
        (lambda harm, sizes, levels, goal: by_recursion(harm, [7] * len(sizes), levels, goal),
         "sizes_ignored"),
        (step_by_step, "greedy"),
        (lambda harm, sizes, levels, goal: by_tensors(-harm, sizes, levels, goal), "hardest_first"),
        (below, "at_most"),
        (lambda harm, sizes, levels, goal:
            [levels[k] for k in by_recursion(harm, sizes, levels, goal)], "as_sparsities"),
        (lambda harm, sizes, levels, goal: by_recursion(harm, sizes, levels, goal)[::-1], None),
        (lambda harm, sizes, levels, goal: [len(levels) - 1] * len(sizes), "hardest_first"),
    ],
}  # fmt: skip
