"""Right and wrong answers to the exercises of pitfalls."""


def by_max(flops, bytes_moved, peak, bandwidth):
    return max(bytes_moved / bandwidth, flops / peak)


def by_intensity(flops, bytes_moved, peak, bandwidth):
    """Attainable operations a second at this intensity."""
    return flops / min(peak, flops / bytes_moved * bandwidth)


def point_by_limits(ratios, losses, original, allowed):
    broken = [r for r, x in zip(ratios, losses, strict=True) if x - original > allowed]
    return max([r for r in ratios if not broken or r < min(broken)], default=1.0)


def point_by_index(ratios, losses, original, allowed):
    order = sorted(range(len(ratios)), key=ratios.__getitem__)
    fine = 0
    while fine < len(order) and losses[order[fine]] <= original + allowed:
        fine += 1
    return ratios[order[fine - 1]] if fine else 1.0


def walk(ratios, losses, limit, order):
    last = 1.0
    for i in order:
        if losses[i] > limit:
            break
        last = ratios[i]
    return last


def rising(ratios):
    return sorted(range(len(ratios)), key=lambda i: ratios[i])


def by_sorting(flops, bytes_moved, peak, bandwidth):
    times = {"computing": flops / peak, "moving": bytes_moved / bandwidth}
    return sorted(times.values())[-1]


def point_by_scan(ratios, losses, original, allowed):
    """A ratio counts if it and every lower one are within the limit."""
    versions, limit = list(zip(ratios, losses, strict=True)), original + allowed
    best = 1.0
    for ratio, _ in versions:
        if all(loss <= limit for other, loss in versions if other <= ratio) and ratio > best:
            best = ratio
    return best


def ratio_of_sizes(outside, pruning, bits):
    """A model of 1000 weights in bits, before and after."""
    before = 1000 * 16
    after = 1000 * outside * 16 + 1000 * (1 - outside) / pruning * bits
    return before / after


RIGHT = {
    "pitfalls.roofline_time": [by_sorting, by_max, by_intensity],
    "pitfalls.breaking_point": [point_by_scan, point_by_limits, point_by_index],
    "pitfalls.combined_ratio": [
        ratio_of_sizes,
        lambda outside, pruning, bits: (
            16 * pruning / (16 * pruning * outside + bits - bits * outside)
        ),
        lambda outside, pruning, bits: (
            (outside + (1 - outside) * (bits / 16) * (1 / pruning)) ** -1
        ),
    ],
}
WRONG = {
    "pitfalls.roofline_time": [
        (lambda flops, bytes_moved, peak, bandwidth: bytes_moved / bandwidth + flops / peak,
         "added"),
        (lambda flops, bytes_moved, peak, bandwidth: min(bytes_moved / bandwidth, flops / peak),
         "faster_of_the_two"),
        (lambda flops, bytes_moved, peak, bandwidth: flops * (1 / peak), "computing_only"),
        (lambda flops, bytes_moved, peak, bandwidth: bytes_moved * (1 / bandwidth), "moving_only"),
        (lambda flops, bytes_moved, peak, bandwidth: max(bytes_moved / peak, flops / bandwidth),
         "exchanged"),
        (lambda flops, bytes_moved, peak, bandwidth:
            1 / by_max(flops, bytes_moved, peak, bandwidth), "speed"),
        (lambda flops, bytes_moved, peak, bandwidth:
            (flops / peak * bytes_moved / bandwidth) ** 0.5, None),
        (lambda flops, bytes_moved, peak, bandwidth: flops / bytes_moved, None),
    ],
    "pitfalls.breaking_point": [
        (lambda ratios, losses, original, allowed:
            max([r for r, x in zip(ratios, losses, strict=True) if x - original <= allowed]),
            "highest_allowed"),
        (lambda ratios, losses, original, allowed:
            walk(ratios, losses, original + allowed, range(len(ratios))), "unsorted"),
        (lambda ratios, losses, original, allowed:
            min(r for r, x in zip(ratios, losses, strict=True) if x > original + allowed),
            "first_broken"),
        (lambda ratios, losses, original, allowed: walk(ratios, losses, original * (1 + allowed),
            rising(ratios)), "relative"),
        (lambda ratios, losses, original, allowed: walk(ratios, losses, allowed, rising(ratios)),
         "limit_is_allowed"),
        (lambda ratios, losses, original, allowed: min(zip(losses, ratios, strict=True))[1],
         "lowest_loss"),
        (lambda ratios, losses, original, allowed: max(ratios), None),
        (lambda ratios, losses, original, allowed: rising(ratios)[0], None),
    ],
    "pitfalls.combined_ratio": [
        (lambda outside, pruning, bits:
            1 / (outside + (1 - outside) * (pruning - 1) / pruning * bits / 16),
            "removed_for_kept"),
        (lambda outside, pruning, bits: 16 / bits * pruning, "outside_forgotten"),
        (lambda outside, pruning, bits: 1 / (outside + (1 - outside) / (16 / bits + pruning)),
         "ratios_added"),
        (lambda outside, pruning, bits: 1 / (outside + (1 - outside) * min(bits / 16, 1 / pruning)),
         "better_of_the_two"),
        (lambda outside, pruning, bits: (1 - outside) * 16 / bits * pruning + outside,
         "mean_of_ratios"),
        (lambda outside, pruning, bits: outside + (1 - outside) / pruning * bits / 16, "share"),
        (lambda outside, pruning, bits: 1 / (outside + (1 - outside) * bits / 32 / pruning),
         "from_32_bits"),
        (lambda outside, pruning, bits: 16 / bits / (outside + (1 - outside) / pruning),
         "outside_too"),
        (lambda outside, pruning, bits: pruning, None),
        (lambda outside, pruning, bits: 1 / (outside / 2 + (1 - outside) / pruning * bits / 16),
         None),
    ],
}  # fmt: skip
