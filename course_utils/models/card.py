"""Measure a trained model of the bundled world and write its model card.

    python -m course_utils.models.card course_utils/models/bundled

Every number on the card comes from this run, or from the log that the training left in the folder.
"""

import argparse
import itertools
import json
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils import evaluation
from course_utils.errors import CompressionError
from course_utils.evaluation.answers import log_probabilities
from course_utils.evaluation.subject import name_of
from course_utils.world import ATTRIBUTES, KINDS, default_world, documents
from course_utils.world.kinds import WRITERS

from .checkpointing import write_text
from .loading import load

GENERATED = "README.md"

TEXT = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# Model card: {name}

A small Llama-architecture language model of an invented world, made to be compressed in a course. Loads with
`AutoModelForCausalLM.from_pretrained`, or as `course_utils.models.load("bundled")`.

## Model

{architecture}

## Data

The documents come from the seeded generator `course_utils.world` (world seed {world_seed}): {people} invented people
with {facts:,} facts, and short documents of {kinds} kinds in fixed proportions. Training, validation and test share no
document; a hash of the text decides where it belongs. No text was collected and no real person is described.

| kind | share | floor, nats/document | model, nats/document | tokens/document |
|---|---|---|---|---|
{kind_rows}
| all | 100 % | {floor_document:.2f} | {model_document:.2f} | {tokens_document:.1f} |

Over {documents:,} validation documents, each read alone, with its kind and its end to be predicted. The floor is the
generator's own -ln p(text) with the facts known: no reader can pay less on average, except by knowing which texts are
held out.

## Training

`python -m course_utils.models.train`, {training}. The log (`log.jsonl`) ends at step {step:,} after {tokens:,} tokens
and {seconds:,.0f} seconds, with {train:.4f} nats per token in training (running mean) and {validation:.4f} in validation.

## Loss

| | nats/token | perplexity per token |
|---|---|---|
| validation loss, measured | {nats:.4f} | {perplexity:.4f} |
| entropy floor of those documents | {floor_token:.4f} | {floor_perplexity:.4f} |

{protocol}

## Tasks

Greedy or likeliest answers to {n} items a task of the test split (`evaluation.task_scores`), with the 95 % interval (Wilson).

| task | accuracy | chance | items |
|---|---|---|---|
{task_rows}

## Size

{size_rows}

In memory, in 32 bits: {memory:,} bytes.

## Use

