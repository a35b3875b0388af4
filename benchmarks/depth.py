"""Four blocks of five for each token: early exits, mixtures of depths and a block that is skipped, before and after training.

    python benchmarks/depth.py                    # five minutes on one core; goes on where it was stopped
    python benchmarks/depth.py --seconds 200

The bundled model. Every row is set, on its calibration set of 64 × 64 tokens, to 4.0 of 5 blocks a token on average. With training:
60 steps of 8 sequences of 64 tokens, distilled from the original, the same tokens and the same peak learning rate for all; three
seeds. Writes learn/tables/depth.json and depth-trained.json: KL from the original on 64 validation windows of 64 tokens.
"""

import copy

import torch
from tables import Kept

from course_utils import evaluation, models
from course_utils.distillation import fit
from course_utils.evaluation.comparison import compare
from course_utils.systems import depth

SEEDS, STEPS, COMMAND = (0, 1, 2), 60, "python benchmarks/depth.py"
TRAINED = ("one block for all", "tokens by chance, all blocks but the first", "router, all blocks but the first", "early exit")


def main() -> None:
    kept = Kept("depth")
    torch.set_num_threads(1)
    net, tokenizer = models.load("bundled")
    windows = evaluation.text.windows(tokenizer, "bundled", split="validation", n=64, context=64, seed=0).ids
    original = depth.predictions(net, windows)

    def text(seed: int, n: int = 64):
        return evaluation.text.windows(tokenizer, "bundled", split="train", n=n, context=64, seed=seed).ids

    ways = {
        "one block for all": lambda seed: depth.best_block(net, text(seed)),
        "tokens by chance, all blocks but the first": lambda seed: depth.by_chance(net, (1, 2, 3, 4), 0.75, seed),
        "router, all blocks but the first": lambda seed: depth.Router(net, text(seed), (1, 2, 3, 4), 0.75).skips,
        "tokens by chance, blocks 2 and 3": lambda seed: depth.by_chance(net, (2, 3), 0.5, seed),
        "router, blocks 2 and 3": lambda seed: depth.Router(net, text(seed), (2, 3), 0.5).skips,
        "early exit": lambda seed: depth.exit_at_mean(net, text(seed), 4.0),
        "early exit, at chance": lambda seed: depth.shuffled(depth.exit_at_mean(net, text(seed), 4.0), seed),
    }

    def trained(make, seed: int):
        student, choose, ids = copy.deepcopy(net).train(), make(seed), text(100 + seed, 480)
        teacher = depth.predictions(net, ids)

        def loss(rows):
            skips = choose(student, ids[rows])
            with depth.bypassed(student, skips):
                q = student(input_ids=ids[rows].long(), use_cache=False).logits.log_softmax(-1)
            return {"kl": (teacher[rows].exp() * (teacher[rows] - q)).sum(-1).mean()}, float(len(rows))

        fit.fit(student, loss, len(ids), steps=STEPS, batch=8, peak=5e-4, seed=seed, every=STEPS, progress=False)
        return student.eval(), choose

    def measure(name: str, seed: int, train: bool) -> dict:
        student, choose = trained(ways[name], seed) if train else (net, ways[name](seed))
        with torch.no_grad():
            skips = choose(student, windows)
        used = 5 - sum(float(s.float().mean()) for s in skips.values())
        return {"kl": depth.kl(original, depth.predictions(student, windows, skips)).tolist(), "blocks": used}

    for train, file, title in ((False, "depth", "not trained"), (True, "depth-trained", f"{STEPS} steps of training")):
        chosen = [n for n in ways if not train or n in TRAINED]
        found = {n: [kept.value(f"{n}, {seed}, {train}", lambda n=n, seed=seed, train=train: measure(n, seed, train)) for seed in SEEDS] for n in chosen}
        blocks = {name: round(sum(each["blocks"] for each in line) / len(line), 2) for name, line in found.items()}
        table = compare(
            f"Four of five blocks a token, {title}: KL from the original",
            {n: (lambda seed, n=n, found=found: torch.tensor(found[n][seed]["kl"])) for n in chosen}, seeds=SEEDS, against="one block for all",
            unit="nats of KL", columns={"blocks a token": blocks},
            protocol="64 validation windows of 64 tokens; set on 3 calibration sets of 64 × 64 tokens",
        )  # fmt: skip
        print(table, flush=True)
        table.save(file, command=COMMAND)


if __name__ == "__main__":
    main()
