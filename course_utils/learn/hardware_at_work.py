"""What lesson 5.5 measures: forecasts of models that are not in the table, models pruned to a
latency, inexact devices, runtimes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils import evaluation
from course_utils.evaluation import allocation, by_window
from course_utils.evaluation.comparison import plain
from course_utils.models import walk
from course_utils.quantization import rtn
from course_utils.systems import analog, latency, shrinking
from course_utils.systems.latency import LatencyTable, Part
from course_utils.theory import noise

from .plots import table

HEADS, CHANNELS = (8, 6, 4, 2), (512, 384, 256, 128)


def wanted(hidden: int = 256, vocabulary: int = 1024) -> list[Part]:
    """The parts that the lesson measures: four numbers of heads, four of channels, the ends."""
    return [
        ("ends", hidden, vocabulary),
        *(("attention", hidden, h) for h in HEADS),
        *(("mlp", hidden, c) for c in CHANNELS),
    ]


def held_out() -> dict[str, PreTrainedModel]:
    """Models of other depths and widths than the bundled one: name → random Llama."""
    shapes = {
        "3 blocks": (6, 384, 3),
        "6 narrow": (2, 128, 6),
        "4 wide": (8, 512, 4),
        "10 mixed": (4, 256, 10),
    }
    return {f"{name}\n{h} heads, {c}": latency.llama(h, c, b) for name, (h, c, b) in shapes.items()}


def forecasts(
    known: LatencyTable,
    whole: Mapping[str, float],
    models: Mapping[str, PreTrainedModel],
    anchor: str,
) -> dict[str, dict[str, float]]:
    """Forecast over measured for every model but `anchor`: by the table, and by operations at the
    speed that `anchor` reaches.
    """
    tokens = known.batch * known.context
    speed = latency.flops(models[anchor], tokens) / whole[anchor]
    others = {n: m for n, m in models.items() if n != anchor}
    return {
        "sum of the table": {n: known.total(m) / whole[n] for n, m in others.items()},
        "count of operations": {
            n: latency.flops(m, tokens) / speed / whole[n] for n, m in others.items()
        },
    }


def mean_error(ratios: Mapping[str, float]) -> float:
    """The mean distance of ratios from 1."""
    return sum(abs(r - 1) for r in ratios.values()) / len(ratios)


class Pruning:
    """Parts of a model refitted on one calibration set, their damages on another, their times from
    a table.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        text: Any,
        known: LatencyTable,
        *,
        seed: int,
        n: int = 8,
    ) -> None:
        fit, judge = (
            evaluation.calibration(tokenizer, text, n=n, context=64, seed=100 * k + seed)
            for k in (1, 2)
        )
        self.model, self.options = (
            model,
            shrinking.candidates(model, fit, heads=HEADS, channels=CHANNELS),
        )
        self.damages = shrinking.damages(model, judge, self.options)
        self.times, self.weights = (
            shrinking.times(model, self.options, known),
            shrinking.weights(model, self.options),
        )
        self.whole = {name: max(widths) for name, widths in self.options.items()}
        self.rest = known.of(("ends", model.config.hidden_size, model.config.vocab_size))

    def seconds(self, chosen: Mapping[str, int]) -> float:
        """The forecast of a pass, from the widths chosen for each layer."""
        return self.rest + sum(self.times[n][w] for n, w in chosen.items())

    def exact(self, target: float) -> dict[str, int]:
        """The least total damage whose forecast is at most `target` of the whole model's."""
        return allocation.allocate(
            self.damages, self.times, target * self.seconds(self.whole) - self.rest
        )

    def same(self, target: float) -> dict[str, int]:
        """The same share of every part; then part by part, first block first, the next wider one
        while it keeps the target.
        """
        most = target * self.seconds(self.whole)
        chosen = shrinking.uniform(self.options, self.times, most - self.rest)
        for name in chosen:
            wider = {
                **chosen,
                name: min(
                    (w for w in self.options[name] if w > chosen[name]), default=chosen[name]
                ),
            }
            chosen = wider if self.seconds(wider) <= most else chosen
        return chosen

    def by_chance(self, target: float, seed: int) -> dict[str, int]:
        """Parts in random order are narrowed one step at a time, until the forecast keeps the
        target.
        """
        chosen, rng = dict(self.whole), torch.Generator().manual_seed(seed)
        names = list(chosen)
        while self.seconds(chosen) > target * self.seconds(self.whole):
            name = names[int(torch.randint(len(names), (), generator=rng))]
            chosen[name] = max(
                (w for w in self.options[name] if w < chosen[name]), default=chosen[name]
            )
        return chosen

    def build(self, chosen: Mapping[str, int]) -> PreTrainedModel:
        """The pruned model."""
        return shrinking.build(self.model, self.options, chosen)


def bit_damages(
    model: PreTrainedModel, alpha: Mapping[str, float], widths: Sequence[int]
) -> dict[str, dict[int, float]]:
    """α t² for plain rounding with groups of 64: the linear forecast of lesson 4.3."""
    found = {}
    for name, module in walk.compressible(model).items():
        w = walk.weight_of(module).detach().float()
        found[name] = {
            b: alpha[name]
            * noise.relative_error(w, rtn.quantize_layer(w, bits=b, group_size=64).weight)
            for b in widths
        }
    return found


def on_devices(
    model: PreTrainedModel, ids: Tensor, levels: Sequence[float]
) -> dict[str, Callable[[int], Tensor]]:
    """Rows for `compare`: KL of each window after programming with one range for a matrix, and with
    one for each output.
    """
    goal = by_window.predictions(model, ids)

    def row(level: float, kind: str) -> Callable[[int], Tensor]:
        def of(seed: int) -> Tensor:
            rng = torch.Generator().manual_seed(seed)
            made = analog.on_device(
                model, program_with=lambda w: analog.program(w, level, kind, rng)
            )
            return by_window.kl_by_window(goal, made, ids)

        return of

    return {
        f"{level:.0%}, {label}": row(level, kind)
        for level in levels
        for kind, label in (("array", "one range"), ("column", "a range an output"))
    }


def most_unlike(model: PreTrainedModel) -> tuple[str, Tensor]:
    """The layer whose largest range of an output is farthest above the median one:
    (name, weight).
    """

    def unlike(weight: Tensor) -> float:
        top = analog.ranges(weight)
        return float(top.max() / top.median())

    weights = {name: walk.weight_of(m).detach() for name, m in walk.compressible(model).items()}
    name = max(weights, key=lambda n: unlike(weights[n]))
    return name, weights[name]


def runtimes() -> None:
    """The table that `make deploy` made, with its command and date."""
    held = plain("deploy")
    table(held["rows"], held["head"], f"{held['command']}, {held['date']}")
