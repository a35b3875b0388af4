"""What the benchmarks that make a lesson's table share: 64 windows of 128 tokens of the validation
split, on one thread.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils import evaluation
from course_utils.models import load

WINDOWS, CONTEXT = 64, 128
PROTOCOL = f"bundled model; {WINDOWS} windows of {CONTEXT} validation tokens"


def bundled() -> tuple[
    PreTrainedModel, PreTrainedTokenizerBase, Callable[[PreTrainedModel], Tensor]
]:
    """The bundled model, its tokenizer, and divergences(subject): KL(model ‖ subject) in nats for
    each window, (64,).
    """
    torch.set_num_threads(1)
    model, tokenizer = load("bundled")
    ids = evaluation.text.windows(
        tokenizer, "bundled", split="validation", n=WINDOWS, context=CONTEXT, seed=0
    ).ids
    goal = evaluation.predictions(model, ids)
    return model, tokenizer, lambda subject: evaluation.kl_by_window(goal, subject, ids)


class Kept:
    """What a long benchmark has measured so far, in ~/.cache/course-benchmarks/NAME.json, so that a
    stopped run goes on.

    With `--seconds N` the run stops by itself behind the measurement that passes N seconds;
    `--anew` forgets what was kept. `words` are the other words of the command line.
    """

    def __init__(self, name: str) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--seconds", type=float, default=float("inf"))
        parser.add_argument("--anew", action="store_true")
        given, self.words = parser.parse_known_args()
        self.file = Path.home() / ".cache" / "course-benchmarks" / f"{name}.json"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.values = (
            {} if given.anew or not self.file.exists() else json.loads(self.file.read_text())
        )
        self.end = time.monotonic() + given.seconds

    def value(self, key: str, make: Callable):
        """A number, a list or a dict of them: measured once."""
        if key not in self.values:
            if time.monotonic() > self.end:
                print("stopped; run again to go on")
                sys.exit(0)
            self.values[key] = make()
            part = self.file.with_suffix(".part")
            part.write_text(json.dumps(self.values))
            part.replace(self.file)
        return self.values[key]

    def best(self, key: str, choices: Iterable[Any], loss: Callable[[Any], float]) -> Any:
        """Of some choices the one with the least loss, each measured once."""
        tried = {c: self.value(f"{key}, {c}", lambda c=c: loss(c)) for c in choices}
        print(key, {c: round(found, 4) for c, found in tried.items()}, flush=True)
        return min(tried, key=tried.__getitem__)

    def tensor(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        return torch.tensor(self.value(key, lambda: make().tolist()), dtype=torch.float64)
