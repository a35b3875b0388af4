"""Can even noise stand in for rounding while a model is trained?

The bundled model, 3 and 2 bits, groups of 64.

    python benchmarks/qat_noise.py      # about ten minutes on one core

All trained rows: 40 steps of 8 × 64 tokens on the divergence from the original, AdamW, the rate
chosen for each row among three (on 64 other windows, seed 9), weights rounded to the grid of plain
rounding at the end. "Even noise" puts w + s·u with u even in ±½ in the place of the rounding;
"straight through" rounds and passes the gradient. LSQ learns the step as well. Writes
learn/tables/qat-noise.json: KL on 64 windows of 64 tokens, three training sets.
"""

from unittest.mock import patch

import torch

from course_utils import evaluation, models
from course_utils.evaluation import by_window
from course_utils.evaluation.comparison import compare
from course_utils.quantization import hqq, qat, rtn

SEEDS, RATES, STEPS = (0, 1, 2), (3e-5, 1e-4, 3e-4), 40  # above 3e-4 every row is worse


class NoisyLinear(qat.QATLinear):
    """A layer that is trained with noise of one step's width, even in ±½, instead of rounding."""

    def quantized(self):
        step = self.step.repeat_interleave(self.weight.shape[1] // self.step.shape[1], 1)
        return self.weight + step * (torch.rand_like(self.weight) - 0.5)


def trained(net, ids, bits: int, how: str, rate: float, seed: int):
    torch.manual_seed(seed)
    with patch.object(qat, "QATLinear", NoisyLinear if how == "even noise" else qat.QATLinear):
        return qat.quantize(
            net,
            ids,
            bits=bits,
            steps=STEPS,
            batch=8,
            learning_rate=rate,
            learned_step=how == "LSQ",
            seed=seed,
        )


def main() -> None:
    torch.set_num_threads(1)
    net, tokenizer = models.load("bundled")

    def text(split: str, n: int, seed: int):
        return evaluation.text.windows(
            tokenizer, "bundled", split=split, n=n, context=64, seed=seed
        ).ids

    windows, others = text("validation", 64, 0), text("train", 64, 77)
    original, beside = by_window.predictions(net, windows), by_window.predictions(net, others)
    rows: dict = {}
    for bits, ways in (
        (3, ("straight through", "even noise")),
        (2, ("straight through", "even noise", "LSQ")),
    ):
        rows[f"{bits} bits, rounded"] = by_window.kl_by_window(
            original, rtn.quantize(net, bits=bits), windows
        )
        for how in ways:
            tried = {
                rate: float(
                    by_window.kl_by_window(
                        beside, trained(net, text("train", 128, 9), bits, how, rate, 9), others
                    ).mean()
                )
                for rate in RATES
            }
            rate = min(tried, key=tried.__getitem__)
            print(bits, how, tried, flush=True)
            found = [
                by_window.kl_by_window(
                    original, trained(net, text("train", 128, seed), bits, how, rate, seed), windows
                )
                for seed in SEEDS
            ]
            rows[f"{bits} bits, trained: {how}"] = found.__getitem__
            print(bits, how, rate, [round(float(f.mean()), 5) for f in found], flush=True)
    rows["2 bits, HQQ, not trained"] = by_window.kl_by_window(
        original, hqq.quantize(net, bits=2), windows
    )
    table = compare(
        "Trained through rounding, or through noise", rows, seeds=SEEDS, against="2 bits, rounded",
        unit="nats of KL",
        protocol=f"64 validation windows of 64 tokens; {STEPS} steps of 8 × 64 tokens, groups of "
                 "64, the best of three rates for each row",
    )  # fmt: skip
    print(table)
    table.save("qat-noise", command="python benchmarks/qat_noise.py")


if __name__ == "__main__":
    main()
