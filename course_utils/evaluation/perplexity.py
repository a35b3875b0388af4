"""Perplexity with its protocol attached, and calibration sequences."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from course_utils.models.data import nats_by_window
from course_utils.theory.intervals import crossed_interval

from .subject import Subject, name_of, runnable, scoring
from .text import Text, windows


@dataclass(frozen=True, repr=False)
class Perplexity:
    """`nats` per token, and `protocol`: all that must be the same before two of these may be
    compared.

    `half_width` of the 95 % interval of `nats` is Student's over the windows; NaN for a single
    window. Two of these on the same windows differ by much less than that: compare them in pairs
    (`evaluation.comparison`).
    """

    nats: float
    protocol: dict[str, Any]
    half_width: float = math.nan

    @property
    def value(self) -> float:
        """exp(nats): the perplexity."""
        return math.exp(self.nats) if self.nats < 700 else math.inf

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        p = self.protocol
        some = not math.isnan(self.half_width) and math.isfinite(self.value)
        spread = f" ± {self.value * self.half_width:.2g}" if some else ""
        nats = f"{self.nats:.4f}" + (f" ± {self.half_width:.4f}" if some else "")
        return (
            f"perplexity {self.value:.4g}{spread} per {p['unit']} ({nats} nats): "
            f"model {p['model']} in {p['dtype']}; text {p['text']} ({p['split']}); "
            f"context {p['context']}, stride {p['stride']}; {p['windows']} windows, "
            f"{p['tokens']:,} tokens scored"
        )

    __repr__ = __str__


def perplexity(
    model: Subject, tokenizer: PreTrainedTokenizerBase, text: Text = "bundled", *,
    split: str = "validation", context: int = 256, n: int | None = 64, seed: int = 0,
) -> Perplexity:  # fmt: skip
    """exp(-1/T Σ ln p(token | tokens before it in its window)) over windows that do not overlap.

    The first token of a window is read but not scored, so T = windows × (context - 1), as in the
    evaluations of GPTQ (Frantar et al., 2023) and Wanda (Sun et al., 2024). `text` is "bundled", a
    text file, a list of strings, or a hub data set such as "wikitext" (WikiText-2 raw); see
    `evaluation.text.windows` for splits. `n=None` takes all windows of a text. Raises
    CompressionError if the text is missing or too short, or the context longer than the model can
    read.
    """
    network = runnable(model, context)
    chosen = windows(tokenizer, text, split=split, n=n, context=context, seed=seed)
    protocol = {
        "model": name_of(model),
        "text": chosen.text,
        "split": chosen.split,
        "context": context,
        "stride": context,
        "windows": len(chosen.ids),
        "tokens": len(chosen.ids) * (context - 1),
        "unit": "token",
        "dtype": str(network.dtype).removeprefix("torch."),
        "seed": seed,
    }
    with scoring(model) as ready:
        each = nats_by_window(ready, chosen.ids)
    half = crossed_interval(each[None])[1]
    return Perplexity(float(each.mean()), protocol, half)


def calibration(
    tokenizer: PreTrainedTokenizerBase,
    text: Text = "bundled",
    *,
    n: int = 64,
    context: int = 256,
    seed: int = 0,
) -> Tensor:
    """(n, context) token ids of the training split, for methods that look at activations.

    Of a fixed text, `n` different windows are drawn from `seed`. Raises CompressionError as
    `perplexity` does.
    """
    return windows(
        tokenizer, text, split="train", n=n, context=context, seed=seed, scattered=True
    ).ids
