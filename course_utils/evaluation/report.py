"""One model, or several side by side: bytes, speed, perplexity and scores, all measured now."""

import html
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.models.walk import longest_context
from course_utils.quantization.compressed import Compressed

from .memory import bytes_in_memory
from .perplexity import Perplexity, perplexity
from .subject import Subject, describe, is_encoder, model_in, name_of, runnable
from .tasks import Score, task_scores
from .text import Text

SPEED_PROMPT = "Story: Ada puts the lamp in the kitchen."


@dataclass(frozen=True, repr=False)
class Report:
    """What `report` measured.

    `tokens_per_second` is None when it was not asked for, `perplexity` for an encoder.
    """

    name: str
    bytes_on_disk: int
    bytes_in_memory: int
    tokens_per_second: float | None
    perplexity: Perplexity | None
    scores: dict[str, Score]
    settings: dict[str, Any]

    def __str__(self) -> str:
        return str(compare([self]))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return compare([self])._repr_html_()


def report(
    model: Subject, tokenizer: PreTrainedTokenizerBase, *, tasks: Sequence[str] | None = None,
    n: int = 200, name: str | None = None, text: Text = "bundled", context: int = 256,
    windows: int | None = 64, seed: int = 0,
    runs: int = 3,
) -> Report:  # fmt: skip
    """Measure a model or a Compressed.

    bytes_on_disk: the folder that `Compressed.save` writes (without the tokenizer), for a plain
    model too: weights packed where they are packed, others in bfloat16 where that loses nothing, so
    that both kinds compare.
    bytes_in_memory: parameters and buffers as they are now. tokens_per_second: see
    `decoding_speed`; `runs=0` leaves it out. perplexity: on the validation split of `text`. scores:
    `n` test items of each of `tasks` (None:
    all six; (): none). Of an encoder, which predicts no next token, speed is that of reading
    (`reading_speed`), and there is neither perplexity nor score. Raises CompressionError for what
    is no model of tokens.
    """
    encoder = is_encoder(model)
    network = model_in(model) if encoder else runnable(model)
    whole = model if isinstance(model, Compressed) else Compressed(network, {"method": "none"}, 0.0)
    timed = runs > 0 and (not encoder or network.main_input_name == "input_ids")
    speed = reading_speed if encoder else decoding_speed
    return Report(
        name=name or name_of(model),
        bytes_on_disk=whole.bytes_on_disk,
        bytes_in_memory=bytes_in_memory(network),
        tokens_per_second=speed(network, tokenizer, runs=runs) if timed else None,
        perplexity=None
        if encoder
        else perplexity(model, tokenizer, text, context=context, n=windows, seed=seed),
        scores={} if encoder else task_scores(model, tokenizer, tasks=tasks, n=n, seed=seed),
        settings=dict(whole.settings),
    )


@torch.no_grad()
def decoding_speed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, tokens: int = 24, runs: int = 3
) -> float:
    """Tokens per second of greedy decoding: batch 1, key-value cache, after one fixed prompt; the
    median of `runs`.

    Reading the prompt is not timed, an unmeasured run goes first, and the end of text does not stop
    it.
    """
    ids = torch.tensor([tokenizer(SPEED_PROMPT)["input_ids"]], device=model.device)
    longest = longest_context(model)
    if longest is not None and longest < ids.shape[1] + tokens:
        raise CompressionError(
            f"model: reads {longest} tokens, too few to time decoding ({ids.shape[1] + tokens}); "
            "use runs=0."
        )
    seconds = []
    for _ in range(runs + 1):
        out = model(input_ids=ids, use_cache=True)
        wait(model)
        began = time.perf_counter()
        for _ in range(tokens):
            step = out.logits[:, -1].argmax(-1, keepdim=True)
            out = model(input_ids=step, past_key_values=out.past_key_values, use_cache=True)
        wait(model)
        seconds.append(time.perf_counter() - began)
    return tokens / statistics.median(seconds[1:])


@torch.no_grad()
def reading_speed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, runs: int = 3
) -> float:
    """Tokens per second of one pass over a short text, batch 8; the median of `runs` after an
    unmeasured one.
    """
    ids = torch.tensor(
        [tokenizer(SPEED_PROMPT)["input_ids"][: longest_context(model)]] * 8, device=model.device
    )
    seconds = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        model(input_ids=ids)
        wait(model)
        seconds.append(time.perf_counter() - began)
    return ids.numel() / statistics.median(seconds[1:])


