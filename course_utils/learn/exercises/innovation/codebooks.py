"""Lesson 5.3, part B: the nearest point of E₈, reading a trellis, one step of Viterbi, and what
codebooks really cost.
"""

import math

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn

LESSON = "5.3-rotations-and-codebooks"

# --- the nearest point of E8 ---


def eights(rng: torch.Generator) -> dict:
    """Vectors of both kinds: near whole and near half numbers, with and without a sum that must be
    mended, some negative and far.
    """
    x = torch.randn(10, 8, generator=rng, dtype=torch.float64) * turn(rng, 0.7, 1.5, 4.0)
    x[:5] = torch.round(x[:5]) + 0.3 * (torch.rand(5, 8, generator=rng, dtype=torch.float64) - 0.5)
    x[5:8] = (
        torch.floor(x[5:8])
        + 0.5
        + 0.3 * (torch.rand(3, 8, generator=rng, dtype=torch.float64) - 0.5)
    )
    return {"x": x}


def _even(x: Tensor) -> Tensor:
    """The nearest whole vector with an even sum: rounded; where the sum is odd, the worst rounded
    number goes the other way.
    """
    found = torch.round(x)
    for row, given in zip(found, x, strict=True):
        if int(row.sum()) % 2:
            worst = int((given - row).abs().argmax())
            row[worst] += 1.0 if given[worst] > row[worst] else -1.0
    return found


def nearest_e8(x: Tensor) -> Tensor:
    """The nearer of the nearest point of D₈ and the nearest point of D₈ + ½."""
    first, second = _even(x), _even(x - 0.5) + 0.5
    nearer = (x - first).square().sum(1) <= (x - second).square().sum(1)
    return torch.where(nearer[:, None], first, second)


def e8_with(
    even=_even, choose=lambda x, a, b: (x - a).square().sum(1) <= (x - b).square().sum(1), back=0.5
):
    def answer(x):
        first, second = even(x), even(x - 0.5)
        return torch.where(choose(x, first, second + 0.5)[:, None], first, second + back)

    return answer


def even_with(
    which=lambda error: int(error.abs().argmax()), step=lambda g, r: 1.0 if g > r else -1.0
):
    def even(x):
        found = torch.round(x)
        for row, given in zip(found, x, strict=True):
            if int(row.sum()) % 2:
                at = which(given - row)
                row[at] += step(given[at], row[at])
        return found

    return even


# --- reading a trellis ---


def stream(rng: torch.Generator) -> dict:
    """Registers whose length the bits divide, and such that they do not; codes whose first ones see
    the row's end.
    """
    bits, state_bits = turn(rng, (2, 4), (1, 3), (2, 5), (3, 6), (2, 2))
    count = pick(rng, 7, 8, 9)
    codes = torch.randint(2**bits, (count,), generator=rng)
    codes[-1] = 2**bits - 1
    return {
        "codes": codes.tolist(), "bits": bits, "state_bits": state_bits,
        "values": torch.randn(2**state_bits, generator=rng, dtype=torch.float64),
    }  # fmt: skip


def read_trellis(codes: list, bits: int, state_bits: int, values: Tensor) -> Tensor:
    """values[state_t], state = (state · 2^k + code) mod 2^L, the register first filled by the row's
    own last codes.
    """
    state, found = 0, []
    for code in codes + codes:
        state = ((state << bits) | code) % 2**state_bits
        found.append(values[state])
    return torch.stack(found[len(codes) :])


