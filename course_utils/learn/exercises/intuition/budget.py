"""Lab 1.1: how many bytes a model takes, and which compressed version to keep."""

import torch

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn

# --- weights ---


def weight_inputs(rng: torch.Generator) -> dict:
    """Counts that are no round numbers, up to 900 thousand millions; and few weights, whose sum is
    a whole number of bytes.
    """
    if turn(rng, False, False, True):
        return {"parameters": 4 * pick(rng, 1, 3, 5, 7, 9), "bits": 2 * pick(rng, 1, 3, 5, 7)}
    parameters = int(
        torch.randint(50_000_001, 9_000_000_000 * turn(rng, 1, 100), (), generator=rng)
    )
    return {"parameters": parameters, "bits": int(torch.randint(2, 33, (), generator=rng))}


def weight_bytes(parameters: int, bits: int) -> float:
    """N b / 8."""
    return parameters * bits / 8


# --- keys and values ---


def cache_inputs(rng: torch.Generator) -> dict:
    """Ordinary models, and in turn many layers, heads or sequences, and bits that are no whole
    bytes.
    """
    kv_heads = turn(rng, 2, 4, 8, 131)
    return {
        "layers": turn(rng, 12, 32, 137, 24), "heads": kv_heads * pick(rng, 2, 4),
        "kv_heads": kv_heads, "head_dim": turn(rng, 64, 128, 80, 160),
        "context": turn(rng, 1000, 4096, 33_001, 3072), "batch": turn(rng, 3, 139, 5, 7),
        "bits": turn(rng, 4, 8, 3, 32),
    }  # fmt: skip


def cache_bytes(
    layers: int, heads: int, kv_heads: int, head_dim: int, context: int, batch: int, bits: int
) -> float:
    """2 (keys, values) × layers × KV heads × head width × context × batch × b / 8."""
    return 2 * layers * kv_heads * head_dim * context * batch * bits / 8


def other_heads(layers, heads, kv_heads, head_dim, context, batch, bits):
    return cache_bytes(layers, heads, heads, head_dim, context, batch, bits)


# --- a quantized matrix ---


def matrix_inputs(rng: torch.Generator) -> dict:
    """An odd number of groups, some of an odd size, so that rows end within a byte."""
    group_size = pick(rng, 5, 6, 32, 64)
    groups = 2 * int(torch.randint(2, 10, (), generator=rng)) + 1
    return {"rows": int(torch.randint(10, 500, (), generator=rng)), "columns": groups * group_size,
            "bits": pick(rng, 2, 3, 4, 8), "group_size": group_size}  # fmt: skip


