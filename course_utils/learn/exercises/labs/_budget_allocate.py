"""Lab 5.2: the exact allocation under two budgets, and ways to miss it."""

SLACK = 1 + 1e-9  # what sums of floats may lose
Table = dict[str, dict[int, float]]


def within(total: float, most: float) -> bool:
    return total <= most * SLACK


def allocate(
    damages: Table, sizes: Table, times: Table, most_bytes: float, most_time: float
) -> dict[str, int]:
    """{layer: bits} of the least total damage within both budgets.

    For each (bytes, time) that the layers so far can take, the least damage is kept. Raises
    ValueError if no choice keeps both budgets.
    """
    best: dict = {(0, 0): (0, ())}
    for name, options in damages.items():
        grown: dict = {}
        for (taken, spent), (harm, chosen) in best.items():
            for bits, damage in options.items():
                at = taken + sizes[name][bits], spent + times[name][bits]
                if (
                    within(at[0], most_bytes)
                    and within(at[1], most_time)
                    and (at not in grown or harm + damage < grown[at][0])
                ):
                    grown[at] = harm + damage, (chosen, bits)
        best = grown
    if not best:
        raise ValueError("no choice of bits keeps both budgets; raise most_bytes or most_time")
    return unrolled(damages, min(best.values(), key=lambda entry: entry[0])[1])


def unrolled(damages: Table, chosen: tuple) -> dict[str, int]:
    """{layer: bits} from (((), bits of the first layer), bits of the second …)."""
    found = {}
    for name in reversed(damages):
        chosen, found[name] = chosen
    return {name: found[name] for name in damages}


def flat(table: Table) -> Table:
    return {name: dict.fromkeys(options, 0.0) for name, options in table.items()}


def without_time(damages, sizes, times, most_bytes, most_time):
    return allocate(damages, sizes, flat(times), most_bytes, 0.0)


def without_bytes(damages, sizes, times, most_bytes, most_time):
    return allocate(damages, flat(sizes), times, 0.0, most_time)


def without_limits(damages, sizes, times, most_bytes, most_time):
    return {name: min(options, key=options.__getitem__) for name, options in damages.items()}


def strictly_below(damages, sizes, times, most_bytes, most_time):
    return allocate(damages, sizes, times, most_bytes / SLACK**3, most_time / SLACK**3)


def equal_layers(damages, sizes, times, most_bytes, most_time):
    """Counts widths, as if a bit took the same in every layer."""
    step = sum(max(s.values()) for s in sizes.values()) / max(1, sum(map(max, sizes.values())))
    return allocate(
        damages,
        {n: {b: b for b in s} for n, s in sizes.items()},
        times,
        most_bytes / step,
        most_time,
    )


def mean_bits(damages, sizes, times, most_bytes, most_time):
    """Bytes in proportion to the bits: what a layer takes beside its codes is spread over them."""
    size = {n: {b: max(s.values()) * b / max(1, max(s)) for b in s} for n, s in sizes.items()}
    return allocate(damages, size, times, most_bytes, most_time)


def smallest(damages, sizes):
    return {name: min(options, key=sizes[name].__getitem__) for name, options in damages.items()}


def infeasible_returned(damages, sizes, times, most_bytes, most_time):
    try:
        return allocate(damages, sizes, times, most_bytes, most_time)
    except ValueError:
        return smallest(damages, sizes)


def greedy(damages, sizes, times, most_bytes, most_time):
    """From the smallest sizes, always the step that fits and saves most damage for each byte."""
    chosen = smallest(damages, sizes)
    taken, spent = (sum(table[n][b] for n, b in chosen.items()) for table in (sizes, times))
    if not (within(taken, most_bytes) and within(spent, most_time)):
        raise ValueError("the smallest sizes exceed a budget")
    while True:
        best, step = 0.0, None
        for name, old in chosen.items():
            for new in damages[name]:
                more, later = (
                    sizes[name][new] - sizes[name][old],
                    times[name][new] - times[name][old],
                )
                gain = (damages[name][old] - damages[name][new]) / more if more > 0 else 0.0
                if (
                    gain > best
                    and within(taken + more, most_bytes)
                    and within(spent + later, most_time)
                ):
                    best, step = gain, (name, new, more, later)
        if step is None:
            return chosen
        chosen[step[0]], taken, spent = step[1], taken + step[2], spent + step[3]


ALLOCATION_MISTAKES = {
    "greedy": greedy, "without_time": without_time, "without_bytes": without_bytes,
    "without_limits": without_limits, "strictly_below": strictly_below,
    "infeasible_returned": infeasible_returned, "equal_layers": equal_layers,
    "mean_bits": mean_bits,
}  # fmt: skip


def value(given: dict, chosen: dict[str, int]) -> dict:
    """What all best choices have in common: they are choices, they keep both budgets, and their
    damage.
    """
    known = {name: set(options) for name, options in given["damages"].items()}
    if set(chosen) != set(known) or any(bits not in known[name] for name, bits in chosen.items()):
        return {"a choice": False, "fits": False, "damage": 0.0}
    total = {
        key: sum(given[key][name][bits] for name, bits in chosen.items())
        for key in ("damages", "sizes", "times")
    }
    fits = within(total["sizes"], given["most_bytes"]) and within(
        total["times"], given["most_time"]
    )
    return {"a choice": True, "fits": fits, "damage": total["damages"]}
