"""Right and wrong answers to the exercises of codebooks."""

import itertools
import math

import numpy as np
import torch

from course_utils.quantization import trellis
from course_utils.theory import lattices

# --- the nearest point of E8 ---


def by_library(x):
    return lattices.nearest_e8(x)


def by_trying(x):
    """Every number to either neighbour, the best of the 256 with an even sum; whole numbers and
    halves.
    """
    turns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)), dtype=x.dtype)
    found = []
    for row in x:
        options = []
        for shift in (0.0, 0.5):
            points = torch.floor(row - shift) + turns
            options.append(points[points.sum(1) % 2 == 0] + shift)
        points = torch.cat(options)
        found.append(points[(points - row).square().sum(1).argmin()])
    return torch.stack(found)


def by_numpy(x):
    v = x.numpy()
    best, least = None, np.full(len(v), np.inf)
    for shift in (0.5, 0.0):
        q = np.rint(v - shift)
        e = v - shift - q
        at = np.abs(e).argmax(1)
        odd = q.sum(1) % 2 == 1
        rows = np.arange(len(v))
        q[rows[odd], at[odd]] += np.where(e[rows, at] >= 0, 1, -1)[odd]
        far = ((q + shift - v) ** 2).sum(1)
        best = q + shift if best is None else np.where((far < least)[:, None], q + shift, best)
        least = np.minimum(far, least)
    return best


def candidates(mend, shift_back=0.5, second=True, pick=torch.argmin):
    def answer(x):
        found = []
        for row in x:
            a, b = mend(row), mend(row - 0.5)
            distances = torch.stack([(row - a).norm(), (row - 0.5 - b).norm()])
            found.append((a, b + shift_back)[int(pick(distances))] if second else a)
        return torch.stack(found)

    return answer


def mending(at, by):
    def mend(row):
        q = row.round()
        if int(q.sum()) % 2:
            i = at(row - q)
            q[i] = q[i] + by(row[i] - q[i])
        return q

    return mend


def worst(e):
    return int(e.abs().argmax())


def toward(e):
    return 1.0 if e > 0 else -1.0


# --- reading a trellis ---


def by_states(codes, bits, state_bits, values):
    return values[trellis.states_of(torch.tensor([codes]), bits, state_bits)[0]]


def by_text(codes, bits, state_bits, values):
    ring = "".join(format(c, f"0{bits}b") for c in codes)
    long = ring + ring
    return [
        float(values[int(long[: len(ring) + (t + 1) * bits][-state_bits:], 2)])
        for t in range(len(codes))
    ]


def by_deque(codes, bits, state_bits, values):
    stream = [(c >> b) & 1 for c in codes for b in reversed(range(bits))]
    found = []
    for t in range(len(codes)):
        state = 0
        for back in range(state_bits):
            state += stream[((t + 1) * bits - 1 - back) % len(stream)] << back
        found.append(values[state])
    return tuple(found)


def pushed(start, push, read="after", cut=True):
    def answer(codes, bits, state_bits, values):
        mask = 2**state_bits - 1
        state, found = start(codes, bits, state_bits), []
        for c in codes:
            after = push(state, c, bits, state_bits)
            after = after % (mask + 1) if cut else min(after, mask)
            found.append(values[after if read == "after" else state % (mask + 1)])
            state = after
        return torch.stack(found)

    return answer


def ring_start(codes, bits, state_bits):
    state = 0
    for c in codes:
        state = (state * 2**bits + c) % 2**state_bits
    return state


def low(state, c, bits, state_bits):
    return state * 2**bits + c


# --- one step of Viterbi ---


def by_loop(cost, x, values, bits):
    new, came = [], []
    for s in range(len(cost)):
        best = min(
            (float(cost[p]), p)
            for p in range(len(cost))
            if (p << bits) % len(cost) == s >> bits << bits
        )
        new.append(best[0] + (x - float(values[s])) ** 2)
        came.append(best[1])
    return torch.tensor(new, dtype=torch.float64), torch.tensor(came)