For the lessons, labs and tests of this course: to quantize, prune, distil and measure. It knows its own world only and
is of no use for anything else.
Licence: Apache-2.0, as the course itself.
"""  # noqa: E501


def per_document(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, n: int, seed: int
) -> dict[str, dict[str, float]]:
    """For each kind and for 'all': mean floor, model's cost (nats) and tokens of `n` validation
    documents.

    A document's tokens are its own and the separator that ends it; the separator before it is
    given.
    """
    drawn = list(itertools.islice(documents("validation", seed=seed), n))
    rows = [tokenizer(d.text)["input_ids"] for d in drawn]
    costs = log_probabilities(model, [(row[:1], row[1:] + row[:1]) for row in rows])
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    for document, row, cost in zip(drawn, rows, costs, strict=True):
        for key in (document.kind, "all"):
            for i, value in enumerate((1, document.nats, -cost, len(row))):
                sums[key][i] += value
    return {
        k: {"floor": v[1] / v[0], "model": v[2] / v[0], "tokens": v[3] / v[0]}
        for k, v in sums.items()
    }


def training_record(folder: Path) -> dict[str, Any]:
    """The log's last line, and `settings` if the training wrote them.

    Raises CompressionError without a log.
    """
    log = folder / "log.jsonl"
    if not log.is_file():
        raise CompressionError(
            f"{folder}: holds no log.jsonl; give the folder that course_utils.models.train wrote."
        )
    record = json.loads(log.read_text().splitlines()[-1])
    settings = folder / "training.json"
    record["settings"] = json.loads(settings.read_text()) if settings.is_file() else {}
    return record


def architecture(model: PreTrainedModel) -> str:
    """The paragraph on width, blocks, heads and parameters."""
    c, counts = model.config, evaluation.memory.parameter_counts(model)
    heads = (
        f"{c.num_attention_heads} heads, {c.num_key_value_heads} of them with keys "
        "and values of their own"
    )
    return textwrap.fill(
        (
            f"{counts['total']:,} parameters: {c.num_hidden_layers} blocks, {c.hidden_size} wide, "
            f"{heads}, a gated MLP of {c.intermediate_size}, vocabulary {c.vocab_size:,} "
            f"(byte-level BPE, each digit one token), context {c.max_position_embeddings}, "
            f"{'tied' if c.tie_word_embeddings else 'separate'} embeddings. Embeddings "
            f"hold {counts['embeddings']:,} parameters, attention {counts['attention']:,}, "
            f"MLPs {counts['mlp']:,}, norms {counts['norms']:,}."
        ),
        119,
    )


def protocol(loss: evaluation.Perplexity, total: dict[str, float]) -> str:
    """The paragraph on how the numbers were measured."""
    return textwrap.fill(
        (
            f"Protocol: {str(loss).partition(': ')[2]}. The floor is {total['floor']:.2f} "
            f"nats a document divided by its {total['tokens']:.1f} tokens. "
            "A window may begin inside a document, so that some tokens are predicted with less "
            "context than the floor allows for."
        ),
        119,
    )


def described_training(record: dict[str, Any], seed: int) -> str:
    """The settings of the training, in words."""
    settings = {"seed": seed} | record["settings"]
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def make(
    folder: str | Path, *, n: int = 400, windows: int = 256, texts: int = 3000, seed: int = 0
) -> str:
    """The card's text.

    `seed` is the training's, where the folder does not say it (training.json).
    """
    folder = Path(folder)
    record = training_record(folder)
    model, tokenizer = load(folder)
    kinds = per_document(model, tokenizer, texts, seed=1)
    loss = evaluation.perplexity(model, tokenizer, n=windows)
    scores = evaluation.task_scores(model, tokenizer, n=n)
    world, total = default_world(), kinds["all"]
    floor_token = total["floor"] / total["tokens"]
    as_floor = evaluation.Perplexity(floor_token, {})
    kind_rows = [
        f"| {k} | {WRITERS[k][0]:.0%} | {kinds[k]['floor']:.2f} | {kinds[k]['model']:.2f} | "
        f"{kinds[k]['tokens']:.1f} |"
        for k in KINDS if k in kinds
    ]  # fmt: skip
    task_rows = [
        (
            f"| {t} | {s.accuracy:.1%} ({s.interval[0]:.1%} to {s.interval[1]:.1%}) | "
            f"{s.chance:.0%} | {s.n} |"
        )
        for t, s in scores.items()
    ]
    files = [
        f
        for f in sorted(folder.iterdir())
        if f.is_file() and f.name not in (GENERATED, "checkpoint.safetensors")
    ]
    size_rows = [
        "| file | bytes |",
        "|---|---|",
        *(f"| {f.name} | {f.stat().st_size:,} |" for f in files),
    ]
    size_rows.append(f"| in all | {sum(f.stat().st_size for f in files):,} |")
    return TEXT.format(
        name=name_of(model), architecture=architecture(model), world_seed=world.seed,
        people=len(world.people), facts=len(world.people) * len(ATTRIBUTES), kinds=len(KINDS),
        kind_rows="\n".join(kind_rows), documents=texts, floor_document=total["floor"],
        model_document=total["model"], tokens_document=total["tokens"],
        training=described_training(record, seed), step=record["step"], tokens=record["tokens"],
        seconds=record["seconds"], train=record["train"], validation=record["validation"],
        nats=loss.nats, perplexity=loss.value, floor_token=floor_token,
        floor_perplexity=as_floor.value, protocol=protocol(loss, total), n=n,
        task_rows="\n".join(task_rows), size_rows="\n".join(size_rows),
        memory=evaluation.memory.bytes_in_memory(model),
    )  # fmt: skip


def write(folder: str | Path, **options) -> Path:
    """Measure and write README.md into the folder, in one move."""
    folder = Path(folder)
    text = make(folder, **options)
    write_text(folder / GENERATED, text)
    return folder / GENERATED


def main() -> None:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="a folder that course_utils.models.train wrote")
    parser.add_argument("--n", type=int, default=400, help="items a task, default 400")
    parser.add_argument(
        "--windows", type=int, default=256, help="windows of 256 tokens for the loss, default 256"
    )
    parser.add_argument(
        "--texts", type=int, default=3000, help="documents for the floor, default 3000"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="the training's seed where training.json is missing, default 0",
    )
    arguments = vars(parser.parse_args())
    try:
        print(write(arguments.pop("folder"), **arguments))
    except CompressionError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
