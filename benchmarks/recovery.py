"""Short training after pruning, at several peak learning rates, on the bundled model: KL from the
dense model and loss.

    python benchmarks/recovery.py [--steps 24] [--peaks 1e-4 3e-4 1e-3]

Batches of 4 × 64 tokens of the training split, `recovery.train` on the text alone; evaluation on 24
× 64 tokens of the validation split.
"""

import argparse

import torch

from course_utils.distillation import losses
from course_utils.models import load
from course_utils.models.data import mean_loss, token_windows
from course_utils.pruning import magnitude, recovery, structured

BATCH, CONTEXT = 4, 64


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    model, tokenizer = load("bundled")
    windows = token_windows(tokenizer, "validation", 24, CONTEXT, 0).long()
    calibration = token_windows(tokenizer, "train", 8, CONTEXT, 1).long()
    ids = token_windows(tokenizer, "train", BATCH * options.steps, CONTEXT, 7).long()

    @torch.no_grad()
    def logits(subject) -> torch.Tensor:
        return subject(windows).logits[:, :-1]

    goal = logits(model)

    def told(subject) -> str:
        return (
            f"KL {float(losses.kl(logits(subject), goal)):.3f}, loss "
            f"{mean_loss(subject, windows):.3f}"
        )

    print(
        f"dense: loss {mean_loss(model, windows):.3f}; {options.steps} steps of "
        f"{BATCH} x {CONTEXT} tokens"
    )
    for name, cut in {
        "50 % of the weights": magnitude.prune(model, 0.5),
        "a block of five": structured.prune_layers(model, calibration, keep=4),
        "half of the MLP channels": structured.prune_mlp(model, calibration, keep=0.5),
        "80 % of the weights": magnitude.prune(model, 0.8),
    }.items():
        print(f"{name}, not trained: {told(cut.model)}", flush=True)
        for peak in options.peaks:
            run = recovery.train(
                cut.model, ids, steps=options.steps, batch=BATCH, peak=peak, progress=False
            )
            print(f"{name}, peak {peak:g}: {told(run.model)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--peaks", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3])
    main(parser.parse_args())
