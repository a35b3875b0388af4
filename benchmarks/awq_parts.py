"""What AWQ's two parts are worth: 3 bits in groups of 64 on the bundled model, with three
calibration sets.

    python benchmarks/awq_parts.py      # three minutes on one core

Rounding, scaling alone, clipping alone, both, and GPTQ for comparison; all see the same 2,048
tokens (8 × 256).
Writes learn/tables/awq_parts.json.
"""

from tables import PROTOCOL, bundled

from course_utils import evaluation
from course_utils.evaluation.comparison import compare
from course_utils.quantization import awq, gptq, rtn


def main() -> None:
    model, tokenizer, divergences = bundled()
    grid = {"bits": 3, "group_size": 64}

    def text(seed: int):
        return evaluation.calibration(tokenizer, "bundled", n=8, context=256, seed=100 + seed)

    rows = {
        "rounding": divergences(rtn.quantize(model, **grid).model),
        "AWQ, scaling alone": lambda seed: divergences(
            awq.quantize(model, text(seed), clip=False, **grid).model
        ),
        "AWQ, clipping alone": lambda seed: divergences(
            awq.quantize(model, text(seed), scale=False, **grid).model
        ),
        "AWQ, both": lambda seed: divergences(awq.quantize(model, text(seed), **grid).model),
        "GPTQ": lambda seed: divergences(gptq.quantize(model, text(seed), **grid).model),
    }
    table = compare(
        "3 bits in groups of 64: KL from the original", rows, against="rounding", unit="nats",
        protocol=f"{PROTOCOL}; 3 calibration sets of 2,048 tokens",
    )  # fmt: skip
    print(table)
    table.save("awq_parts", command="python benchmarks/awq_parts.py")


if __name__ == "__main__":
    main()