def wait(model: PreTrainedModel) -> None:
    """Until the device has done what it was given."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of text with a caption: HTML in a notebook, columns of plain text elsewhere."""

    header: list[str]
    rows: list[list[str]]
    caption: str

    def __str__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        text = [
            "  ".join(
                [
                    line[0].ljust(widths[0]),
                    *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
                ]
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*text, self.caption])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            left, right = ' style="text-align:left"', ' style="text-align:right"'
            return (
                "<tr>"
                + "".join(
                    f"<{tag}{right if i else left}>{html.escape(c)}</{tag}>"
                    for i, c in enumerate(cells)
                )
                + "</tr>"
            )

        body = "".join(row(cells, "td") for cells in self.rows)
        caption = (
            '<caption style="caption-side:bottom;text-align:left">'
            f"{html.escape(self.caption)}</caption>"
        )
        return (
            f"<table>{caption}<thead>{row(self.header, 'th')}</thead><tbody>{body}</tbody></table>"
        )


def compare(reports: Sequence[Report]) -> Table:
    """One row for each report, sizes and speed with their ratio to the first, and the protocol
    below.

    Raises CompressionError if there are none, or if they were measured differently.
    """
    reports = list(reports)
    if not reports:
        raise CompressionError("compare: give at least one report.")
    first, protocols = reports[0], [protocol_of(r) for r in reports]
    if any(p != protocols[0] for p in protocols):
        raise CompressionError(
            "compare: these perplexities have different protocols and cannot be compared; "
            "measure again alike."
        )
    if any(
        r.scores[t].n != score.n
        for t, score in first.scores.items()
        for r in reports
        if t in r.scores
    ):
        raise CompressionError(
            "compare: these scores are over different items and cannot be compared; "
            "measure again with one n."
        )
    tasks = [t for t in first.scores if all(t in r.scores for r in reports)]
    timed = all(r.tokens_per_second for r in reports)
    measured = [r.perplexity for r in reports if r.perplexity is not None]
    header = [
        "model",
        "on disk",
        "in memory",
        *(["tokens/s"] if timed else []),
        *(["nats/token", "perplexity"] if measured else []),
        *tasks,
    ]
    rows = []
    for r in reports:
        cells = [
            r.name,
            sized(r.bytes_on_disk, first.bytes_on_disk, r is first),
            sized(r.bytes_in_memory, first.bytes_in_memory, r is first),
        ]
        if r.tokens_per_second and first.tokens_per_second and timed:
            ratio = "" if r is first else f" ({r.tokens_per_second / first.tokens_per_second:.2f}×)"
            cells.append(f"{r.tokens_per_second:.0f}{ratio}")
        if r.perplexity is not None:
            cells += [f"{r.perplexity.nats:.4f}", f"{r.perplexity.value:.4g}"]
        rows.append(cells + [f"{r.scores[t].accuracy:.1%}" for t in tasks])
    return Table(header, rows, caption(reports, tasks, timed))


def protocol_of(r: Report) -> dict[str, Any]:
    """The protocol of the perplexity, without what differs between models."""
    return (
        {}
        if r.perplexity is None
        else {k: v for k, v in r.perplexity.protocol.items() if k not in ("model", "dtype")}
    )


def sized(value: int, base: int, is_base: bool) -> str:
    """Bytes in the unit of `base`, and their ratio to it."""
    unit, name = (1e9, "GB") if base >= 1e9 else (1e6, "MB") if base >= 1e6 else (1e3, "kB")
    return f"{value / unit:.2f} {name}" + ("" if is_base else f" ({value / base:.2f}×)")


def caption(reports: Sequence[Report], tasks: Sequence[str], timed: bool) -> str:
    """What stands below the table: protocols, and how times were taken."""
    first = reports[0]
    parts = []
    if first.perplexity is not None:
        p = first.perplexity.protocol
        parts.append(
            f"Perplexity per {p['unit']}: text {p['text']} ({p['split']}), context {p['context']}, "
            f"{p['windows']} windows, {p['tokens']:,} tokens scored."
        )
    if tasks:
        chance = ", ".join(f"{t} {first.scores[t].chance:.0%}" for t in tasks)
        parts.append(f"Accuracy on {first.scores[tasks[0]].n} items a task; chance: {chance}.")
    if timed:
        how = (
            "reading, batch 8"
            if first.perplexity is None
            else "greedy decoding, batch 1, key-value cache"
        )
        parts.append(f"Tokens/s: {how}, median of several runs here.")
    for r in reports:
        if r.settings.get("method") != "none" and describe(r.settings) not in r.name:
            parts.append(f"{r.name}: {describe(r.settings)}.")
    return " ".join(parts)
