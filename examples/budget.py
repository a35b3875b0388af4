"""The bits of each matrix for a mean number of bits: python examples/budget.py [MODEL] [MEAN_BITS]
[TEXT]

Each matrix is rounded to 2, 3 and 4 bits alone, and the damage measured; an exact knapsack chooses.
"""

import sys

from course_utils import evaluation, models, quantization
from course_utils.evaluation import allocation
from course_utils.models import walk

WIDTHS = (2, 3, 4)


def main(source="bundled", mean_bits="3", text="bundled"):
    model, tokenizer = models.load(source)
    some = evaluation.text.windows(tokenizer, text, split="train", n=4, context=128, seed=0).ids
    held_out = evaluation.text.windows(
        tokenizer, text, split="validation", n=16, context=256, seed=0
    ).ids
    options = {
        b: lambda w, b=b: quantization.fake_quantize(w, bits=b, group_size=64) for b in WIDTHS
    }
    damage = allocation.measured_damages(model, some, options)
    weights = {name: walk.weight_of(m).numel() for name, m in walk.compressible(model).items()}
    size = {name: {b: b * n for b in WIDTHS} for name, n in weights.items()}
    chosen = allocation.allocate(damage, size, float(mean_bits) * sum(weights.values()))
    mixed = quantization.rtn.quantize(model, bits=3, per_layer=allocation.as_per_layer(chosen))
    even = quantization.rtn.quantize(model, bits=3)
    for bits in WIDTHS:
        print(f"{bits} bits:", sum(b == bits for b in chosen.values()), "matrices")
    for name, small in ((f"mean of {mean_bits} bits, chosen", mixed), ("3 bits everywhere", even)):
        print(f"{name}: KL {float(evaluation.kl_by_window(model, small, held_out).mean()):.5f}")
    return chosen


if __name__ == "__main__":
    main(*sys.argv[1:])
