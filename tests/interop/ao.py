"""Runs in the environment of torchao. Called by run.py (see weights.py for what is compared).

    ao.py JOBS   a JSON list of {bits, group, symmetric, file, out}; `answers.json` is written
                 beside it

`file` holds a weight (out, in), inputs x, and our signed codes, scale and zero point of it. `out`
gets, as `own.*`, what torchao makes of the weight by itself, and as `given.*` what it makes of our
scales, and computes from our codes.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torchao.quantization import (
    Int8Tensor,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    PerGroup,
    quantize_,
)
from torchao.quantization.quant_primitives import MappingType, quantize_affine
from torchao.quantization.quantize_.workflows import IntxUnpackedToInt8Tensor


def own(weight, x, bits, group, symmetric):
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    if bits == 8:
        config = Int8WeightOnlyConfig()
    else:
        mapping = MappingType.SYMMETRIC if symmetric else MappingType.ASYMMETRIC
        config = IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, f"int{bits}"),
            granularity=PerGroup(group),
            mapping_type=mapping,
        )
    quantize_(layer, config)
    found = layer.weight
    zero = torch.zeros_like(found.scale) if found.zero_point is None else found.zero_point
    return {"codes": found.qdata, "scale": found.scale, "zero": zero.to(torch.int32), "y": layer(x)}


def given(weight, x, codes, scale, zero, bits, group):
    block = (1, weight.shape[1] if group == -1 else group)
    half = 2 ** (bits - 1)
    found = quantize_affine(weight, block, scale, zero, torch.int8, -half, half - 1)
    if bits == 8:
        packed = Int8Tensor(codes, scale, list(block), torch.float32)
    else:
        packed = IntxUnpackedToInt8Tensor(
            codes,
            scale,
            zero.to(torch.int8),
            getattr(torch, f"int{bits}"),
            block,
            torch.float32,
            None,
        )
    return {"codes": found, "y": torch.nn.functional.linear(x, packed)}


@torch.no_grad()
def main(jobs):
    answers = []
    for job in json.loads(jobs.read_text()):
        try:
            t = load_file(job["file"])
            weight, x, bits, group = t["weight"], t["x"], job["bits"], job["group"]
            parts = {
                "own": own(weight, x, bits, group, job["symmetric"]),
                "given": given(**t, bits=bits, group=group),
            }
            named = {
                f"{part}.{key}": value.contiguous()
                for part, found in parts.items()
                for key, value in found.items()
            }
            save_file(named, job["out"])
            answers.append("")
        except Exception as error:  # reported by weights.py
            answers.append(f"{type(error).__name__}: {error}".strip().split("\n")[0])
    (jobs.parent / "answers.json").write_text(json.dumps(answers))


main(Path(sys.argv[1]))
