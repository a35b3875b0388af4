"""Two bits in groups of 64 on the bundled model: rounding, GPTQ, AWQ and QAT at equal data, with
three calibration sets.

    python benchmarks/two_bits.py      # a quarter of an hour on one core

A calibration set is 25,600 tokens (200 × 128); "2,048 tokens" are its first 16 sequences. QAT takes
batches of 8 sequences from all of them; its loss is KL(original ‖ quantized), the quantity in the
table. Its learning rate was chosen on a fourth calibration set: after 32 steps 1e-3 gives 0.015
nats, 3e-3 gives 0.047.
Writes learn/tables/two_bits.json.
"""

from tables import PROTOCOL, bundled

from course_utils import evaluation
from course_utils.evaluation.comparison import compare
from course_utils.quantization import awq, gptq, qat, rtn

MANY, FEW, RATE = 25_600, 2_048, 1e-3


def main() -> None:
    model, tokenizer, divergences = bundled()
    grid = {"bits": 2, "group_size": 64}

    def text(seed: int, tokens: int = MANY):
        return evaluation.calibration(
            tokenizer, "bundled", n=MANY // 128, context=128, seed=100 + seed
        )[: tokens // 128]

    def measured(label, make):
        def row(seed):
            made = make(seed)
            found = divergences(made.model)
            print(
                f"{label}, set {seed}: {float(found.mean()):.4f} nats in {made.seconds:.0f} s",
                flush=True,
            )
            return found

        return row

    def train(steps):
        return lambda seed: qat.quantize(
            model, text(seed), **grid, steps=steps, batch=8, learning_rate=RATE
        )

    ways = {
        "rounding": lambda seed: rtn.quantize(model, **grid),
        "GPTQ, 2,048 tokens": lambda seed: gptq.quantize(model, text(seed, FEW), **grid),
        "GPTQ": lambda seed: gptq.quantize(model, text(seed), **grid),
        "AWQ, 2,048 tokens": lambda seed: awq.quantize(model, text(seed, FEW), **grid),
        "AWQ": lambda seed: awq.quantize(model, text(seed), **grid),
        "QAT, 32 steps": train(32),
        "QAT, 128 steps": train(128),
    }
    data = {"rounding": "none"} | {
        label: "2,048" if "2,048" in label else "25,600" for label in ways if label != "rounding"
    }
    trained = {
        label: f"{int(label.split()[-2]) * 8 * 128:,}" if "QAT" in label else "once"
        for label in ways
    } | {"rounding": "–"}
    rows = {label: measured(label, make) for label, make in ways.items()}
    table = compare(
        "2 bits in groups of 64: KL from the original", rows, against="GPTQ", unit="nats",
        protocol=f"{PROTOCOL}; 3 calibration sets; QAT with batches of 8 × 128 tokens, learning "
                 f"rate {RATE}",
    )  # fmt: skip
    table.columns.update({"distinct tokens": data, "tokens read": trained})
    print(table)
    table.save("two_bits", command="python benchmarks/two_bits.py")


if __name__ == "__main__":
    main()
