"""Two bits a weight on the bundled model: values for one weight, E8P, a trellis, additive codebooks, entropy coding.

    python benchmarks/codebooks.py        # the first table, three minutes on one core
    python benchmarks/codebooks.py walk   # the second one, ten minutes; a run that was stopped goes on

Two tables. Without data: what a code does with weights as they are and with mixed rows and columns; a seed is one draw of the
signs of the mixing. With 25,600 calibration tokens (200 × 128) every method walks: GPTQ, block LDLQ, GPTQ's walk with entropy coding; a
seed is one set of them, and one draw of the signs. Bits count all that the layers hold.
Writes learn/tables/codes.json and codes-walk.json.
"""

import sys

import torch
from tables import PROTOCOL, Kept, bundled

from course_utils import evaluation
from course_utils.evaluation.comparison import compare
from course_utils.quantization import additive, e8, entropy_coded, gptq, hqq, trellis
from course_utils.quantization.vectors import bits_per_weight

COMMAND = "python benchmarks/codebooks.py"


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
            spent, found = f"{bits_per_weight(made.model):.3f}", divergences(made.model)
            print(
                f"{label}, {seed}: {spent} bits, {float(found.mean()):.4f} nats, {made.seconds:.0f} s",
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
        "one weight, mixed": lambda s: additive.quantize(
            model, width=1, codebooks=1, entries=4, rotation=s
        ),
        "E8P, mixed": lambda s: e8.quantize(model, rotation=s),
        "additive, mixed": lambda s: additive.quantize(model, rotation=s),
        "trellis 2⁸, mixed": lambda s: trellis.quantize(model, state_bits=8, rotation=s),
    }
    walked = {
        "GPTQ": lambda s: gptq.quantize(model, text(s), bits=2, group_size=None),
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
        table = compare("About 2 bits a weight, no data: KL from the original", rows, against="one weight, mixed", unit="nats",
                        protocol=f"{PROTOCOL}; 3 draws of the signs of the mixing")  # fmt: skip
        table.columns.update({"bits a weight": dict(bits)})
        print(table)
        table.save(name, command=COMMAND)
        return
    table = compare("About 2 bits a weight, with a walk: KL from the original", {k: measured(k, v) for k, v in walked.items()},
                    against="GPTQ", unit="nats", protocol=f"{PROTOCOL}; 3 calibration sets of 25,600 tokens")  # fmt: skip
    table.columns.update({"bits a weight": dict(bits)})
    print(table)
    table.save(name, command=f"{COMMAND} walk")


if __name__ == "__main__":
    main()