def by_view(cost, x, values, bits):
    fan = 2**bits
    least, j = cost.view(fan, -1).min(0)
    came = j * (len(cost) // fan) + torch.arange(len(cost) // fan)
    return least.repeat_interleave(fan) + (values - x).square(), came.repeat_interleave(fan)


def by_pushing(cost, x, values, bits):
    """Forwards: every old state offers its cost to the states that it can reach."""
    n = len(cost)
    new, came = np.full(n, np.inf), np.zeros(n, dtype=int)
    for p in range(n):
        for code in range(2**bits):
            s = ((p << bits) | code) % n
            if float(cost[p]) < new[s]:
                new[s], came[s] = float(cost[p]), p
    return new + (values.numpy() - x) ** 2, came


def stepped(parents, error=lambda x, v: (x - v) ** 2, best=min, answer=lambda chosen, all_: chosen):
    def step(cost, x, values, bits):
        new, came = [], []
        for s in range(len(cost)):
            options = parents(s, bits, len(cost))
            chosen = best(options, key=lambda p: float(cost[p]))
            new.append(float(cost[chosen]) + error(x, float(values[s])))
            came.append(answer(chosen, options))
        return torch.tensor(new, dtype=torch.float64), torch.tensor(came)

    return step


def true_parents(s, bits, n):
    return [(s >> bits) + j * (n >> bits) for j in range(2**bits)]


def error_of_the_old(cost, x, values, bits):
    new, came = [], []
    for s in range(len(cost)):
        options = {
            p: float(cost[p]) + (x - float(values[p])) ** 2
            for p in true_parents(s, bits, len(cost))
        }
        came.append(min(options, key=options.get))
        new.append(options[came[-1]])
    return torch.tensor(new, dtype=torch.float64), torch.tensor(came)


# --- what codebooks really cost ---


def by_parts(shapes, offers, budget):
    weights = sum(r * c for r, c in shapes)
    best = None
    for name in sorted(offers):
        o = offers[name]
        bits = 0.0
        for rows, columns in shapes:
            bits += rows * 16
            bits += (
                (rows * columns // o["width"]) * o["codebooks"] * (o["entries"].bit_length() - 1)
            )
            if not o["shared"]:
                bits += 16 * o["codebooks"] * o["entries"] * o["width"]
        if o["shared"]:
            bits += 16 * o["codebooks"] * o["entries"] * o["width"]
        if bits / weights <= budget and (best is None or bits / weights > best[1]):
            best = name, bits / weights
    return best


def by_bytes(shapes, offers, budget):
    count = np.array([r * c for r, c in shapes])
    rates = {}
    for name, o in offers.items():
        code = count / o["width"] * o["codebooks"] * np.log2(o["entries"]) / 8
        scale = np.array([2 * r for r, _ in shapes])
        book = 2 * o["codebooks"] * o["entries"] * o["width"]
        rates[name] = (
            8
            * (code.sum() + scale.sum() + book * (1 if o["shared"] else len(shapes)))
            / count.sum()
        )
    return max(((n, v) for n, v in rates.items() if v <= budget), key=lambda pair: pair[1])


def by_sorting(shapes, offers, budget):
    rates = [(priced()(shapes, o), n) for n, o in offers.items()]
    value, name = [pair for pair in sorted(rates) if pair[0] <= budget][-1]
    return [name, torch.tensor(value)]


def priced(scale=16.0, book=16.0, sets=lambda shared, n: 1 if shared else n, code=math.log2):
    def price(shapes, o):
        total = sets(o["shared"], len(shapes)) * o["codebooks"] * o["entries"] * o["width"] * book
        for r, c in shapes:
            total += r * scale + r * c / o["width"] * o["codebooks"] * code(o["entries"])
        return total / sum(r * c for r, c in shapes)

    return price


def chosen(price, cheapest=False):
    def answer(shapes, offers, budget):
        rates = {n: price(shapes, o) for n, o in offers.items()}
        fitting = {n: v for n, v in rates.items() if v <= budget}
        name = (
            min(rates, key=rates.get) if cheapest or not fitting else max(fitting, key=fitting.get)
        )
        return name, rates[name]

    return answer


def averaged(shapes, o):
    return sum(priced()([s], o) for s in shapes) / len(shapes)


RIGHT = {
    "codebooks.nearest_e8": [by_library, by_trying, by_numpy, candidates(mending(worst, toward))],
    "codebooks.read_trellis": [by_states, by_text, by_deque, pushed(ring_start, low)],
    "codebooks.viterbi_step": [by_loop, by_view, by_pushing, stepped(true_parents)],
    "codebooks.best_offer": [by_parts, by_bytes, by_sorting, chosen(priced())],
}
WRONG = {
    "codebooks.nearest_e8": [
        (candidates(lambda row: row.round()), "sum_ignored"),
        (candidates(mending(lambda e: 0, toward)), "first_number"),
        (candidates(mending(lambda e: int(e.abs().argmin()), toward)), "least_error"),
        (candidates(mending(lambda e: int(e.argmax()), toward)), "signed_error"),
        (candidates(mending(worst, lambda e: -toward(e))), "wrong_way"),
        (candidates(mending(worst, lambda e: 1.0)), "always_up"),
        (candidates(mending(worst, toward), second=False), "whole_only"),
        (candidates(mending(worst, toward), shift_back=0.0), "not_moved_back"),
        (candidates(mending(worst, toward), pick=torch.argmax), "farther"),
        (lambda x: torch.round(2 * x) / 2, None),
    ],
    "codebooks.read_trellis": [
        (pushed(lambda *_: 0, low), "starts_empty"),
        (pushed(lambda c, k, n: ring_start(c[: math.ceil(n / k)], k, n), low), "starts_with_first"),
        (lambda codes, bits, state_bits, values: values[torch.tensor(codes)], "no_memory"),
        (pushed(ring_start, low, read="before"), "one_late"),
        (pushed(ring_start, low, cut=False), "not_cut"),
        (
            pushed(
                lambda c, k, n: [s := 0, *[s := s // 2**k + v * 2 ** (n - k) for v in c]][-1],
                lambda s, c, k, n: s // 2**k + c * 2 ** (n - k),
            ),
            "newest_on_top",
        ),
        (
            pushed(
                lambda c, k, n: [s := 0, *[s := ((s << 1) | v) % 2**n for v in c]][-1],
                lambda s, c, k, n: (s << 1) | c,
            ),
            "one_bit",
        ),
        (
            lambda codes, bits, state_bits, values: torch.zeros(len(codes), dtype=torch.float64),
            None,
        ),
    ],
    "codebooks.viterbi_step": [
        (stepped(lambda s, k, n: [(s >> k << k) + j for j in range(2**k)]), "neighbours"),
        (
            stepped(
                lambda s, k, n: [(s >> k << k) + j for j in range(2**k)],
                answer=lambda p, options: options.index(p),
            ),
            "as_given",
        ),
        (stepped(lambda s, k, n: [(s << k) % n + j for j in range(2**k)]), "children"),
        (stepped(lambda s, k, n: list(range(n))), "any_state"),
        (stepped(true_parents, best=max), "worst"),
        (stepped(true_parents, error=lambda x, v: abs(x - v)), "absolute"),
        (error_of_the_old, "old_value"),
        (stepped(true_parents, answer=lambda p, options: options.index(p)), "which_of_few"),
        (stepped(true_parents, error=lambda x, v: 0.0), "cost_forgotten"),
        (lambda cost, x, values, bits: (cost, torch.arange(len(cost))), None),
    ],
    "codebooks.best_offer": [
        (chosen(priced(book=0)), "codebooks_free"),
        (chosen(priced(sets=lambda shared, n: 1)), "always_shared"),
        (chosen(priced(sets=lambda shared, n: n)), "never_shared"),
        (chosen(priced(scale=0)), "no_scales"),
        (chosen(priced(code=lambda entries: 8)), "eight_bit_codes"),
        (chosen(priced(book=2)), "bytes_for_bits"),
        (chosen(priced(book=32)), "float32"),
        (chosen(averaged), "mean_of_layers"),
        (chosen(priced(), cheapest=True), "cheapest"),
        (lambda shapes, offers, budget: ("A", budget), None),
    ],
}
