"""What the scripts of this folder share: one compressed model, one text, and how a runtime is
compared with `course_utils`.

The model: the bundled one, INT8 weights, one symmetric scale for each output of the blocks' layers.
A script has

    NAME, NEEDS, WITHOUT     what it is called, the package it needs, one sentence for where that
                             does not install
    make(work)               → Made(bytes, run, note): `run` gives the logits (1, TOKENS,
                             vocabulary) of ids (1, TOKENS), or is None
"""

import importlib.util
import sys
import tempfile
from collections import namedtuple
from functools import cache
from pathlib import Path

import torch

from course_utils import evaluation, models, quantization
from course_utils.checkpoints import onnx
from course_utils.quantization import QuantizedLinear

# tokens of a pass; the largest difference of a logit from the same weights in course_utils
TOKENS, LIMIT = 64, 1e-3
Made = namedtuple("Made", "bytes run note", defaults=("",))


class Logits(torch.nn.Module):
    """Token ids to logits, without a cache: what the exporters take.

    The mask is a constant, as Core ML wants it.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("mask", torch.full((1, 1, TOKENS, TOKENS), -1e9).triu(1))
        self.register_buffer("places", torch.arange(TOKENS)[None])

    def forward(self, input_ids):
        return self.model(
            input_ids=input_ids, attention_mask=self.mask, position_ids=self.places, use_cache=False
        ).logits


@cache
def original():
    return models.load("bundled")


@cache
def small():
    """The Compressed that every runtime gets."""
    return quantization.rtn.quantize(original()[0], bits=8, group_size=-1, symmetric=True)


@cache
def plain():
    """The same weights in float32, for exporters."""
    return onnx.with_real_weights(small().model).eval()


def layers():
    return {name: m for name, m in small().model.named_modules() if isinstance(m, QuantizedLinear)}


@cache
def windows(n=64):
    return evaluation.text.windows(
        original()[1], "bundled", split="validation", n=n, context=TOKENS, seed=0
    ).ids


@torch.no_grad()
def logits(run, ids):
    return torch.cat([torch.as_tensor(run(row[None])).float() for row in ids])


def of_ours(ids):
    return logits(lambda row: small().model(input_ids=row).logits, ids)


def nats(found, ids):
    return float(
        torch.nn.functional.cross_entropy(found[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    )


def with_weights(weights):
    """Logits of `course_utils`' model with another tool's weights {layer: Tensor} in place of ours:
    their numbers, read here.
    """
    model = onnx.with_real_weights(small().model).eval()
    for name, weight in weights.items():
        model.get_submodule(name).weight.data = weight
    return lambda row: model(input_ids=row).logits


def gap(run, weights):
    """The largest difference between the logits of a runtime and those of its weights {layer:
    Tensor} here.
    """
    ids = windows()[:4]
    return float((logits(run, ids) - logits(with_weights(weights), ids)).abs().max())


def saved(model, file, note):
    """What a script makes of a PyTorch model with another tool's layers: its tensors in a file."""
    torch.save(model.state_dict(), file)
    return Made(file.stat().st_size, lambda row: model(input_ids=row, use_cache=False).logits, note)


def main(script):
    """Run one script, or say what to do without its package."""
    if importlib.util.find_spec(script.NEEDS) is None:
        print(f"{script.NAME}: not installed here. {script.WITHOUT}")
        return None
    with tempfile.TemporaryDirectory() as work:
        made, ids = script.make(Path(work)), windows()[:8]
        if made.run is None:
            print(f"{script.NAME}: {made.bytes:,} bytes. {made.note}")
            return made.bytes
        gap = float((logits(made.run, ids) - of_ours(ids)).abs().max())
    print(
        f"{script.NAME}: {made.bytes:,} bytes, largest difference of a logit {gap:.1e} "
        f"(limit {LIMIT:g}). {made.note}"
    )
    return gap if gap < LIMIT else sys.exit(f"{script.NAME}: the logits differ.")