def _read(
    codes,
    bits,
    state_bits,
    values,
    *,
    start="ring",
    push=None,
    take=lambda before, after: after,
    cut=True,
):
    state, mask = 0, 2**state_bits - 1
    push = push or (lambda s, c: (s << bits) | c)
    if start == "ring":
        for code in codes:
            state = push(state, code) & mask
    elif start == "first":
        for code in codes[: -(-state_bits // bits)]:
            state = push(state, code) & mask
    found = []
    for code in codes:
        after = push(state, code)
        after = after & mask if cut else min(after, mask)
        found.append(values[take(state, after)])
        state = after
    return torch.stack(found)


def trellis_with(**changes):
    def answer(codes, bits, state_bits, values):
        return _read(codes, bits, state_bits, values, **changes)

    return answer


def newest_on_top(codes, bits, state_bits, values):
    """The new bits enter at the other end."""
    return _read(
        codes, bits, state_bits, values, push=lambda s, c: (s >> bits) | (c << (state_bits - bits))
    )


def one_bit_at_a_time(codes, bits, state_bits, values):
    return _read(codes, bits, state_bits, values, push=lambda s, c: (s << 1) | c)


# --- one step of Viterbi ---


def step_inputs(rng: torch.Generator) -> dict:
    bits, state_bits = turn(rng, (1, 3), (2, 4), (3, 5), (2, 5))
    states = 2**state_bits
    return {
        "cost": 3 * torch.rand(states, generator=rng, dtype=torch.float64),
        "x": float(torch.randn((), generator=rng)),
        "values": torch.randn(states, generator=rng, dtype=torch.float64),
        "bits": bits,
    }


def viterbi_step(cost: Tensor, x: float, values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """New costs (x − value[s])² + the least old cost of the 2^k states from which s can come, and
    which one that was.
    """
    s = torch.arange(len(cost))
    before = (s >> bits)[:, None] + torch.arange(2**bits) * (len(cost) >> bits)
    best = cost[before].min(1)
    return best.values + (x - values) ** 2, before.gather(1, best.indices[:, None])[:, 0]


def _parents(states: int, bits: int) -> Tensor:
    """(states, 2^k): (s >> k) + j · 2^(L − k), ascending."""
    s = torch.arange(states)
    return (s >> bits)[:, None] + torch.arange(2**bits) * (states >> bits)


def _sharing_high_bits(states: int, bits: int) -> Tensor:
    return (torch.arange(states) >> bits << bits)[:, None] + torch.arange(2**bits)


def _step(
    cost,
    x,
    values,
    bits,
    *,
    parents=_parents,
    best=lambda old: old.min(1),
    own=lambda x, v: (x - v) ** 2,
    came=None,
):
    before = parents(len(cost), bits)
    found = best(cost[before])
    at = before.gather(1, found.indices[:, None])[:, 0]
    return found.values + own(x, values), at if came is None else came(found.indices, at)


def step_with(**changes):
    def answer(cost, x, values, bits):
        return _step(cost, x, values, bits, **changes)

    return answer


def parent_before(cost, x, values, bits):
    """The error at the state that was left."""
    new, at = _step(cost + (x - values) ** 2, x, values, bits, own=lambda x, v: 0.0)
    return new, at


# --- what codebooks really cost ---


def offers(rng: torch.Generator) -> dict:
    """Layers of one small or large model, four offers; the one of most code bits is often over the
    budget once its codebooks are counted.
    """
    wide = turn(rng, 64, 512, 192, 1024)
    shapes = [(wide, wide), (wide // 2, wide), (2 * wide, wide), (wide, 2 * wide)] * pick(rng, 1, 3)
    every = [
        (8, 2, 256, True),
        (8, 2, 256, False),
        (8, 1, 256, False),
        (4, 1, 256, True),
        (8, 3, 64, True),
        (4, 1, 64, False),
        (8, 4, 16, True),
    ]
    chosen = [every[i] for i in torch.randperm(len(every), generator=rng)[:4].tolist()]
    names = [("A", "B", "C", "D")[i] for i in torch.randperm(4, generator=rng).tolist()]
    offered = {
        n: dict(zip(("width", "codebooks", "entries", "shared"), o, strict=True))
        for n, o in zip(names, chosen, strict=True)
    }
    rates = sorted(real_bits(shapes, **o) for o in offered.values())
    return {"shapes": shapes, "offers": offered, "budget": rates[turn(rng, 1, 2, 3, 0)] + 1e-6}


def real_bits(
    shapes, width, codebooks, entries, shared, *, scale=16, number=16, code=None, all_sets=None
) -> float:
    """Bits a weight: codes of log2(entries) bits, a scale of 16 bits a row, codebooks of 16-bit
    numbers, once or for each layer.
    """
    code = math.log2(entries) if code is None else code(entries)
    total = sum(rows * (columns // width * codebooks * code + scale) for rows, columns in shapes)
    sets = (1 if shared else len(shapes)) if all_sets is None else all_sets(len(shapes), shared)
    total += sets * codebooks * entries * width * number
    return total / sum(rows * columns for rows, columns in shapes)


def best_offer(shapes: list, offers: dict, budget: float) -> tuple[str, float]:
    """The offer of the most real bits a weight that still fits the budget, and these bits."""
    weights = sum(rows * columns for rows, columns in shapes)
    rates = {}
    for name, offer in offers.items():
        codes = weights / offer["width"] * offer["codebooks"] * math.log2(offer["entries"])
        sets = 1 if offer["shared"] else len(shapes)
        vectors = 16 * sets * offer["codebooks"] * offer["entries"] * offer["width"]
        rates[name] = (codes + 16 * sum(rows for rows, _ in shapes) + vectors) / weights
    name = max((name for name in rates if rates[name] <= budget), key=rates.__getitem__)
    return name, rates[name]


def _offer(shapes, offers, budget, **changes):
    rates = {name: real_bits(shapes, **offer, **changes) for name, offer in offers.items()}
    good = [name for name in rates if rates[name] <= budget] or [min(rates, key=rates.__getitem__)]
    name = max(good, key=rates.__getitem__)
    return name, rates[name]


def offer_with(**changes):
    return lambda shapes, offers, budget: _offer(shapes, offers, budget, **changes)


def mean_of_layers(shapes, offers, budget):
    """Each layer's bits a weight, averaged without their sizes, as if it alone had the codebooks'
    share.
    """
    rates = {n: sum(real_bits([s], **o) for s in shapes) / len(shapes) for n, o in offers.items()}
    good = [n for n in rates if rates[n] <= budget] or [min(rates, key=rates.__getitem__)]
    name = max(good, key=rates.__getitem__)
    return name, rates[name]


def cheapest_offer(shapes, offers, budget):
    rates = {n: real_bits(shapes, **o) for n, o in offers.items()}
    name = min(rates, key=rates.__getitem__)
    return name, rates[name]


EXERCISES = [
    Exercise(
        "codebooks.nearest_e8",
        eights,
        nearest_e8,
        {
            "sum_ignored": e8_with(even=torch.round),
            "first_number": e8_with(even=even_with(which=lambda e: 0)),
            "least_error": e8_with(even=even_with(which=lambda e: int(e.abs().argmin()))),
            "signed_error": e8_with(even=even_with(which=lambda e: int(e.argmax()))),
            "wrong_way": e8_with(even=even_with(step=lambda g, r: -1.0 if g > r else 1.0)),
            "always_up": e8_with(even=even_with(step=lambda g, r: 1.0)),
            "whole_only": e8_with(choose=lambda x, a, b: torch.ones(len(x), dtype=torch.bool)),
            "not_moved_back": e8_with(back=0.0),
            "farther": e8_with(
                choose=lambda x, a, b: (x - a).square().sum(1) > (x - b).square().sum(1)
            ),
        },
        lesson=LESSON,
        kind="step",
        difficulty=2,
        minutes=8,
        trials=6,
    ),
    Exercise(
        "codebooks.read_trellis",
        stream,
        read_trellis,
        {
            "starts_empty": trellis_with(start="zero"),
            "starts_with_first": trellis_with(start="first"),
            "no_memory": lambda codes, bits, state_bits, values: torch.stack(
                [values[c] for c in codes]
            ),
            "one_late": trellis_with(take=lambda before, after: before),
            "not_cut": trellis_with(cut=False),
            "newest_on_top": newest_on_top,
            "one_bit": one_bit_at_a_time,
        },
        lesson=LESSON,
        kind="step",
        difficulty=2,
        minutes=7,
        trials=10,
    ),
    Exercise(
        "codebooks.viterbi_step",
        step_inputs,
        viterbi_step,
        {
            "as_given": step_with(parents=_sharing_high_bits, came=lambda few, at: few),
            "neighbours": step_with(parents=_sharing_high_bits),
            "children": step_with(
                parents=lambda n, bits: (
                    ((torch.arange(n) << bits) % n)[:, None] + torch.arange(2**bits)
                )
            ),
            "any_state": step_with(parents=lambda n, bits: torch.arange(n).expand(n, n)),
            "worst": step_with(best=lambda old: old.max(1)),
            "absolute": step_with(own=lambda x, v: (x - v).abs()),
            "old_value": parent_before,
            "which_of_few": step_with(came=lambda few, at: few),
            "cost_forgotten": step_with(own=lambda x, v: 0.0),
        },
        lesson=LESSON,
        kind="debug",
        difficulty=3,
        minutes=9,
        trials=8,
    ),
    Exercise(
        "codebooks.best_offer",
        offers,
        best_offer,
        {
            "codebooks_free": offer_with(all_sets=lambda n, shared: 0),
            "always_shared": offer_with(all_sets=lambda n, shared: 1),
            "never_shared": offer_with(all_sets=lambda n, shared: n),
            "no_scales": offer_with(scale=0),
            "eight_bit_codes": offer_with(code=lambda entries: 8),
            "bytes_for_bits": offer_with(number=2),
            "float32": offer_with(number=32),
            "mean_of_layers": mean_of_layers,
            "cheapest": cheapest_offer,
        },
        lesson=LESSON,
        kind="decide",
        difficulty=2,
        minutes=7,
        trials=12,
    ),
]
