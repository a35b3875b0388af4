"""Pruning gradually against pruning at once, with the same training, on the bundled model.

    python benchmarks/gradual.py [--sparsity 0.95] [--steps 200] [--seeds 3] [--peaks 3e-3 6e-3]

Magnitude, each layer alike. Both ways see the same fresh documents, `steps` batches of 4 × 128
tokens, and each counts with the better of the peak learning rates, by its loss on 16 windows that
are not used for the comparison. The cubic schedule ends at 55 % of the steps, before the learning
rate begins to fall; masks are made anew every 10 steps.
Writes learn/tables/gradual.json.
"""

import argparse

import torch
from tables import PROTOCOL, bundled

from course_utils.evaluation.comparison import compare
from course_utils.models.data import mean_loss, token_windows
from course_utils.pruning import magnitude, schedules

BATCH, CONTEXT = 4, 128


def main(options: argparse.Namespace) -> None:
    model, tokenizer, divergences = bundled()
    chosen_on = token_windows(tokenizer, "train", 16, CONTEXT, 90_001).long()

    def trained(prune, **more):
        def row(seed: int) -> torch.Tensor:
            ids = token_windows(
                tokenizer, "train", options.steps * BATCH, CONTEXT, 5000 + seed
            ).long()
            tried = []
            for peak in options.peaks:
                training = {
                    "steps": options.steps,
                    "batch": BATCH,
                    "peak": peak,
                    "seed": seed,
                    "update": 10,
                    "progress": False,
                }
                pruned = prune(model, ids, options.sparsity, **training, **more).model
                tried.append((mean_loss(pruned, chosen_on), peak, divergences(pruned)))
                print(
                    (
                        f"seed {seed}, {prune.__name__}, peak {peak}: "
                        f"KL {float(tried[-1][2].mean()):.4f}"
                    ),
                    flush=True,
                )
            return min(tried, key=lambda t: t[:2])[2]

        return row

    rows = {
        "not trained": divergences(magnitude.prune(model, options.sparsity).model),
        "at once": trained(schedules.one_shot),
        "gradually": trained(schedules.gradual, settle=0.45),
    }
    table = compare(
        f"{options.sparsity:.0%} of the weights gone: KL from the dense model", rows,
        seeds=range(options.seeds), against="at once", unit="nats",
        protocol=f"{PROTOCOL}; {options.steps} steps of {BATCH} × {CONTEXT} tokens, "
                 "the same for both",
    )  # fmt: skip
    print(table)
    peaks = " ".join(map(str, options.peaks))
    command = (
        f"--sparsity {options.sparsity} --steps {options.steps} --seeds "
        f"{options.seeds} --peaks {peaks}"
    )
    table.save("gradual", command=f"python benchmarks/gradual.py {command}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peaks", type=float, nargs="+", default=[3e-3, 6e-3])
    main(parser.parse_args())
