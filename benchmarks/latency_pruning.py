"""Lesson 5.5: the bundled model pruned to 70 % of its time, by an exact choice of widths and by
three that are not, on eight calibration sets.

    python benchmarks/latency_pruning.py          # four minutes on one core; goes on where it was
                                                  # stopped (`--seconds 200`)

The times of the parts are measured once, at the start, and are the same for all. Each set has 8 ×
64 tokens to refit the parts and as many to measure what each costs. Writes
learn/tables/latency-pruning.json.
"""

import torch
from tables import Kept

from course_utils import evaluation, models
from course_utils.evaluation import allocation, by_window
from course_utils.evaluation.comparison import compare
from course_utils.learn import hardware_at_work
from course_utils.systems import latency

COMMAND, SEEDS, TARGET = "python benchmarks/latency_pruning.py", tuple(range(8)), 0.7


def main() -> None:
    kept = Kept("latency-pruning")
    torch.set_num_threads(1)
    net, tokenizer = models.load("bundled")
    ids = evaluation.text.windows(
        tokenizer, "bundled", split="validation", n=64, context=64, seed=0
    ).ids
    goal = by_window.predictions(net, ids)
    wanted = hardware_at_work.wanted()

    def times() -> list[float]:
        known, _ = latency.measure(wanted, batch=8, context=64)
        return [known.of(part) for part in wanted]

    measured = kept.value("seconds", times)
    known = latency.LatencyTable(dict(zip(wanted, measured, strict=True)), 8, 64)

    def one_set(seed: int) -> dict:
        pruning = hardware_at_work.Pruning(net, tokenizer, "bundled", known, seed=seed)
        chosen = {
            "exact": pruning.exact(TARGET),
            "exact, by numbers of weights": by_count(pruning),
            "the same share everywhere": pruning.same(TARGET),
            "by chance": pruning.by_chance(TARGET, seed),
        }
        whole = pruning.seconds(pruning.whole)
        return {
            way: {
                "kl": by_window.kl_by_window(goal, pruning.build(widths), ids).tolist(),
                "time": pruning.seconds(widths) / whole,
            }
            for way, widths in chosen.items()
        }

    found = {}
    for seed in SEEDS:
        found[seed] = kept.value(f"set {seed}", lambda seed=seed: one_set(seed))
        means = {way: sum(v["kl"]) / len(v["kl"]) for way, v in found[seed].items()}
        print(seed, {way: round(mean, 4) for way, mean in means.items()}, flush=True)
    ways = list(found[0])
    table = compare(
        "Pruned to 70 % of the time",
        {w: (lambda seed, w=w: torch.tensor(found[seed][w]["kl"])) for w in ways},
        seeds=SEEDS,
        against="the same share everywhere",
        unit="nats of KL",
        columns={
            "time, forecast": {
                w: f"{sum(found[s][w]['time'] for s in SEEDS) / len(SEEDS):.3f}" for w in ways
            }
        },
        protocol=(
            "bundled model; 64 validation windows of 64 tokens; 8 calibration sets of 16 × 64 "
            "tokens; times of one machine"
        ),
    )
    print(table, flush=True)
    table.save("latency-pruning", command=COMMAND)


def by_count(pruning: hardware_at_work.Pruning) -> dict[str, int]:
    """Lesson 5.1's choice: the least damage for a number of weights, the largest number (in 200
    steps) whose forecast keeps the target.
    """
    every = sum(max(widths.values()) for widths in pruning.weights.values())
    least = sum(min(widths.values()) for widths in pruning.weights.values())
    for step in range(200, -1, -1):
        budget = least + (every - least) * step / 200
        chosen = allocation.allocate(pruning.damages, pruning.weights, budget)
        if pruning.seconds(chosen) <= TARGET * pruning.seconds(pruning.whole):
            return chosen
    raise SystemExit("no number of weights keeps the target")


if __name__ == "__main__":
    main()
