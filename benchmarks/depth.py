"""Four blocks of five for each token: early exits, mixtures of depths and a block that is skipped.

    python benchmarks/depth.py            # nothing is trained; three minutes on one core
    python benchmarks/depth.py trained    # the model learns to do without; a quarter of an hour

Both go on where they were stopped. The bundled model. Every row is set to 4.0 of 5 blocks a token
on average, on its calibration set: 64 × 64 tokens, or where something is trained 256 × 64, read in
steps of 8; three calibration sets. Each row that is trained has the better of two rates, by KL on
64 more windows for a fourth set. Writes learn/tables/depth.json and depth-trained.json: KL from the
original on 64 validation windows of 64 tokens.
"""

import sys
from collections.abc import Callable

import torch
from tables import Kept
from torch import Tensor
from transformers import PreTrainedModel

from course_utils import evaluation, models
from course_utils.evaluation.comparison import compare
from course_utils.systems import depth, depth_training

SEEDS, COMMAND = (0, 1, 2), "python benchmarks/depth.py"
STEPS, BATCH, TUNED_ON = 64, 8, 9
RATES = ((1e-4, 10.0), (3e-4, 10.0))  # of the model, and how much more the router's is
TRAINED = {  # blocks with a choice, the share of tokens that they see, who chooses
    "one block for all": ((2,), 0.0, "chance"),
    "tokens by chance, all blocks but the first": ((1, 2, 3, 4), 0.75, "chance"),
    "router, all blocks but the first": ((1, 2, 3, 4), 0.75, "router"),
    "tokens by chance, blocks 2 and 3": ((2, 3), 0.5, "chance"),
    "router that is not trained, blocks 2 and 3": ((2, 3), 0.5, "fitted"),
    "router, blocks 2 and 3": ((2, 3), 0.5, "router"),
}


def trained() -> None:
    kept = Kept("depth-trained")
    net, windows, text = setting()
    goal = depth.predictions(net, windows)

    def measure(name: str, seed: int, rate: tuple[float, float], ids: Tensor, goal: Tensor) -> dict:
        blocks, share, by = TRAINED[name]
        student, choose = depth_training.train(
            net, text(seed, 256), blocks, share, by=by, steps=STEPS, batch=BATCH, peak=rate[0],
            router_rate=rate[1], seed=seed,
        )  # fmt: skip
        return judged(goal, student, ids, choose(student, ids))

    extra = text(77)
    seen = depth.predictions(net, extra)

    def chosen(name: str) -> tuple[float, float]:
        def far(rate: tuple[float, float]) -> float:
            key = f"{name}, {rate}"
            found = kept.value(key, lambda: measure(name, TUNED_ON, rate, extra, seen))
            return sum(found["kl"]) / len(found["kl"])

        best = min(RATES, key=far)
        print(name, {rate: round(far(rate), 4) for rate in RATES}, flush=True)
        return best

    found: dict[str, list[dict]] = {}
    for name in TRAINED:
        rate = chosen(name)
        found[name] = [
            kept.value(f"{name}, {seed}", lambda: measure(name, seed, rate, windows, goal))  # noqa: B023
            for seed in SEEDS
        ]
    table(
        "Four of five blocks a token, trained: KL from the original", found, "depth-trained",
        f"{COMMAND} trained", f"trained on {STEPS * BATCH * 64:,} tokens of 3 sets of 256 × 64",
    )  # fmt: skip


def setting() -> tuple[PreTrainedModel, Tensor, Callable[..., Tensor]]:
    """The bundled model, the 64 windows of the tables, text(seed, n) of the training split."""
    torch.set_num_threads(1)
    net, tokenizer = models.load("bundled")

    def text(seed: int, n: int = 64, split: str = "train") -> Tensor:
        return evaluation.text.windows(
            tokenizer, "bundled", split=split, n=n, context=64, seed=seed
        ).ids

    return net, text(0, split="validation"), text


def judged(goal: Tensor, model: PreTrainedModel, ids: Tensor, skips: depth.Skips) -> dict:
    """Divergence of each window, and the mean number of blocks that a token runs."""
    used = 5 - sum(float(s.float().mean()) for s in skips.values())
    return {"kl": depth.kl(goal, depth.predictions(model, ids, skips)).tolist(), "blocks": used}


def table(title: str, found: dict[str, list[dict]], name: str, command: str, how: str) -> None:
    blocks = {
        name: round(sum(each["blocks"] for each in line) / len(line), 2)
        for name, line in found.items()
    }
    made = compare(
        title,
        {n: (lambda seed, n=n: torch.tensor(found[n][seed]["kl"])) for n in found},
        seeds=SEEDS, against="one block for all", unit="nats of KL",
        columns={"blocks a token": blocks}, protocol=f"64 validation windows of 64 tokens; {how}",
    )  # fmt: skip
    print(made, flush=True)
    made.save(name, command=command)


def untrained() -> None:
    kept = Kept("depth")
    net, windows, text = setting()
    original = depth.predictions(net, windows)
    ways = {
        "one block for all": lambda seed: depth.best_block(net, text(seed)),
        "tokens by chance, all blocks but the first": lambda seed: depth.by_chance(
            net, (1, 2, 3, 4), 0.75, seed
        ),
        "router, all blocks but the first": lambda seed: (
            depth.Router(net, text(seed), (1, 2, 3, 4), 0.75).skips
        ),
        "tokens by chance, blocks 2 and 3": lambda seed: depth.by_chance(net, (2, 3), 0.5, seed),
        "router, blocks 2 and 3": lambda seed: depth.Router(net, text(seed), (2, 3), 0.5).skips,
        "early exit": lambda seed: depth.exit_at_mean(net, text(seed), 4.0),
    }

    def measure(name: str, seed: int) -> dict:
        return judged(original, net, windows, ways[name](seed)(net, windows))

    found = {
        n: [kept.value(f"{n}, {seed}", lambda n=n, seed=seed: measure(n, seed)) for seed in SEEDS]
        for n in ways
    }
    table(
        "Four of five blocks a token, not trained: KL from the original", found, "depth", COMMAND,
        "set on 3 calibration sets of 64 × 64 tokens",
    )  # fmt: skip


if __name__ == "__main__":
    trained() if "trained" in sys.argv else untrained()
