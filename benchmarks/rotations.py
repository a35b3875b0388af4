"""Lesson 5.3 on the bundled model, with three calibration sets: GPTQ and Qronos at equal bits, low rank with and without whitening.

    python benchmarks/rotations.py      # two minutes on one core

A calibration set is 16 × 256 tokens, the same for all rows of a table. Both walks have damping .01 and no fallback on rounding.
Writes learn/tables/relatives-2-bit.json, relatives-3-bit.json and low-rank.json.
"""

from tables import PROTOCOL, bundled

from course_utils import evaluation
from course_utils.evaluation.comparison import compare
from course_utils.quantization import gptq, low_rank, qronos, rtn

COMMAND = "python benchmarks/rotations.py"
RATIOS = (0.9, 0.7, 0.5)


def main() -> None:
    model, tokenizer, divergences = bundled()
    sets = {seed: evaluation.calibration(tokenizer, "bundled", n=16, context=256, seed=200 + seed) for seed in (0, 1, 2)}
    for bits in (2, 3):
        grid = {"bits": bits, "group_size": 64}
        rows = {
            "rounding": divergences(rtn.quantize(model, **grid).model),
            "GPTQ": lambda seed, grid=grid: divergences(gptq.quantize(model, sets[seed], never_worse=False, **grid).model),
            "Qronos": lambda seed, grid=grid: divergences(qronos.quantize(model, sets[seed], **grid).model),
        }
        table = compare(
            f"{bits} bits in groups of 64: KL from the original", rows, against="GPTQ", unit="nats",
            protocol=f"{PROTOCOL}; 3 calibration sets of 16 × 256 tokens",
        )  # fmt: skip
        print(table, flush=True)
        table.save(f"relatives-{bits}-bit", command=COMMAND)

    rounded = rtn.quantize(model, bits=8, group_size=-1)
    rows, bytes_of = {"INT8, a scale a row": divergences(rounded.model)}, {"INT8, a scale a row": rounded.bytes_on_disk}
    for ratio in RATIOS:
        plain = low_rank.compress(model, ratio=ratio)
        rows[f"SVD, {ratio:g} of the numbers"] = divergences(plain.model)
        rows[f"whitened, {ratio:g}"] = lambda seed, ratio=ratio: divergences(low_rank.compress(model, sets[seed], ratio=ratio).model)
        bytes_of |= {f"SVD, {ratio:g} of the numbers": plain.bytes_on_disk, f"whitened, {ratio:g}": plain.bytes_on_disk}
    table = compare(
        "Low rank: KL from the original", rows, against="INT8, a scale a row", unit="nats",
        protocol=f"{PROTOCOL}; 3 calibration sets of 16 × 256 tokens; factors in BF16",
        columns={"MB on disk": {row: round(size / 1e6, 2) for row, size in bytes_of.items()}},
    )  # fmt: skip
    print(table, flush=True)
    table.save("low-rank", command=COMMAND)


if __name__ == "__main__":
    main()
