"""Right and wrong answers to the exercises of choosing."""

from course_utils.evaluation import advisor


def widths_by_list(parameters, memory, group_size):
    fits = [0]
    for bits in (2, 3, 4, 8):
        if (parameters * bits + parameters / group_size * (16 + bits)) / 8 <= memory:
            fits.append(bits)
    return 16 if 2 * parameters <= memory else max(fits)


def widths_per_weight(parameters, memory, group_size):
    """Bits that there are for each weight, against bits that a weight needs."""
    room = 8 * memory / parameters
    if room >= 16:
        return 16
    return next((b for b in (8, 4, 3, 2) if b * (1 + 1 / group_size) + 16 / group_size <= room), 0)


def widths(need, order=(16, 8, 4, 3, 2)):
    def find(parameters, memory, group_size):
        for bits in order:
            if parameters * need(bits, group_size) / 8 <= memory:
                return bits
        return 0

    return find


def full(bits, group):
    return bits if bits == 16 else bits + (16 + bits) / group


def goal_by_table(bits, speedup, place):
    rows = [
        ("edge", place == "edge"),
        ("memory", bits in (0, 2, 3, 4)),
        ("speed", speedup != 1),
        ("cloud", place == "cloud"),
    ]
    for name, holds in rows:
        if holds:
            return name
    return "quality"


def goal_nested(bits, speedup, place):
    if place != "edge":
        if bits >= 8:
            return "speed" if speedup > 1.0 else {"cloud": "cloud"}.get(place, "quality")
        return "memory"
    return "edge"


def goal_with(first, second, third, fourth):
    def flow(bits, speedup, place):
        tests = {
            "edge": place == "edge",
            "memory": bits < 8,
            "speed": speedup > 1,
            "cloud": place == "cloud",
        }
        for name in (first, second, third, fourth):
            if tests[name]:
                return name
        return "quality"

    return flow


def goal_without_edge(bits, speedup, place):
    return (
        "memory"
        if bits < 8
        else "speed"
        if speedup > 1
        else "cloud"
        if place == "cloud"
        else "quality"
    )


def goal_other_limit(bits, speedup, place):
    if place == "edge":
        return "edge"
    if bits <= 8:
        return "memory"
    return "speed" if speedup > 1 else "cloud" if place == "cloud" else "quality"


def goal_at_least(bits, speedup, place):
    if place == "edge":
        return "edge"
    if bits < 8:
        return "memory"
    return "speed" if speedup >= 1 else "quality"


def goal_without_memory(bits, speedup, place):
    if place == "edge":
        return "edge"
    return "speed" if speedup > 1 else "cloud" if place == "cloud" else "quality"


def ship_sorted(sizes, losses, speeds, max_loss, min_speed):
    for size, i in sorted((size, i) for i, size in enumerate(sizes)):
        assert size == sizes[i]
        if losses[i] <= max_loss and speeds[i] >= min_speed:
            return i
    return -1


def ship_filtered(sizes, losses, speeds, max_loss, min_speed):
    rows = [
        (s, i)
        for i, (s, x, v) in enumerate(zip(sizes, losses, speeds, strict=True))
        if not (x > max_loss or v < min_speed)
    ]
    return min(rows)[1] if rows else -1


def ship_where(test, key):
    def choose(sizes, losses, speeds, max_loss, min_speed):
        best = None
        for i, (s, x, v) in enumerate(zip(sizes, losses, speeds, strict=True)):
            if test(x, v, max_loss, min_speed) and (best is None or key(s, x, v) < best[0]):
                best = (key(s, x, v), i)
        return -1 if best is None else best[1]

    return choose


def both(x, v, limit, pace):
    return x <= limit and v >= pace


def ship_by_elimination(sizes, losses, speeds, max_loss, min_speed):
    """What breaks a limit becomes infinitely large."""
    large = float("inf")
    costs = [
        s if x <= max_loss and v >= min_speed else large
        for s, x, v in zip(sizes, losses, speeds, strict=True)
    ]
    return -1 if min(costs) == large else costs.index(min(costs))


RIGHT = {
    "choosing.bits_that_fit": [widths_by_list, widths_per_weight, widths(full)],
    "choosing.goal": [
        goal_by_table,
        goal_nested,
        lambda bits, speedup, place: advisor.goal_of(bits=bits, speedup=speedup, place=place),
    ],
    "choosing.ship": [ship_by_elimination, ship_sorted, ship_filtered],
}
WRONG = {
    "choosing.bits_that_fit": [
        (widths(lambda bits, group: bits), "scales_forgotten"),
        (
            widths(lambda bits, group: bits if bits == 16 else bits + 16 / group),
            "zero_points_forgotten",
        ),
        (widths(lambda bits, group: 8 * full(bits, group)), "bits_for_bytes"),
        (widths(full, (2, 3, 4, 8, 16)), "smallest_width"),
        (widths(lambda bits, group: bits + (16 + bits) / group), "scales_at_16"),
        (widths(full, (16, 8, 4, 2)), "no_3_bits"),
        (lambda parameters, memory, group_size: 4, None),
        (
            lambda parameters, memory, group_size: str(
                widths_by_list(parameters, memory, group_size)
            ),
            None,
        ),
        (lambda parameters, memory, group_size: int(8 * memory / parameters), None),
    ],
    "choosing.goal": [
        (goal_with("memory", "edge", "speed", "cloud"), "memory_before_edge"),
        (goal_with("edge", "speed", "memory", "cloud"), "speed_before_memory"),
        (goal_with("edge", "memory", "cloud", "speed"), "cloud_before_speed"),
        (goal_with("cloud", "edge", "memory", "speed"), "cloud_first"),
        (goal_other_limit, "eight_is_short"),
        (goal_at_least, "any_speed"),
        (goal_without_memory, "no_memory"),
        (goal_without_edge, None),
        (lambda bits, speedup, place: "quality", None),
    ],
    "choosing.ship": [
        (
            ship_where(lambda x, v, limit, pace: x <= limit or v >= pace, lambda s, x, v: s),
            "one_condition_enough",
        ),
        (ship_where(lambda x, v, limit, pace: x <= limit, lambda s, x, v: s), "speed_ignored"),
        (ship_where(lambda x, v, limit, pace: v >= pace, lambda s, x, v: s), "loss_ignored"),
        (ship_where(both, lambda s, x, v: x), "lowest_loss"),
        (ship_where(both, lambda s, x, v: -v), "fastest"),
        (ship_where(both, lambda s, x, v: -s), "largest"),
        (
            lambda sizes, losses, speeds, max_loss, min_speed: sizes.index(min(sizes)),
            "smallest_of_all",
        ),
        (
            ship_where(lambda x, v, limit, pace: x < limit and v > pace, lambda s, x, v: s),
            "limits_excluded",
        ),
        (lambda sizes, losses, speeds, max_loss, min_speed: 0, None),
        (lambda **given: max(0, ship_sorted(**given)), None),
    ],
}
