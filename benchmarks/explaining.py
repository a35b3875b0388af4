"""What compression took away, at equal divergence: facts by how often they were seen, and the
circuit that copies.

    python benchmarks/explaining.py  # four minutes on one core; goes on where it was stopped
    python benchmarks/explaining.py --seconds 200

The bundled model, rounded to 2 bits in groups of 64; every other row is set, by bisection on the
same 64 windows of 128 tokens, to the same mean divergence. The control is Gaussian noise of equal
relative size in all layers. Three calibration sets of 2,048 tokens, three draws of the noise.
Writes learn/tables/explaining-kl.json, explaining-often.json, explaining-seldom.json (share of the
five facts of a person that is right: the 50 people talked about most, the 150 least) and
explaining-copying.json (divergence at the tokens that could be copied from the window, for they
followed the same token before).
"""

import copy

import torch
from tables import Kept

from course_utils import evaluation, models
from course_utils.evaluation import by_window, circuits, facts
from course_utils.evaluation.comparison import compare
from course_utils.models import walk
from course_utils.pruning import magnitude, wanda
from course_utils.quantization import rtn
from course_utils.theory import noise

SEEDS, COMMAND = (0, 1, 2), "python benchmarks/explaining.py"


def noisy(net, level: float, seed: int):
    """Every layer of the blocks with Gaussian noise of this relative size."""
    changed = copy.deepcopy(net)
    for i, module in enumerate(walk.compressible(changed).values()):
        module.weight.data = noise.noisy(
            module.weight.data, level, "additive", torch.Generator().manual_seed(1000 * seed + i)
        )
    return changed


def matched(make, goal: float, measure, low: float, high: float, rounds: int = 8) -> float:
    """The strength at which make(strength) has this divergence: bisection, divergence rising with
    strength.
    """
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (middle, high) if float(measure(make(middle)).mean()) < goal else (low, middle)
    return (low + high) / 2


def main() -> None:
    kept = Kept("explaining")
    torch.set_num_threads(1)
    net, tokenizer = models.load("bundled")
    windows = evaluation.text.windows(
        tokenizer, "bundled", split="validation", n=64, context=128, seed=0
    ).ids
    original, asked = by_window.predictions(net, windows), facts.questions(tokenizer)
    copied = circuits.seen_before(windows)
    sets = {
        seed: evaluation.text.windows(
            tokenizer, "bundled", split="train", n=32, context=64, seed=seed
        ).ids
        for seed in SEEDS
    }

    def damage(changed):
        return by_window.kl_by_window(original, changed, windows)

    ways = {
        "original": lambda strength, seed: net,
        "RTN 2 bits": lambda strength, seed: rtn.quantize(net, bits=2).model,
        "magnitude": lambda strength, seed: magnitude.prune(net, strength).model,
        "Wanda": lambda strength, seed: wanda.prune(net, sets[seed], sparsity=strength).model,
        "noise": lambda strength, seed: noisy(net, strength, seed),
    }
    ranges = {"magnitude": (0.5, 0.8), "Wanda": (0.5, 0.8), "noise": (0.05, 0.8)}
    drawn = {"Wanda", "noise"}
    goal = kept.value("goal", lambda: float(damage(ways["RTN 2 bits"](0, 0)).mean()))

    def measured(name: str, seed: int) -> dict:
        seed = seed if name in drawn else 0
        strength = kept.value(f"strength, {name}, {seed}", lambda: matched(
            lambda s: ways[name](s, seed), goal, damage, *ranges[name]) if name in ranges else 0.0
        )  # fmt: skip

        def measure():
            changed = ways[name](strength, seed)
            right = facts.known(changed, asked).right.view(-1, 5).mean(1)
            return {
                "kl": damage(changed).tolist(),
                "facts": right.tolist(),
                "copying": circuits.kl_where(original, changed, windows, copied).tolist(),
            }

        found = kept.value(f"{name}, {seed}", measure)
        return {key: torch.tensor(values, dtype=torch.float64) for key, values in found.items()}

    for name in ways:
        for seed in SEEDS if name in drawn else SEEDS[:1]:
            found = measured(name, seed)
            print(
                name, seed, {key: round(float(v.mean()), 4) for key, v in found.items()}, flush=True
            )
    parts = {
        "kl": (
            "Divergence, made equal",
            "kl",
            slice(None),
            {"unit": "nats of KL"},
            "64 validation windows of 128 tokens",
        ),
        "often": (
            "Facts right: the 50 people talked about most",
            "facts",
            slice(0, 50),
            {"better": "higher"},
            "250 facts, by person",
        ),
        "seldom": (
            "Facts right: the 150 people talked about least",
            "facts",
            slice(150, 300),
            {"better": "higher"},
            "750 facts, by person",
        ),
        "copying": (
            "Divergence at tokens that can be copied",
            "copying",
            slice(None),
            {"unit": "nats of KL"},
            "64 validation windows of 128 tokens, a quarter of their tokens",
        ),
    }
    for key, (title, what, part, settings, protocol) in parts.items():
        names = [n for n in ways if key in ("often", "seldom") or n != "original"]
        rows = {
            n: (lambda seed, n=n, what=what, part=part: measured(n, seed)[what][part])
            for n in names
        }
        table = compare(
            title,
            rows,
            seeds=SEEDS,
            against="noise",
            protocol=f"{protocol}; 3 calibration sets or draws of the noise",
            **settings,
        )
        print(table)
        table.save(f"explaining-{key}", command=COMMAND)


if __name__ == "__main__":
    main()
