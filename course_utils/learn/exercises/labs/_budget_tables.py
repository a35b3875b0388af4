"""Lab 5.2: tables of damages, bytes and times, one kind of edge in each draw."""

import torch

from ..draws import pick, turn, until
from ._budget_allocate import allocate, greedy, value, without_time

KINDS = (
    "plain", "ties", "floats", "too late", "one layer", "slow when narrow", "nothing",
    "unlike options", "many layers", "many options", "too large", "plain, one layer odd",
)  # fmt: skip


def totals(given: dict, chosen: dict[str, int]) -> dict:
    """The draw with budgets that this choice meets exactly."""
    taken, spent = (
        sum(given[table][name][bits] for name, bits in chosen.items())
        for table in ("sizes", "times")
    )
    return {**given, "most_bytes": taken, "most_time": spent}


def tables(
    rng: torch.Generator,
    options: list[list[int]],
    times: tuple[float, ...] = (1.0, 1.6, 1.1),
    whole: bool = False,
) -> dict:
    """Layers of unlike sizes; what a layer takes beside its codes is not in proportion to them.

    `times`: of a weight, by place of the option.
    """
    damages, sizes, spent = {}, {}, {}
    for i, widths in enumerate(options):
        name, unit, side = f"layer {i}", pick(rng, 30, 50, 80, 130), pick(rng, 0, 120, 270)
        start = float((2 * torch.randn((), generator=rng)).exp())
        falls = (0.15 + 0.6 * torch.rand(len(widths), generator=rng)).cumprod(0).tolist()
        damages[name] = {b: round(start * f, 4) for b, f in zip(widths, falls, strict=True)}
        sizes[name] = {b: unit * b + side for b in widths}
        spent[name] = {
            b: round(unit * times[j % len(times)] / 10, 1 if whole else 4)
            for j, b in enumerate(widths)
        }
    return {"damages": damages, "sizes": sizes, "times": spent}


def some(rng: torch.Generator, given: dict) -> dict[str, int]:
    return {name: pick(rng, *options) for name, options in given["damages"].items()}


def plain(rng: torch.Generator, kind: str) -> dict:
    """Both budgets are met exactly by some choice, which need not be the best one."""
    given = tables(rng, [[2, 3, 4]] * turn(rng, 4, 5), whole=True)
    names = list(given["damages"])
    if "odd" in kind:  # a step that gains nothing hides one that does
        odd = given["damages"][pick(rng, *names)]
        odd[3] = round(1.02 * odd[2], 4)
    if kind == "ties":
        same = {b: round(b * 2.0**-b, 4) for b in (2, 3, 4)}
        given["damages"] = {name: dict(same) for name in names}
        given["sizes"] = {name: {b: 40 * b + 100 for b in (2, 3, 4)} for name in names}
    if kind == "floats":
        for table, scale in (("damages", 1e-4), ("times", 1.0)):
            given[table] = {
                n: {b: v * scale * (1 + float(torch.rand((), generator=rng))) for b, v in t.items()}
                for n, t in given[table].items()
            }
        given["times"] = {
            n: {b: round(v, 3) for b, v in t.items()} for n, t in given["times"].items()
        }
        given["sizes"] = {n: {b: v / 10 for b, v in t.items()} for n, t in given["sizes"].items()}
    return totals(given, some(rng, given))


def slow_when_narrow(rng: torch.Generator) -> dict:
    """The smallest sizes take too long."""
    given = tables(rng, [[2, 3, 4]] * 4, (2.0, 1.2, 1.0), whole=True)
    given = totals(given, {name: pick(rng, 3, 4) for name in given["damages"]})
    return given


def impossible(rng: torch.Generator, kind: str) -> dict:
    """Too late: each budget can be kept alone, both together cannot.

    Too large: the smallest sizes exceed the budget by one byte.
    """
    given = tables(rng, [[2, 3, 4]] * 4, (2.0, 1.4, 1.0), whole=True)
    small, fast = (totals(given, dict.fromkeys(given["damages"], b)) for b in (2, 4))
    if kind == "too large":
        return {**fast, "most_bytes": small["most_bytes"] - 1, "most_time": small["most_time"]}
    return {**given, "most_bytes": small["most_bytes"] + 20, "most_time": fast["most_time"] + 0.1}


def nothing(rng: torch.Generator) -> dict:
    """Layers may be left out, with 0 bits, bytes and time; a budget is 0."""
    given = tables(rng, [[0, 2, 4]] * 3, whole=True)
    for name in given["damages"]:
        given["sizes"][name][0], given["times"][name][0] = 0, 0.0
    free = pick(rng, *given["damages"])
    given["times"][free][2] = 0.0  # takes bytes and no time
    first, second = turn(rng, (0, 50.0), (2000, 0.0))
    return {**given, "most_bytes": first, "most_time": second}


def many_layers(rng: torch.Generator) -> dict:
    """133 layers, few different sums; only the last two take time,
    and the last ones matter most.
    """
    given: dict = {"damages": {}, "sizes": {}, "times": {}}
    for i in range(133):
        name, unit = f"layer {i}", 2 if i % 20 == 7 else 1
        start = round((1 + i / 20) * float(0.5 + torch.rand((), generator=rng)), 3)
        given["damages"][name] = {2: start, 4: round(start / 16, 3)}
        given["sizes"][name] = {2: 2 * unit, 4: 4 * unit}
        given["times"][name] = {2: 1.0, 4: 2.0} if i > 130 else {2: 0.0, 4: 0.0}
    half = {name: 4 if i % 2 and i < 132 else 2 for i, name in enumerate(given["damages"])}
    return totals(given, half)


def many_options(rng: torch.Generator) -> dict:
    """One layer has 140 options and another two; the best one is among the last."""
    given = tables(rng, [list(range(1, 141)), [2, 3]])
    given["damages"]["layer 0"] = {
        b: round(2.0 / b + (0.001 if b % 2 else 0.0), 6) for b in range(1, 141)
    }
    given["times"]["layer 0"] = {b: 1.0 + b % 3 / 10 for b in range(1, 141)}
    return totals(given, {"layer 0": pick(rng, 133, 135, 139), "layer 1": pick(rng, 2, 3)})


def allocation_inputs(rng: torch.Generator) -> dict:
    kind = turn(rng, *KINDS)
    if kind in ("too late", "too large"):
        return impossible(rng, kind)
    others = {
        "slow when narrow": slow_when_narrow,
        "nothing": nothing,
        "many layers": many_layers,
        "many options": many_options,
    }
    if kind in others:
        return others[kind](rng)
    if kind == "one layer":
        given = tables(rng, [[2, 3, 4]], whole=True)
        return totals(given, some(rng, given))
    if kind == "unlike options":
        given = tables(
            rng, [[4], [2, 4], [2, 3, 4, 5, 8], [1, 8], [3]], (1.0, 1.7, 1.2, 2.1, 1.5), whole=True
        )
        return totals(given, some(rng, given))
    return until(
        rng,
        lambda rng: plain(rng, kind),
        lambda given: kind not in TOLD or tells_apart(given, TOLD[kind]),
    )


TOLD = {
    "plain": (greedy, without_time),
    "floats": (greedy,),
    "plain, one layer odd": (greedy, without_time),
}


def tells_apart(given: dict, wrong: tuple) -> bool:
    best = value(given, allocate(**given))
    try:
        return all(value(given, function(**given)) != best for function in wrong)
    except ValueError:  # one refuses: told by that
        return True
