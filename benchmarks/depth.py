"""Four blocks of five for each token: early exits, mixtures of depths and a block that is skipped,
without training.

    python benchmarks/depth.py  # three minutes on one core; goes on where it was stopped

The bundled model. Every row is set, on its calibration set of 64 × 64 tokens, to 4.0 of 5 blocks a
token on average; three calibration sets. Writes learn/tables/depth.json: KL from the original on 64
validation windows of 64 tokens.
"""

import torch
from tables import Kept

from course_utils import evaluation, models
from course_utils.evaluation.comparison import compare
from course_utils.systems import depth

SEEDS, COMMAND = (0, 1, 2), "python benchmarks/depth.py"


def main() -> None:
    kept = Kept("depth")
    torch.set_num_threads(1)
    net, tokenizer = models.load("bundled")
    windows = evaluation.text.windows(
        tokenizer, "bundled", split="validation", n=64, context=64, seed=0
    ).ids
    original = depth.predictions(net, windows)

    def text(seed: int, n: int = 64):
        return evaluation.text.windows(
            tokenizer, "bundled", split="train", n=n, context=64, seed=seed
        ).ids

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
        skips = ways[name](seed)(net, windows)
        used = 5 - sum(float(s.float().mean()) for s in skips.values())
        return {
            "kl": depth.kl(original, depth.predictions(net, windows, skips)).tolist(),
            "blocks": used,
        }

    found = {
        n: [kept.value(f"{n}, {seed}", lambda n=n, seed=seed: measure(n, seed)) for seed in SEEDS]
        for n in ways
    }
    blocks = {
        name: round(sum(each["blocks"] for each in line) / len(line), 2)
        for name, line in found.items()
    }
    table = compare(
        "Four of five blocks a token, not trained: KL from the original",
        {n: (lambda seed, n=n: torch.tensor(found[n][seed]["kl"])) for n in ways},
        seeds=SEEDS,
        against="one block for all",
        unit="nats of KL",
        columns={"blocks a token": blocks},
        protocol="64 validation windows of 64 tokens; set on 3 calibration sets of 64 × 64 tokens",
    )
    print(table, flush=True)
    table.save("depth", command=COMMAND)


if __name__ == "__main__":
    main()
