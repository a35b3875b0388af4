"""Which facts each method forgets at nearly equal divergence, by how often the people are talked
about.

    python benchmarks/forgetting.py      # three minutes on one core

The bundled model, all 1,500 facts of its world in one wording, right if the right value is the
likeliest of its attribute. Methods that calibrate: three sets of 2,048 tokens. Writes
learn/tables/forgetting-kl.json (64 windows of 64 tokens), forgetting-often.json and
forgetting-seldom.json (share of the five facts of each person that is right: the 50 people talked
about most, the 150 talked about least).
"""

import torch

from course_utils import evaluation, models
from course_utils.evaluation import by_window, facts
from course_utils.evaluation.comparison import compare
from course_utils.pruning import magnitude, structured, wanda
from course_utils.quantization import gptq, rtn

SEEDS = (0, 1, 2)


def main() -> None:
    torch.set_num_threads(1)
    net, tokenizer = models.load("bundled")
    windows = evaluation.text.windows(
        tokenizer, "bundled", split="validation", n=64, context=64, seed=0
    ).ids
    original, asked = by_window.predictions(net, windows), facts.questions(tokenizer)

    def calibration(seed: int):
        return evaluation.text.windows(
            tokenizer, "bundled", split="train", n=32, context=64, seed=seed
        ).ids

    ways = {
        "magnitude .6": lambda seed: magnitude.prune(net, 0.6),
        "GPTQ 2 bits": lambda seed: gptq.quantize(net, calibration(seed), bits=2),
        "RTN 2 bits": lambda seed: rtn.quantize(net, bits=2),
        "magnitude .65": lambda seed: magnitude.prune(net, 0.65),
        "Wanda .65": lambda seed: wanda.prune(net, calibration(seed), sparsity=0.65),
        "without block 3": lambda seed: structured.keep_layers(net, [0, 1, 2, 4]),
    }
    calibrated = {"GPTQ 2 bits", "Wanda .65"}
    kl: dict[str, list] = {name: [] for name in ways}
    people: dict[str, list] = {name: [] for name in ways}
    for name, make in ways.items():
        for seed in SEEDS if name in calibrated else SEEDS[:1]:
            changed = make(seed)
            kl[name].append(by_window.kl_by_window(original, changed, windows))
            people[name].append(facts.known(changed, asked).right.view(-1, 5).mean(1))
            print(
                name, seed, float(kl[name][-1].mean()), float(people[name][-1].mean()), flush=True
            )
    command = "python benchmarks/forgetting.py"
    parts = {
        "kl": (
            "Divergence",
            kl,
            slice(None),
            {"unit": "nats of KL"},
            "64 validation windows of 64 tokens",
        ),
        "often": (
            "Facts right: the 50 people talked about most",
            people,
            slice(0, 50),
            {"better": "higher"},
            "250 facts, by person",
        ),
        "seldom": (
            "Facts right: the 150 people talked about least",
            people,
            slice(150, 300),
            {"better": "higher"},
            "750 facts, by person",
        ),
    }
    for key, (title, found, part, settings, protocol) in parts.items():
        rows = {
            n: v[0][part] if len(v) == 1 else (lambda seed, v=v, part=part: v[seed][part])
            for n, v in found.items()
        }
        table = compare(
            title,
            rows,
            seeds=SEEDS,
            against="RTN 2 bits",
            protocol=f"{protocol}; 3 calibration sets",
            **settings,
        )
        print(table)
        table.save(f"forgetting-{key}", command=command)


if __name__ == "__main__":
    main()
