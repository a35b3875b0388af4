"""The score of a file of the challenge: its real bytes, and whether the model in it passes every
gate.

    facts_head, facts_tail   the 50 people most talked about and the 150 least: all their facts,
                             ≥ 98 %
    addition, programs, stories, sentiment
                             items that the seeds draw from the test split, ≥ 95 % right
    kl                       KL(original ‖ file) on windows that the seeds draw from the test split,
                             ≤ .02 nats a token

The original answers all 1,500 facts of the world rightly in this wording, and 200 of 200 items of
each task, so shares of the truth are shares of the original as well. **Which chance decides?**
Facts are all asked, in one wording: nothing is sampled, and the interval is the value. For the
others a gate stops a file only if the whole 95 % interval (Wilson; for KL Student's t over windows)
lies on the wrong side: a good file is stopped by bad luck in at most one of forty trials of a gate.

Whether a gate asks for much or for little stands in `LOWER` alone; each measured gate carries it.

`layout` bounds what a model may cost to run, and `SECONDS` what it does: no forward begins later
than that.
"""

import functools
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from course_utils import models
from course_utils.errors import CompressionError
from course_utils.evaluation import answers, by_window, facts, text
from course_utils.theory.intervals import interval, wilson
from course_utils.world import items

from . import file as container
from . import model as bridge

OPEN_SEEDS = (0,)
FACTS, SHARE, NATS = 0.98, 0.95, 0.02  # what the gates ask for
HEAD, TAIL = 50, 150  # people
ITEMS = {"addition": 80, "programs": 80, "stories": 80, "sentiment": 120}
GATES = ("kl", "facts_head", "facts_tail", *ITEMS)
LOWER = {"kl"}  # the gates whose value has to be low; that of the others has to be high
WINDOWS, CONTEXT = 64, 128
SECONDS = 240.0  # of running a model, from its first forward on
LOST = 1.0  # nats: beyond this nothing else is asked


class Late(CompressionError):
    """A model that runs for longer than it may."""


def score(
    content: bytes,
    seeds: Sequence[int] = OPEN_SEEDS,
    *,
    read: Callable[[bytes], Any] = container.read,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Plain values: bytes, sha256, valid, reason (one sentence if refused), seconds (of decoding),
    gates, passed.

    `seeds` draw the items. `gates[name]` is {"value", "interval": [low, high], "needed", "lower",
    "passed"}; where KL is beyond 1 nat it is the only one. `read` decodes: here, or in a process of
    its own (`grade.decoding`). A model that runs for more than `seconds` is refused.
    """
    if not seeds or not all(type(s) is int and s >= 0 for s in seeds):
        raise CompressionError("seeds: give at least one whole number, none negative.")
    began = time.perf_counter()
    try:
        model = bridge.build(*read(content))
    except CompressionError as error:
        return refused(content, str(error))
    decoding = time.perf_counter() - began
    until = time.monotonic() + seconds

    def look(*_: Any) -> None:
        if time.monotonic() > until:
            raise Late(f"running the model took longer than {seconds:g} seconds.")

    handle = model.register_forward_pre_hook(look)
    try:
        gates = measured(model, seeds)
    except Late as error:
        return refused(content, str(error))
    finally:
        handle.remove()
    passed = len(gates) > 1 and all(gate["passed"] for gate in gates.values())
    return _said(content) | {
        "valid": True,
        "reason": "",
        "seconds": decoding,
        "gates": gates,
        "passed": passed,
    }


def measured(model: Any, seeds: Sequence[int] = OPEN_SEEDS) -> dict[str, dict[str, Any]]:
    """The gates of a model in memory (a Llama with our vocabulary, float32)."""
    tokenizer = _original()[1]
    ids, target = _windows(tuple(seeds))
    with torch.inference_mode():
        gates = {"kl": _kl_gate(by_window.kl_by_window(target, model, ids))}
        if gates["kl"]["value"] > LOST:
            return gates
        known = facts.known(model, _questions())
        people = int(known.person.max()) + 1
        for name, chosen in (
            ("facts_head", known.person < HEAD),
            ("facts_tail", known.person >= people - TAIL),
        ):
            value = float(known.right[chosen].mean())
            gates[name] = _gate(name, value, (value, value), FACTS, value >= FACTS)
        asked = {
            task: [
                item
                for seed, n in _shared(seeds, count)
                for item in items(task, n=n, split="test", seed=seed)
            ]
            for task, count in ITEMS.items()
        }
        right = answers.judge(
            model, tokenizer, [item for group in asked.values() for item in group]
        )
    for task, group in asked.items():
        gates[task], right = (
            share_gate(task, sum(map(bool, right[: len(group)])), len(group)),
            right[len(group) :],
        )
    return gates


def share_gate(name: str, right: int, n: int, needed: float = SHARE) -> dict[str, Any]:
    """The gate of a share: stopped only if Wilson's whole interval lies below what is needed."""
    low, high = wilson(right, n)
    return _gate(name, right / n, (low, high), needed, high >= needed)


def _kl_gate(windows: Tensor) -> dict[str, Any]:
    """The gate of a divergence: stopped if the whole interval lies above what is allowed; 99 for
    what is no number.

    The sample may excuse half of what is allowed, not more: a few ruined windows make any interval
    wide.
    """
    value, half = interval(windows.tolist())
    if not math.isfinite(value + half):
        value, half = 99.0, 0.0
    passed = value - min(half, NATS / 2) <= NATS
    return _gate("kl", value, (max(0.0, value - half), value + half), NATS, passed)


def _gate(
    name: str, value: float, edges: tuple[float, float], needed: float, passed: bool
) -> dict[str, Any]:
    return {
        "value": value,
        "interval": list(edges),
        "needed": needed,
        "lower": name in LOWER,
        "passed": passed,
    }


def _shared(seeds: Sequence[int], count: int) -> list[tuple[int, int]]:
    """(seed, items of it), together `count`."""
    return [
        (seed, n)
        for i, seed in enumerate(seeds)
        if (n := count // len(seeds) + (i < count % len(seeds)))
    ]


@functools.cache
def _original() -> tuple[Any, Any]:
    return models.load("bundled")


@functools.cache
def _questions() -> facts.Asked:
    return facts.questions(_original()[1])


@functools.lru_cache(2)
def _windows(seeds: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Windows of the test split, and the original's predictions there."""
    model, tokenizer = _original()
    cut: Callable[..., Any] = functools.partial(
        text.windows, tokenizer, "bundled", split="test", context=CONTEXT
    )
    ids = torch.cat([cut(n=n, seed=seed).ids for seed, n in _shared(seeds, WINDOWS)])
    return ids, by_window.predictions(model, ids)


def _said(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def refused(content: bytes, reason: str) -> dict[str, Any]:
    """The score of what is no file."""
    return _said(content) | {
        "valid": False,
        "reason": reason,
        "seconds": 0.0,
        "gates": {},
        "passed": False,
    }
