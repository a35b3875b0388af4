"""Lesson 5.3 on the bundled model, with three calibration sets: GPTQ, Qronos and GPTAQ at equal
bits, low rank with and without whitening.

    python benchmarks/rotations.py relatives   # three minutes on one core; a run that was stopped
                                               # goes on
    python benchmarks/rotations.py low-rank    # one minute

A calibration set is 16 × 256 tokens, the same for all rows of a table. All walks have damping .01
and no fallback on rounding.
Writes learn/tables/relatives-2-bit.json, relatives-3-bit.json and low-rank.json.
"""

import sys

from tables import PROTOCOL, Kept, bundled

from course_utils import evaluation
from course_utils.evaluation.comparison import compare
from course_utils.quantization import gptaq, gptq, low_rank, qronos, rtn

COMMAND = "python benchmarks/rotations.py"
RATIOS = (0.9, 0.7, 0.5)


def main() -> None:
    model, tokenizer, divergences = bundled()
    sets = {
        seed: evaluation.calibration(tokenizer, "bundled", n=16, context=256, seed=200 + seed)
        for seed in (0, 1, 2)
    }
    if "low-rank" in sys.argv:
        return ranks(model, sets, divergences)
    for bits in (2, 3):
        grid, name = {"bits": bits, "group_size": 64}, f"relatives-{bits}-bit"
        kept = Kept(name)

        def row(label, method, kept=kept, **settings):
            return lambda seed: kept.tensor(
                f"{label} {seed}", lambda: divergences(method(model, sets[seed], **settings).model)
            )

        rows = {
            "rounding": divergences(rtn.quantize(model, **grid).model),
            "GPTQ": row("GPTQ", gptq.quantize, never_worse=False, **grid),
            "Qronos": row("Qronos", qronos.quantize, **grid),
            "GPTAQ": row("GPTAQ", gptaq.quantize, **grid),
        }
        if bits == 2:
            rows["GPTAQ, α of 1"] = row("GPTAQ, α of 1", gptaq.quantize, alpha=1, **grid)
        table = compare(
            f"{bits} bits in groups of 64: KL from the original", rows, against="GPTQ", unit="nats",
            protocol=f"{PROTOCOL}; 3 calibration sets of 16 × 256 tokens",
        )  # fmt: skip
        print(table, flush=True)
        table.save(name, command=f"{COMMAND} relatives")


def ranks(model, sets, divergences) -> None:
    rounded = rtn.quantize(model, bits=8, group_size=-1)
    rows, bytes_of = (
        {"INT8, a scale a row": divergences(rounded.model)},
        {"INT8, a scale a row": rounded.bytes_on_disk},
    )
    for ratio in RATIOS:
        plain = low_rank.compress(model, ratio=ratio)
        rows[f"SVD, {ratio:g} of the numbers"] = divergences(plain.model)
        rows[f"whitened, {ratio:g}"] = lambda seed, ratio=ratio: divergences(
            low_rank.compress(model, sets[seed], ratio=ratio).model
        )
        bytes_of |= {
            f"SVD, {ratio:g} of the numbers": plain.bytes_on_disk,
            f"whitened, {ratio:g}": plain.bytes_on_disk,
        }
    table = compare(
        "Low rank: KL from the original", rows, against="INT8, a scale a row", unit="nats",
        protocol=f"{PROTOCOL}; 3 calibration sets of 16 × 256 tokens; factors in BF16",
        columns={"MB on disk": {row: round(size / 1e6, 2) for row, size in bytes_of.items()}},
    )  # fmt: skip
    print(table, flush=True)
    table.save("low-rank", command=f"{COMMAND} low-rank")


if __name__ == "__main__":
    main()
