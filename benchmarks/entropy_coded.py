"""Bits a weight, everything counted, against KL: fixed length and entropy-coded, from the layers'
real bytes.

    python benchmarks/entropy_coded.py      (about 15 minutes on two cores)

Rows with calibration take three calibration sets of 16 × 256 tokens; the others have no chance in
them. The table goes to course_utils/learn/tables/entropy_coded.json, for lesson 4.1.
"""

from dataclasses import replace

import torch

from course_utils import evaluation
from course_utils.evaluation import by_window, comparison
from course_utils.models import load
from course_utils.models.data import token_windows
from course_utils.quantization import QuantizedLinear, entropy_coded, gptq, hqq, rtn


def coded(bits, steps="one", classes=1, walked=False):
    return lambda net, ids: entropy_coded.quantize(
        net, ids if walked else None, bits=bits, steps=steps, classes=classes
    )


ROWS = {
    "round to nearest, 2 bits": lambda net, _: rtn.quantize(net, bits=2),
    "GPTQ, 2 bits": lambda net, ids: gptq.quantize(net, ids, bits=2),
    "HQQ, 2 bits": lambda net, _: hqq.quantize(net, bits=2),
    "round to nearest, 3 bits": lambda net, _: rtn.quantize(net, bits=3),
    "one step, 3.3 bits": coded(3.3),
    "one step, 2.3 bits": coded(2.3),
    "one step, walk, 2.3 bits": coded(2.3, walked=True),
    "WaterSIC steps, walk, 2.3 bits": coded(2.3, "watersic", 8, walked=True),
    "one step, 1.7 bits": coded(1.7),
    "steps ∝ σ, 1.7 bits": coded(1.7, "sigma"),
    "one step, walk, 1.7 bits": coded(1.7, walked=True),
    "WaterSIC steps, walk, 1.7 bits": coded(1.7, "watersic", 8, walked=True),
    "one step, 1.2 bits": coded(1.2),
    "one step, 0.9 bits": coded(0.9),
}
SEEDS = (1, 2, 3)


def bits_of(compressed) -> float:
    """Bits of the blocks' layers for each of their weights, tables,
    scales and zero points counted.
    """
    kinds = QuantizedLinear | hqq.RealZeroLinear | entropy_coded.EntropyCodedLinear
    layers = [m for m in compressed.model.modules() if isinstance(m, kinds)]
    size = sum(b.nbytes for m in layers for name, b in m.named_buffers() if name != "order")
    return 8 * size / sum(m.in_features * m.out_features for m in layers)


def main() -> None:
    torch.set_num_threads(2)
    net, tokenizer = load("bundled")
    ids = evaluation.text.windows(
        tokenizer, "bundled", split="validation", n=64, context=256, seed=0
    ).ids
    original = by_window.predictions(net, ids)
    bits: dict[str, list[float]] = {}

    def row(name, make):
        def measure(seed: int):
            compressed = make(net, token_windows(tokenizer, "train", 16, 256, seed))
            bits.setdefault(name, []).append(bits_of(compressed))
            found = by_window.kl_by_window(original, compressed, ids)
            print(
                f"{name:34} seed {seed}: {bits[name][-1]:.3f} bits, KL {float(found.mean()):.5f}",
                flush=True,
            )
            return found

        chance = "GPTQ" in name or "walk" in name
        return measure if chance else measure(SEEDS[0])

    rows = {name: row(name, make) for name, make in ROWS.items()}
    table = comparison.compare(
        "Bits and damage", rows, seeds=SEEDS, against="round to nearest, 2 bits", unit="nats of KL",
        protocol="bundled model; 64 validation windows of 256 tokens; calibration 16 × 256 "
                 "training tokens, 3 sets",
    )  # fmt: skip
    taken = {name: round(sum(b) / len(b), 3) for name, b in bits.items()}
    replace(table, columns={"bits a weight": taken}).save(
        "entropy_coded", command="python benchmarks/entropy_coded.py"
    )


if __name__ == "__main__":
    main()
