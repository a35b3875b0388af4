"""Two bits a weight on the bundled model: values for one weight, E8P, a trellis, additive
codebooks, entropy coding.

    python benchmarks/codebooks.py        # the first table, three minutes on one core
    python benchmarks/codebooks.py walk   # the second one, fifteen minutes; a run that was stopped
                                          # goes on

Two tables. Without data: what a code does with weights as they are and with mixed rows and columns;
a seed is one draw of the signs of the mixing. With 25,600 calibration tokens (200 × 128) every
method walks: GPTQ, block LDLQ, GPTQ's walk with entropy coding; a seed is one set of them, and one
draw of the signs. Its controls: GPTQ's very grid in the mixed basis ("grid, mixed"), and the best
four values of single weights, with mixing and without. Bits count all that the layers hold.
Writes learn/tables/codes.json and codes-walk.json.
"""

import sys

import torch
from tables import PROTOCOL, Kept, bundled
from torch import nn

from course_utils import evaluation
from course_utils.evaluation.comparison import compare
from course_utils.models import walk
from course_utils.quantization import (
    additive,
    convert,
    e8,
    entropy_coded,
    gptq,
    hqq,
    trellis,
    vectors,
)

COMMAND = "python benchmarks/codebooks.py"
GRID = {"bits": 2, "group_size": None}
FOUR = {"width": 1, "codebooks": 1, "entries": 4}  # the best four values of single weights


def gptq_mixed(model, ids, rotation: int):
    """GPTQ with its own grid of whole rows, in the mixed basis: W' = R₁ W R₂ᵀ, H' = R₂ H R₂ᵀ
    (`vectors.mixed_weight`).

    Ŵ is kept dense, since no layer holds these two together; codes, scales and zero points are as
    many as GPTQ's.
    """

    def make(_name, module, _own, seen):
        H = seen.known
        weight = walk.weight_of(module).float().masked_fill(H.diagonal() == 0, 0)
        there = vectors.mixed(vectors.mixed(H, rotation).T, rotation)
        found = gptq.quantize_layer(vectors.mixed_weight(weight, rotation), there, **GRID).weight
        back = vectors.unmixed(vectors.unmixed(found.T, rotation + 1).T, rotation)
        layer = nn.Linear(*back.T.shape, bias=module.bias is not None)
        layer.weight, layer.bias = nn.Parameter(back, False), convert.frozen(module.bias)
        return layer

    return convert.layer_by_layer(model, make, {"method": "gptq, mixed"}, calibration=ids)


def main() -> None:
    model, tokenizer, divergences = bundled()

    def text(seed: int):
        return evaluation.calibration(tokenizer, "bundled", n=200, context=128, seed=100 + seed)

    bits: dict[str, str] = {}
    name = "codes-walk" if "walk" in sys.argv[1:] else "codes"
    kept = Kept(name)

    def measured(label, make, seeds=True):
        def compute(seed):
            made = make(seed)
            spent = (
                bits["GPTQ"]
                if label == "grid, mixed"
                else f"{vectors.bits_per_weight(made.model):.3f}"
            )
            found = divergences(made.model)
            print(
                (
                    f"{label}, {seed}: {spent} bits, {float(found.mean()):.4f} "
                    f"nats, {made.seconds:.0f} s"
                ),
                flush=True,
            )
            return {"nats": found.tolist(), "bits": spent}

        def row(seed):
            held = kept.value(f"{label} {seed}", lambda: compute(seed))
            bits[label] = held["bits"]
            return torch.tensor(held["nats"], dtype=torch.float64)

        return row if seeds else row(0)

    free = {
        "HQQ": lambda s: hqq.quantize(model, bits=2, group_size=None, fit_scale=True),
        "E8P": lambda s: e8.quantize(model),
        "additive": lambda s: additive.quantize(model),
        "entropy-coded": lambda s: entropy_coded.quantize(model, bits=2.057),
    }
    mixed = {
        "one weight, mixed": lambda s: additive.quantize(model, **FOUR, rotation=s),
        "E8P, mixed": lambda s: e8.quantize(model, rotation=s),
        "additive, mixed": lambda s: additive.quantize(model, rotation=s),
        "trellis 2⁸, mixed": lambda s: trellis.quantize(model, state_bits=8, rotation=s),
    }
    walked = {
        "GPTQ": lambda s: gptq.quantize(model, text(s), **GRID),
        "grid, mixed": lambda s: gptq_mixed(model, text(s), s),
        "one weight": lambda s: additive.quantize(model, text(s), **FOUR),
        "one weight, mixed": lambda s: additive.quantize(model, text(s), **FOUR, rotation=s),
        "E8P, mixed": lambda s: e8.quantize(model, text(s), rotation=s),
        "additive, mixed": lambda s: additive.quantize(model, text(s), rotation=s),
        "trellis 2⁸, mixed": lambda s: trellis.quantize(model, text(s), state_bits=8, rotation=s),
        "entropy-coded": lambda s: entropy_coded.quantize(model, text(s), bits=2.057),
    }
    if name == "codes":
        rows = {label: measured(label, make, False) for label, make in free.items()}
        rows["trellis 2⁸"] = measured(
            "trellis 2⁸", lambda s: trellis.quantize(model, state_bits=8), False
        )
        rows |= {label: measured(label, make) for label, make in mixed.items()}
        table = compare("About 2 bits a weight, no data: KL from the original", rows,
                        against="one weight, mixed", unit="nats",
                        protocol=f"{PROTOCOL}; 3 draws of the signs of the mixing")  # fmt: skip
        table.columns.update({"bits a weight": dict(bits)})
        print(table)
        table.save(name, command=COMMAND)
        return
    table = compare("About 2 bits a weight, with a walk: KL from the original",
                    {k: measured(k, v) for k, v in walked.items()},
                    against="GPTQ", unit="nats",
                    protocol=f"{PROTOCOL}; 3 calibration sets of 25,600 tokens")  # fmt: skip
    table.columns.update({"bits a weight": dict(bits)})
    print(table)
    table.save(name, command=f"{COMMAND} walk")


if __name__ == "__main__":
    main()