def quantized_bytes(rows: int, columns: int, bits: int, group_size: int) -> int:
    """Rows × (⌈columns b / 8⌉ + 2 groups + ⌈groups b / 8⌉)."""
    groups = columns // group_size
    return rows * (-(-columns * bits // 8) + 2 * groups + -(-groups * bits // 8))


def no_scales(rows, columns, bits, group_size):
    return rows * -(-columns * bits // 8)


def no_zeros(rows, columns, bits, group_size):
    return no_scales(rows, columns, bits, group_size) + 2 * rows * (columns // group_size)


def wide_scales(rows, columns, bits, group_size):
    return quantized_bytes(rows, columns, bits, group_size) + 2 * rows * (columns // group_size)


def one_group(rows, columns, bits, group_size):
    return quantized_bytes(rows, columns, bits, columns)


def size_for_groups(rows, columns, bits, group_size):
    """The size of a group counted in place of the number of groups."""
    return rows * (-(-columns * bits // 8) + 2 * group_size + -(-group_size * bits // 8))


def codes_in_bits(rows, columns, bits, group_size):
    groups = columns // group_size
    return rows * (columns * bits + 2 * groups + -(-groups * bits // 8))


def whole_byte_zeros(rows, columns, bits, group_size):
    groups = columns // group_size
    return rows * (-(-columns * bits // 8) + 2 * groups + groups)


def fractions_of_bytes(rows, columns, bits, group_size):
    groups = columns // group_size
    return rows * (columns * bits / 8 + 2 * groups + groups * bits / 8)


def rounded_down(rows, columns, bits, group_size):
    groups = columns // group_size
    return rows * (columns * bits // 8 + 2 * groups + groups * bits // 8)


def whole_bytes_at_the_end(rows, columns, bits, group_size):
    groups = columns // group_size
    return -(-rows * columns * bits // 8) + 2 * rows * groups + -(-rows * groups * bits // 8)


# --- the choice ---


def choice_inputs(rng: torch.Generator) -> dict:
    """Candidates of which the smallest that fits has a loss below the limit, or exactly at it; now
    and then none fits.

    In half of the trials the first one does not fit, and is as large as the one to be found.
    """
    n = turn(rng, int(torch.randint(5, 9, (), generator=rng)), 263)
    sizes = (torch.randperm(900, generator=rng)[:n] + 10).tolist()
    losses = [round(0.6 + 0.001 * k, 3) for k in torch.randperm(600, generator=rng)[:n].tolist()]
    trap = turn(rng, False, True, every=2)
    if trap:
        worst = losses.index(max(losses))
        losses[0], losses[worst] = losses[worst], losses[0]
    ranked = sorted(range(n), key=losses.__getitem__)
    fitting = ranked[: n - 2]
    case = pick(rng, "at the limit", "below", "between", "none")
    winner = fitting[-1] if case == "at the limit" else fitting[1]
    smallest = min(fitting, key=sizes.__getitem__)
    sizes[winner], sizes[smallest] = sizes[smallest], sizes[winner]
    if trap:
        sizes[0] = sizes[winner]
    limit = {"none": 0.5, "between": losses[fitting[-1]] + 0.0005}.get(case, losses[fitting[-1]])
    return {"sizes": sizes, "losses": losses, "limit": limit}


def smallest_within(sizes: list, losses: list, limit: float) -> int:
    """Argmin of sizes over losses ≤ limit; −1 if there is none."""
    best = -1
    for i, loss in enumerate(losses):
        if loss <= limit and (best < 0 or sizes[i] < sizes[best]):
            best = i
    return best


def largest_loss_allowed(sizes, losses, limit):
    fitting = [i for i, loss in enumerate(losses) if loss <= limit]
    return max(fitting, key=losses.__getitem__, default=-1)


EXERCISES = [
    Exercise(
        id="budget.weight_bytes",
        inputs=weight_inputs,
        spec=weight_bytes,
        tolerance=1e-6,
        lesson="lab-1.1-first-compression",
        trials=6,
        mistakes={
            "bits_for_bytes": lambda parameters, bits: parameters * bits,
            "gigabytes": lambda parameters, bits: parameters * bits / 8 / 1e9,
            "megabytes": lambda parameters, bits: parameters * bits / 8 / 1e6,
            "gibibytes": lambda parameters, bits: parameters * bits / 8 / 2**30,
            "always_four": lambda parameters, bits: parameters * 4,
            "multiplied": lambda parameters, bits: parameters * bits * 8,
        },
    ),
    Exercise(
        id="budget.kv_cache_bytes",
        inputs=cache_inputs,
        spec=cache_bytes,
        tolerance=1e-6,
        lesson="lab-1.1-first-compression",
        trials=4,
        mistakes={
            "keys_only": lambda **k: cache_bytes(**k) / 2,
            "query_heads": other_heads,
            "bits_for_bytes": lambda **k: cache_bytes(**k) * 8,
            "batch_forgotten": lambda **k: cache_bytes(**k) / k["batch"],
            "context_forgotten": lambda **k: cache_bytes(**k) / k["context"],
            "layers_forgotten": lambda **k: cache_bytes(**k) / k["layers"],
            "head_dim_forgotten": lambda **k: cache_bytes(**k) / k["head_dim"],
            "kv_heads_forgotten": lambda **k: cache_bytes(**k) / k["kv_heads"],
            "sixteen_bits": lambda **k: cache_bytes(**{**k, "bits": 16}),
        },
    ),
    Exercise(
        id="budget.quantized_bytes",
        inputs=matrix_inputs,
        spec=quantized_bytes,
        tolerance=1e-6,
        lesson="lab-1.1-first-compression",
        trials=20,
        mistakes={
            "scales_forgotten": no_scales,
            "zeros_forgotten": no_zeros,
            "scales_in_32_bits": wide_scales,
            "one_scale_a_row": one_group,
            "size_for_groups": size_for_groups,
            "codes_in_bits": codes_in_bits,
            "zeros_unpacked": whole_byte_zeros,
            "not_rounded_up": fractions_of_bytes,
            "rounded_down": rounded_down,
            "rounded_at_the_end": whole_bytes_at_the_end,
        },
    ),
    Exercise(
        id="budget.smallest_within",
        inputs=choice_inputs,
        spec=smallest_within,
        lesson="lab-1.1-first-compression",
        trials=20,
        mistakes={
            "limit_ignored": lambda sizes, losses, limit: sizes.index(min(sizes)),
            "best_quality": lambda sizes, losses, limit: (
                losses.index(min(losses)) if min(losses) <= limit else -1
            ),
            "strictly_below": lambda sizes, losses, limit: smallest_within(
                sizes, [loss if loss < limit else float("inf") for loss in losses], limit
            ),
            "first_that_fits": lambda sizes, losses, limit: next(
                (i for i, x in enumerate(losses) if x <= limit), -1
            ),
            "closest_to_limit": largest_loss_allowed,
            "size_not_index": lambda sizes, losses, limit: min(
                (s for s, x in zip(sizes, losses, strict=True) if x <= limit), default=-1
            ),
        },
    ),
]
