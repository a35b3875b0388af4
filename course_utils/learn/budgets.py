"""Lab 5.2: a model that can be run with some of its layers rounded, tables of bytes and times, and
what a choice of bits is worth.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils import evaluation
from course_utils.errors import CompressionError
from course_utils.evaluation import by_window, replay
from course_utils.models import walk
from course_utils.quantization import hqq

WIDTHS, GROUP, RUNS = (2, 3, 4), 64, 400
Table = dict[str, dict[int, float]]
# nanoseconds for a weight, at 2, 3 and 4 bits; and how far above two bits everywhere the time may
# be
SPEEDS = (
    ((1.0, 1.7, 1.2), 1.06), ((1.2, 1.5, 1.0), 1.02), ((1.0, 1.2, 1.9), 1.12),
    ((1.3, 1.0, 1.5), 0.97),
)  # fmt: skip


@functools.lru_cache(maxsize=2)
def rounded(model: PreTrainedModel) -> dict[tuple[str, int], Tensor]:
    """{(layer, bits): its weights in HQQ with unbiased scales}, groups of 64 or whole rows where 64
    does not divide them.
    """
    found = {}
    for name, module in walk.compressible(model).items():
        weight = walk.weight_of(module).detach()
        for bits in WIDTHS:
            made = hqq.quantize_layer(
                weight,
                bits=bits,
                group_size=group_of(weight.shape[1]),
                fit_scale=True,
                unbiased=True,
            )
            found[name, bits] = made.weight.to(weight.dtype)
    return found


def group_of(columns: int) -> int:
    """The group size for rows of so many weights."""
    return columns if columns % GROUP else GROUP


class Target:
    """A model, a calibration text, a test text, all of one seed.

    `shapes`: {layer: (rows, columns)}; `errors`: {layer: {bits: squared error of the weights}};
    `next_tokens` (windows, tokens):
    the tokens that come after those of the calibration text.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: Any, *, seed: int,
        windows: int = 16, context: int = 64,
        limit: int = RUNS,
    ) -> None:  # fmt: skip
        self.model, self.seed, self.limit, self.runs = copy.deepcopy(model).eval(), seed, limit, 0
        self.options, self.layers = rounded(model), walk.compressible(self.model)
        self.place = replay.block_of(self.model)
        ids = evaluation.calibration(
            tokenizer, text, n=windows, context=context + 1, seed=1000 + seed
        )
        self.ids, self.next_tokens = ids[:, :-1], ids[:, 1:]
        weights = {name: walk.weight_of(module) for name, module in self.layers.items()}
        self.shapes = {name: tuple(w.shape) for name, w in weights.items()}
        self.errors = {
            n: {b: float((self.options[n, b] - w).square().sum()) for b in WIDTHS}
            for n, w in weights.items()
        }
        self._from, self._open = -1, ExitStack()

    def __repr__(self) -> str:
        return f"Target(seed={self.seed})"

    @torch.no_grad()
    def run(self, bits: Mapping[str, int], text: str = "calibration") -> Tensor:
        """(windows, tokens, vocabulary) log-probabilities on the calibration text with the layers
        in `bits` rounded, the others as they are.
        """
        if text != "calibration":
            raise CompressionError(
                f"text={text!r}: only the calibration text is there; "
                "what is chosen on the test text is not worth what it seems."
            )
        self.runs += 1
        if self.runs > self.limit:
            raise CompressionError(
                f"run: {self.limit} runs are allowed; each layer and width once takes "
                f"{1 + len(WIDTHS) * len(self.layers)}."
            )
        chosen = self._checked(bits)
        first = min((self.place.get(name, 0) for name in chosen), default=0)
        if first != self._from:  # the blocks before it give what they gave
            self._open.close()
            self._open.enter_context(replay.before(self.model, first, self.ids))
            self._from = first
        return self._with(chosen, lambda: by_window.predictions(self.model, self.ids))

    def _checked(self, bits: Mapping[str, int]) -> dict[str, int]:
        if not isinstance(bits, Mapping) or any(
            (name, width) not in self.options for name, width in bits.items()
        ):
            raise CompressionError(
                f"bits: a dict {{layer: bits}} with layers of the tables and bits of {WIDTHS}."
            )
        return {name: int(width) for name, width in bits.items()}

    def _with(self, chosen: Mapping[str, int], act: Callable[[], Tensor]) -> Tensor:
        before = {name: walk.weight_of(self.layers[name]).clone() for name in chosen}
        try:
            for name, width in chosen.items():
                walk.weight_of(self.layers[name]).copy_(self.options[name, width])
            return act()
        finally:
            for name, weight in before.items():
                walk.weight_of(self.layers[name]).copy_(weight)

    @torch.no_grad()
    def kl(self, bits: Mapping[str, int], ids: Tensor, goal: Tensor | None = None) -> Tensor:
        """(windows,) KL from the original on other token ids (windows, context), nats a token, with
        all layers rounded as `bits` says.

        `goal`: the original's `by_window.predictions` on them, where they are at hand.
        """
        self._open.close()
        self._from = -1
        goal = by_window.predictions(self.model, ids) if goal is None else goal
        return self._with(
            self._checked(bits), lambda: by_window.kl_by_window(goal, self.model, ids)
        )

    def sizes(self, layer_bytes: Callable[[int, int, int, int], float]) -> Table:
        """{layer: {bits: bytes}} by a function of rows, columns, bits and group size."""
        return {
            n: {b: layer_bytes(rows, columns, b, group_of(columns)) for b in WIDTHS}
            for n, (rows, columns) in self.shapes.items()
        }

    def times(self) -> Table:
        """{layer: {bits: microseconds}}: a made-up machine, another one for each seed; a wider code
        may be the faster one.
        """
        speed = SPEEDS[self.seed % len(SPEEDS)][0]
        found = {}
        for name, (rows, columns) in self.shapes.items():
            found[name] = {
                b: 0.4 + rows * columns * s / 1000 for b, s in zip(WIDTHS, speed, strict=True)
            }
        return found

    def budgets(self, mean_bits: float = 2.5) -> tuple[float, float]:
        """(bytes, microseconds): codes of `mean_bits` with what stands beside them, and a share of
        what 2 bits everywhere take.
        """
        sizes, times = self.sizes(stored_bytes), self.times()
        low, high = (sum(s[b] for s in sizes.values()) for b in (2, 4))
        return low + (high - low) * (mean_bits - 2) / 2, round(
            sum(t[2] for t in times.values()) * SPEEDS[self.seed % len(SPEEDS)][1], 2
        )


