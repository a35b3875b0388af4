"""Lesson 5.9, what is decided: which tokens leave early and what that costs, and what an experiment
says.
"""

import math
from typing import Any

import torch
from torch import Tensor

from course_utils.theory.intervals import quantile

from ..draws import pick, turn, until

# --- what exits cost ---


def looks(rng: torch.Generator) -> dict:
    """Distributions after each block, surer with depth; some tokens are never sure, some are sure
    and wrong.
    """

    def make(rng):
        depths, tokens, words = pick(rng, 3, 4), 8, 5
        end = torch.randn(tokens, words, generator=rng, dtype=torch.float64) * 3
        noise = torch.randn(depths, tokens, words, generator=rng, dtype=torch.float64)
        sharp = torch.linspace(0.6, 1.0, depths, dtype=torch.float64)[:, None, None]
        p = (
            sharp * end
            + noise * torch.linspace(2.5, 0.0, depths, dtype=torch.float64)[:, None, None]
        ).softmax(-1)
        return {
            "p": p,
            "threshold": pick(rng, 0.6, 0.7, 0.8),
            "block": 1.0,
            "head": pick(rng, 0.2, 0.4, 0.5),
        }

    def good(given):
        depth, same = _exits(given["p"], given["threshold"])
        return (
            len(set(depth.tolist())) >= 2
            and bool((given["p"][-1].amax(-1) < given["threshold"]).any())
            and 0 < float(same.mean()) < 1
        )

    return until(rng, make, good)


def _exits(p: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    sure = p.amax(-1) > threshold
    sure[-1] = True
    depth = sure.to(torch.int64).argmax(0)
    said = p.argmax(-1)
    return depth + 1, (said[depth, torch.arange(p.shape[1])] == said[-1]).double()


def exit_cost(p: Tensor, threshold: float, block: float, head: float) -> tuple[float, float]:
    """(mean cost of a token, share that says what the last block would say).

    A token pays each block it runs and each look.
    """
    depth, same = _exits(p, threshold)
    return float(depth.double().mean()) * (block + head), float(same.mean())


def exit_with(
    looks=lambda d, last: d, cost=None, agree=None, sure=lambda p, t: p.amax(-1) > t, never=None
):
    def answer(p, threshold, block, head):
        ready = sure(p, threshold)
        left = ready.any(0)
        ready[-1] = True
        depth = ready.to(torch.int64).argmax(0) + 1
        said = p.argmax(-1)
        same = (said[depth - 1, torch.arange(p.shape[1])] == said[-1]).double()
        each = depth.double() * block + looks(depth.double(), len(p)) * head
        if never == "left out" and bool(left.any()):
            each, same = each[left], same[left]
        return float(each.mean()), float(same.mean() if agree is None else agree(p, depth, same))

    return answer


def last_sure(p, threshold):
    """Sure only where it stays sure from there on."""
    ready = p.amax(-1) > threshold
    return ready.flip(0).cummin(0).values.flip(0)


# --- a verdict ---

DIFFERENT, SAME, UNFAIR = ("better", "worse"), "no difference seen", "unfair"


def trial(rng: torch.Generator) -> dict:
    """A small experiment: seeds that differ much from each other, paired; sometimes unlike steps or
    tuning, too few seeds, or just enough.
    """

    def make(rng):
        n, kind = (
            pick(rng, 5, 6, 8),
            turn(rng, "clear", "paired", "none", "steps", "three", "tuned", "spread", "few"),
        )
        base = (
            torch.randn(n, generator=rng, dtype=torch.float64) * (0.02 if kind == "spread" else 0.3)
            + 2
        )
        gap = {"clear": 0.12, "paired": 0.08, "none": 0.0, "spread": 0.03}.get(kind, 0.3) * pick(
            rng, 1, -1
        )
        noise = torch.randn(n, generator=rng, dtype=torch.float64) * {"spread": 0.05}.get(
            kind, 0.04
        )
        control: dict[str, Any] = {"losses": base, "steps": 400, "tuned": 4}
        idea: dict[str, Any] = {
            "losses": base + gap + noise,
            "steps": 600 if kind == "steps" else 400,
            "tuned": 12 if kind == "tuned" else 4,
        }
        if kind in ("few", "three"):
            for each in (control, idea):
                each["losses"] = each["losses"][: 2 if kind == "few" else 3]
        return {"idea": idea, "control": control, "t": quantile(0.95, len(control["losses"]) - 1)}

    def clear_of_the_border(given):
        d = given["idea"]["losses"] - given["control"]["losses"]
        half = given["t"] * float(d.std()) / math.sqrt(len(d))
        return abs(abs(float(d.mean())) / half - 1) > 0.02

    return until(rng, make, clear_of_the_border)


def verdict(idea: dict, control: dict, t: float) -> str:
    """'unfair' for unlike steps or tuning, or fewer than 3 seeds; else by Student's interval of the
    paired differences of losses.
    """
    if (
        idea["steps"] != control["steps"]
        or idea["tuned"] != control["tuned"]
        or len(idea["losses"]) < 3
    ):
        return UNFAIR
    d = idea["losses"] - control["losses"]
    half = t * float(d.std()) / math.sqrt(len(d))
    return SAME if abs(float(d.mean())) <= half else "better" if float(d.mean()) < 0 else "worse"


def verdict_with(
    half=lambda d, a, b, t: t * float(d.std()) / math.sqrt(len(d)),
    fair=("steps", "tuned", "seeds"),
    lower="better",
    only_mean=False,
):
    def answer(idea, control, t):
        a, b = idea["losses"], control["losses"]
        if any(idea[key] != control[key] for key in fair if key != "seeds") or (
            "seeds" in fair and len(a) < 3
        ):
            return UNFAIR
        d = a - b
        if not only_mean and abs(float(d.mean())) <= half(d, a, b, t):
            return SAME
        return lower if float(d.mean()) < 0 else {"better": "worse", "worse": "better"}[lower]

    return answer
