"""Right and wrong answers to the exercises of budget."""

import math
from fractions import Fraction

import torch


def cache_by_loop(layers, heads, kv_heads, head_dim, context, batch, bits):
    total = 0
    for _ in range(layers):
        for _what in ("keys", "values"):
            total += kv_heads * head_dim * bits // 8
    return total * context * batch


def bytes_by_group(rows, columns, bits, group_size):
    stream = columns * bits + 0
    zeros = (columns // group_size) * bits
    row = math.ceil(stream / 8) + math.ceil(zeros / 8)
    for _ in range(0, columns, group_size):
        row += 2
    return rows * row


def bytes_by_strings(rows, columns, bits, group_size):
    groups = columns / group_size
    row = (columns * bits + 7) // 8 + (groups * bits + 7) // 8 + groups * 2
    return float(row * rows)


def smallest_by_sort(sizes, losses, limit):
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    return next((i for i in order if not losses[i] > limit), -1)


def smallest_by_tuple(sizes, losses, limit):
    _, index = min(
        ((s, i) for i, (s, x) in enumerate(zip(sizes, losses, strict=True)) if x <= limit),
        default=(0, -1),
    )
    return index


def kept(losses, limit):
    return [i for i, x in enumerate(losses) if x <= limit]


def bytes_in_integers(rows, columns, bits, group_size):
    """Rounded up by adding 7 bits before the division; one row after the other."""
    total = 0
    for _ in range(rows):
        total += (columns * bits + 7) // 8
        groups = columns // group_size
        total += groups * 16 // 8
        total += (groups * bits + 7) // 8
    return float(total)


def smallest_recursive(sizes, losses, limit):
    if not sizes:
        return -1
    before = smallest_recursive(sizes[:-1], losses[:-1], limit)
    last = len(sizes) - 1
    if losses[last] > limit or (before >= 0 and sizes[before] < sizes[last]):
        return before
    return last


RIGHT = {
    "budget.weight_bytes": [
        lambda parameters, bits: torch.tensor(float(parameters)) * bits / 8,
        lambda parameters, bits: parameters * bits // 8,  # whole bytes
        lambda parameters, bits: float(Fraction(bits, 8) * parameters),
        lambda bits, parameters: (bits / 8) * parameters,
    ],
    "budget.kv_cache_bytes": [
        cache_by_loop,
        lambda layers, heads, kv_heads, head_dim, context, batch, bits: math.prod(
            [layers, kv_heads, head_dim, context, batch, 2, bits / 8]
        ),
        lambda layers, heads, kv_heads, head_dim, context, batch, bits: (
            bits / 4 * layers * kv_heads * head_dim * context * batch
        ),
    ],
    "budget.quantized_bytes": [bytes_in_integers, bytes_by_group, bytes_by_strings],
    "budget.smallest_within": [smallest_recursive, smallest_by_sort, smallest_by_tuple],
}
WRONG = {
    "budget.weight_bytes": [
        (lambda parameters, bits: parameters // 8 * bits, None),
        (lambda parameters, bits: bits / 8 * (parameters / 10**6), "megabytes"),
        (lambda parameters, bits: parameters * bits, "bits_for_bytes"),
        (lambda parameters, bits: parameters / 1e9 * bits / 8, "gigabytes"),
        (lambda parameters, bits: parameters * bits / 8 / 1024**3, "gibibytes"),
        (lambda parameters, bits: 4 * parameters, "always_four"),
        (lambda parameters, bits: 8 * bits * parameters, "multiplied"),
        (lambda parameters, bits: parameters * bits / 16, None),
        (lambda parameters, bits: 28e9, None),
        (lambda parameters, bits: str(parameters * bits / 8), None),
    ],
    "budget.kv_cache_bytes": [
        (lambda layers, heads, kv_heads, head_dim, context, batch, bits:
            2 * layers * head_dim * context * batch * bits / 8, "kv_heads_forgotten"),
        (lambda layers, heads, kv_heads, head_dim, context, batch, bits:
            4 * layers * kv_heads * head_dim * context * batch, "sixteen_bits"),
        (lambda layers, heads, kv_heads, head_dim, context, batch, bits:
            layers * kv_heads * head_dim * context * batch * bits / 8, "keys_only"),
        (lambda layers, heads, kv_heads, head_dim, context, batch, bits:
            layers * heads * head_dim * context * batch * bits / 4, "query_heads"),
        (lambda layers, heads, kv_heads, head_dim, context, batch, bits:
            2 * layers * kv_heads * head_dim * context * batch * bits, "bits_for_bytes"),
        (lambda layers, heads, kv_heads, head_dim, context, batch, bits:
            layers * kv_heads * head_dim * context * bits / 4, "batch_forgotten"),
        (lambda layers, heads, kv_heads, head_dim, context, batch, bits:
            layers * kv_heads * head_dim * batch * bits / 4, "context_forgotten"),
        (lambda layers, heads, kv_heads, head_dim, context, batch, bits:
            kv_heads * head_dim * context * batch * bits / 4, "layers_forgotten"),
        (lambda layers, heads, kv_heads, head_dim, context, batch, bits:
            2 * layers * kv_heads * context * batch * bits / 8, "head_dim_forgotten"),
        (lambda layers, heads, kv_heads, head_dim, context, batch, bits:
            layers * kv_heads * head_dim * context**2 * batch * bits / 4, None),
    ],
    "budget.quantized_bytes": [
        (lambda rows, columns, bits, group_size:
            rows * ((columns * bits + 7) // 8 + 2 * group_size + (group_size * bits + 7) // 8),
            "size_for_groups"),
        (lambda rows, columns, bits, group_size: rows * ((columns * bits + 7) // 8),
         "scales_forgotten"),
        (lambda rows, columns, bits, group_size:
            rows * ((columns * bits + 7) // 8 + 2 * (columns // group_size)), "zeros_forgotten"),
        (lambda rows, columns, bits, group_size: bytes_by_group(rows, columns, bits,
            group_size) + rows * columns // group_size * 2, "scales_in_32_bits"),
        (lambda rows, columns, bits, group_size: rows * ((columns * bits + 7) // 8 + 2 + 1),
         "one_scale_a_row"),
        (lambda rows, columns, bits, group_size:
            rows * (columns * bits + 2 * (columns // group_size) + math.ceil(
                columns // group_size * bits / 8)), "codes_in_bits"),
        (lambda rows, columns, bits, group_size:
            rows * (math.ceil(columns * bits / 8) + 3 * (columns // group_size)), "zeros_unpacked"),
        (lambda rows, columns, bits, group_size:
            rows * (columns * bits / 8 + columns / group_size * (2 + bits / 8)), "not_rounded_up"),
        (lambda rows, columns, bits, group_size:
            rows * (columns * bits // 8 + 2 * (columns // group_size) + columns // group_size
                    * bits // 8), "rounded_down"),
        (lambda rows, columns, bits, group_size:
            bytes_by_group(1, rows * columns, bits, group_size), "rounded_at_the_end"),
        (lambda rows, columns, bits, group_size: rows * columns * 4, None),
        (lambda rows, columns, bits, group_size:
            (columns * bits + 7) // 8 + 2 * (columns // group_size), None),
    ],
    "budget.smallest_within": [
        (lambda sizes, losses, limit: min(range(len(sizes)), key=sizes.__getitem__),
         "limit_ignored"),
        (lambda sizes, losses, limit: min(kept(losses, limit), key=losses.__getitem__, default=-1),
         "best_quality"),
        (lambda sizes, losses, limit: min((i for i in kept(losses, limit) if losses[i] != limit),
                                          key=sizes.__getitem__, default=-1), "strictly_below"),
        (lambda sizes, losses, limit: (kept(losses, limit) or [-1])[0], "first_that_fits"),
        (lambda sizes, losses, limit: max(kept(losses, limit), key=losses.__getitem__, default=-1),
         "closest_to_limit"),
        (lambda sizes, losses, limit: min([sizes[i] for i in kept(losses, limit)], default=-1),
         "size_not_index"),
        (lambda sizes, losses, limit: max(kept(losses, limit), key=sizes.__getitem__, default=-1),
         None),
        (lambda sizes, losses, limit: kept(losses, limit), None),
        (lambda sizes, losses, limit: min(kept(losses, limit), key=sizes.__getitem__), None),
    ],
}  # fmt: skip