def stored_bytes(rows: int, columns: int, bits: int, group_size: int) -> int:
    """What `hqq.RealZeroLinear` holds: packed codes, and two float16 numbers for each group."""
    return rows * (-(-columns * bits // 8) + 4 * -(-columns // group_size))


def total(table: Mapping[str, Mapping[int, float]], chosen: Mapping[str, int]) -> float:
    """What the chosen widths cost, added up."""
    return sum(table[name][width] for name, width in chosen.items())


def greedy(
    damages: Table, sizes: Table, times: Table, most_bytes: float, most_time: float
) -> dict[str, int]:
    """From the fastest options, always the step that keeps both budgets and saves most damage for
    each byte; once the bytes are kept.
    """
    chosen = {
        name: min(options, key=lambda b: (options[b], sizes[name][b]))
        for name, options in times.items()
    }
    while True:
        best, step = 0.0, None
        over = total(sizes, chosen) > most_bytes
        for name, old in chosen.items():
            for new in damages[name]:
                other = {**chosen, name: new}
                more = sizes[name][new] - sizes[name][old]
                if total(times, other) > most_time or (
                    more >= 0 if over else more <= 0 or total(sizes, other) > most_bytes
                ):
                    continue
                saved = damages[name][old] - damages[name][new]
                gain = saved / more if not over else -more / max(-saved, 1e-12)
                if gain > best:
                    best, step = gain, (name, new)
        if step is None:
            return chosen
        chosen[step[0]] = step[1]


def hidden_tables(seed: int, layers: int) -> dict[str, Any]:
    """Arguments of an allocation: layers of unlike sizes, times in floats that need not rise with
    the bits, budgets that some choice meets exactly.
    """
    rng = torch.Generator().manual_seed(seed)
    speed = [
        round(s, 3)
        for s in (0.5 + torch.rand(len(WIDTHS), generator=rng, dtype=torch.float64)).tolist()
    ]
    units = [(1, 2, 4)[int(torch.randint(3, (), generator=rng))] for _ in range(layers)]
    given: dict[str, Any] = {"damages": {}, "sizes": {}, "times": {}}
    for i, unit in enumerate(units):
        start = float((2 * torch.randn((), generator=rng)).exp()) * 1e-4 * unit
        falls = (0.1 + 0.5 * torch.rand(len(WIDTHS), generator=rng)).cumprod(0).tolist()
        given["damages"][f"layer {i}"] = {b: start * f for b, f in zip(WIDTHS, falls, strict=True)}
        given["sizes"][f"layer {i}"] = {b: unit * (4096 * b + 2048) for b in WIDTHS}
        given["times"][f"layer {i}"] = {
            b: 0.1 + unit * s for b, s in zip(WIDTHS, speed, strict=True)
        }
    chosen = {
        name: WIDTHS[int(torch.randint(len(WIDTHS), (), generator=rng))]
        for name in given["damages"]
    }
    return {
        **given,
        "most_bytes": total(given["sizes"], chosen),
        "most_time": total(given["times"], chosen),
    }


def milp_damage(
    damages: Table, sizes: Table, times: Table, most_bytes: float, most_time: float
) -> float:
    """The least total damage within both budgets by `scipy.optimize.milp`; infinity where there is
    none.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    pairs = [(name, bits) for name, options in damages.items() for bits in options]
    cost, size, time = (
        np.array([table[n][b] for n, b in pairs], dtype=float) for table in (damages, sizes, times)
    )
    one = np.array([[name == layer for name, _ in pairs] for layer in damages], dtype=float)
    limits = [
        LinearConstraint(one, 1, 1),
        *(
            LinearConstraint(t / (m or 1), ub=bool(m) + 1e-9)
            for t, m in ((size, most_bytes), (time, most_time))
        ),
    ]
    scale = max(float(cost.max()), 1e-300)
    found = milp(
        cost / scale,
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        constraints=limits,
        options={"mip_rel_gap": 0},
    )
    return float(cost[found.x > 0.5].sum()) if found.x is not None else float("inf")


def by_chance(target: Target, seed: int) -> dict[str, int]:
    """Layers in random order take the widest code with which a random choice still keeps both
    budgets; drawn until one keeps them.
    """
    sizes, times = target.sizes(stored_bytes), target.times()
    most_bytes, most_time = target.budgets()
    rng = torch.Generator().manual_seed(seed)
    chosen = {name: min(options, key=options.__getitem__) for name, options in times.items()}
    while total(sizes, chosen) > most_bytes:  # fewer bits where they were drawn
        name = list(chosen)[int(torch.randint(len(chosen), (), generator=rng))]
        chosen[name] = 2
    for i in torch.randperm(len(chosen), generator=rng).tolist():
        name = list(chosen)[i]
        for width in sorted(WIDTHS, reverse=True):
            other = {**chosen, name: width}
            if (
                width > chosen[name]
                and total(sizes, other) <= most_bytes
                and total(times, other) <= most_time
            ):
                chosen = other
                break
    return chosen


def judged(
    choose: Callable[..., Any],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: Any,
    *,
    seed: int,
    windows: int = 64,
) -> float:
    """KL on hidden text of the bits that `choose(run, next_tokens, errors, sizes, times,
    most_bytes, most_time)` gives.

    Raises CompressionError that says which rule is broken: layers or widths that are not there, a
    budget exceeded, too many runs.
    """
    target = Target(model, tokenizer, text, seed=seed)
    sizes, times = target.sizes(stored_bytes), target.times()
    most_bytes, most_time = target.budgets()
    chosen = choose(
        target.run,
        target.next_tokens,
        copy.deepcopy(target.errors),
        copy.deepcopy(sizes),
        copy.deepcopy(times),
        most_bytes,
        most_time,
    )
    chosen = target._checked(chosen)
    if set(chosen) != set(target.shapes):
        raise CompressionError(
            f"bits: {len(chosen)} layers are named; all {len(target.shapes)} of them need bits."
        )
    for what, table, most in (("bytes", sizes, most_bytes), ("microseconds", times, most_time)):
        if total(table, chosen) > most * (1 + 1e-9):
            raise CompressionError(
                f"{what}: {total(table, chosen):,.2f} of at most {most:,.2f}; "
                "the budget is exceeded."
            )
    ids = evaluation.text.windows(
        tokenizer, text, split="test", n=windows, context=128, seed=seed
    ).ids
    return float(target.kl(chosen, ids).mean())
