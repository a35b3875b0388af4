"""Pruning gradually against pruning at once, with the same training, on the bundled model: loss and KL on fresh documents.

    python benchmarks/gradual.py [--sparsity 0.95] [--steps 200] [--seeds 3] [--peaks 3e-3 6e-3]

Magnitude, each layer alike. Both ways see the same fresh documents, `steps` batches of 4 × 128 tokens, and each counts
with the better of the peak learning rates, by the loss. The cubic schedule ends at 55 % of the steps, before the learning
rate begins to fall. Evaluation: 48 × 128 tokens of the training split that neither the model nor a run has seen; KL is
that from the dense model. A line for each run as it ends, the ratios at the end.
"""

import argparse

import torch

from course_utils.distillation.compare import interval
from course_utils.models import load
from course_utils.models.data import mean_loss, token_windows
from course_utils.pruning import schedules

BATCH, CONTEXT = 4, 128


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    model, tokenizer = load("bundled")
    windows = token_windows(tokenizer, "train", 48, CONTEXT, 90_001).long()

    @torch.no_grad()
    def log_p(subject) -> torch.Tensor:
        return torch.cat([subject(part).logits for part in windows.split(16)]).log_softmax(-1)

    goal, dense = log_p(model), mean_loss(model, windows)
    print(f"dense {dense:.4f} nats; sparsity {options.sparsity}, {options.steps} steps of {BATCH} x {CONTEXT} tokens")
    ways = {"at once": (schedules.one_shot, {}), "gradually": (schedules.gradual, {"settle": 0.45})}
    best: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for seed in range(options.seeds):
        ids = token_windows(tokenizer, "train", options.steps * BATCH, CONTEXT, 5000 + seed).long()
        for name, (prune, more) in ways.items():
            found = []
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
                kl = float((goal.exp() * (goal - log_p(pruned))).sum(-1).mean())
                found.append((mean_loss(pruned, windows), kl))
                print(f"seed {seed}, {name}, peak {peak}: loss {found[-1][0]:.4f}, KL {kl:.4f}", flush=True)
            best[name].append(min(found))
    for k, measure in enumerate(("loss above dense", "KL")):
        pairs = zip(best["gradually"], best["at once"], strict=True)
        ratios = [(a[k] - (k == 0) * dense) / (b[k] - (k == 0) * dense) for a, b in pairs]
        spread = f", 95 % interval ± {interval(ratios)[1]:.3f}" if len(ratios) > 1 else ""
        print(f"{measure}, gradually / at once: {sum(ratios) / len(ratios):.3f}{spread}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peaks", type=float, nargs="+", default=[3e-3, 6e-3])
    main(parser.parse_args())
