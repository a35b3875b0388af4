"""Lesson 5.4: gates and movement on the bundled model, beside magnitude and Wanda at the same
number of zeros.

    python benchmarks/gates.py weights  # 70 % of the weights are 0; the others keep their values
    python benchmarks/gates.py inputs       # 25 % of the weights are 0, whole inputs of layers; the
                                            # others keep their values
    python benchmarks/gates.py trained      # 70 % of the weights are 0; the others are trained, in
                                            # all rows by the same steps

About a quarter of an hour on one core together; each goes on where it was stopped (`--seconds
200`). A calibration set is 64 × 128 tokens, the same for all rows; what is trained takes 96 steps
of 4 sequences of it, at the better of two rates, chosen on another set by 16 more windows. Writes
learn/tables/gates-weights.json, gates-inputs.json and gates-trained.json.
"""

import sys
from functools import cache

import torch
from tables import PROTOCOL, Kept, bundled
from torch import Tensor

from course_utils import evaluation
from course_utils.evaluation.comparison import compare
from course_utils.models import sharing, walk
from course_utils.pruning import (
    apply,
    concrete,
    gated,
    magnitude,
    mask_training,
    recovery,
    schedules,
    wanda,
)

SEEDS, STEPS, BATCH, TUNED_ON = (0, 1, 2), 96, 4, 9
SHARE = {"weights": 0.7, "inputs": 0.25, "trained": 0.7}
RATES = {"gates": (0.1, 0.2), "rates": (0.05, 0.1), "training": (3e-4, 1e-3)}


def main(kind: str) -> None:
    kept, share = Kept(f"gates-{kind}"), SHARE[kind]
    model, tokenizer, divergences = bundled()
    extra = evaluation.text.windows(
        tokenizer, "bundled", split="train", n=16, context=128, seed=77
    ).ids
    goal = evaluation.predictions(model, extra)

    @cache
    def text(seed: int) -> Tensor:
        return evaluation.calibration(tokenizer, "bundled", n=64, context=128, seed=200 + seed)

    def by_gates(seed: int, rate: float, gates: str = "hard"):
        unit = "weight" if kind == "weights" else "input"
        return gated.prune(
            model, text(seed), share, unit=unit, gates=gates, steps=STEPS, batch=BATCH,
            learning_rate=rate, seed=seed,
        ).model  # fmt: skip

    def whole_inputs(score: str, seed: int):
        columns = column_scores(score, seed)
        ranks = {name: s.argsort(1).argsort(1) / s.shape[1] for name, s in columns.items()}
        return without(model, ranks, share)

    def column_scores(score: str, seed: int) -> dict[str, Tensor]:
        layers = walk.compressible(model)
        scores = mask_training.starting_scores(model, text(seed), layers, score)
        return {name: s.square().mean(0, keepdim=True).sqrt() for name, s in scores.items()}

    def as_many(seed: int):
        """Of each layer as many inputs go as the gates close there, the ones with the smallest
        scores of Wanda.
        """
        gated_model = by_gates(seed, rate_of("hard concrete"))
        work = sharing.structure(model).eval()
        closed = walk.compressible(gated_model)
        scores = column_scores("wanda", seed)
        for name, module in walk.compressible(work).items():
            gone = int((walk.weight_of(closed[name]) == 0).all(0).sum())
            apply.zero_outside(module, scores[name].argsort(1).argsort(1) >= gone)
        return sharing.own(work, model)

    def after(start, seed: int, rate: float):
        return recovery.train(
            start, text(seed), steps=STEPS, batch=BATCH, peak=rate, seed=seed, progress=False
        ).model

    def gradually(score: str, seed: int, rate: float):
        return schedules.gradual(
            model, text(seed), share, score=score, steps=STEPS, batch=BATCH, peak=rate, seed=seed,
            progress=False,
        ).model  # fmt: skip

    ways = {
        "weights": {
            "magnitude": lambda seed: magnitude.prune(model, share).model,
            "magnitude, all layers together": lambda seed: (
                magnitude.prune(model, share, pattern="global").model
            ),
            "Wanda": lambda seed: wanda.prune(model, text(seed), share).model,
            "hard concrete": ("gates", by_gates),
            "soft gates": ("gates", lambda seed, rate: by_gates(seed, rate, "soft")),
        },
        "inputs": {
            "magnitude, each layer": lambda seed: whole_inputs("magnitude", seed),
            "Wanda, each layer": lambda seed: whole_inputs("wanda", seed),
            "Wanda, as many of each layer as hard concrete": as_many,
            "hard concrete": ("gates", by_gates),
            "concrete dropout": (
                "rates",
                lambda seed, rate: by_dropout(model, text(seed), share, rate, seed),
            ),
        },
        "trained": {
            "nothing removed": ("training", lambda seed, rate: after(model, seed, rate)),
            "magnitude, then training": (
                "training",
                lambda seed, rate: after(magnitude.prune(model, share).model, seed, rate),
            ),
            "Wanda, then training": (
                "training",
                lambda seed, rate: after(wanda.prune(model, text(seed), share).model, seed, rate),
            ),
            "magnitude, gradually": ("training", lambda s, rate: gradually("magnitude", s, rate)),
            "movement, gradually": ("training", lambda s, rate: gradually("movement", s, rate)),
        },
    }[kind]

    def rate_of(name: str) -> float:
        which, make = ways[name]

        def loss(rate: float) -> float:
            return float(evaluation.kl_by_window(goal, make(TUNED_ON, rate), extra).mean())

        return kept.best(f"{name}, rate", RATES[which], loss)

    def measured(name: str, seed: int) -> dict:
        way = ways[name]
        made = way[1](seed, rate_of(name)) if isinstance(way, tuple) else way(seed)
        return {"kl": divergences(made).tolist(), "zeros": apply.sparsity_of(made)}

    found = {}
    for seed in SEEDS:
        for name in ways:
            one = kept.value(f"{name}, {seed}", lambda name=name, seed=seed: measured(name, seed))
            found[name, seed] = one
            print(seed, name, f"{sum(one['kl']) / len(one['kl']):.4f}", flush=True)
    zeros = {
        name: f"{sum(found[name, s]['zeros'] for s in SEEDS) / len(SEEDS):.1%}" for name in ways
    }
    titles = {
        "weights": "70 % of the weights gone, the others as they were: KL from the original",
        "inputs": "Whole inputs gone, a quarter of the weights: KL from the original",
        "trained": "70 % of the weights gone, the others trained: KL from the original",
    }
    table = compare(
        titles[kind],
        {name: (lambda seed, name=name: torch.tensor(found[name, seed]["kl"])) for name in ways},
        seeds=SEEDS,
        against={"weights": "Wanda", "inputs": "Wanda, as many of each layer as hard concrete"}.get(
            kind, "Wanda, then training"
        ),
        unit="nats",
        columns={"zeros": zeros},
        protocol=(
            f"{PROTOCOL}; 3 calibration sets of 64 × 128 tokens; {STEPS} steps of {BATCH} "
            "sequences for what is trained, at the better of two rates"
        ),
    )
    print(table, flush=True)
    table.save(f"gates-{kind}", command=f"python benchmarks/gates.py {kind}")


def without(model, scores: dict[str, Tensor], share: float):
    """A copy in which the inputs with the smallest scores (1, in) are zero, all layers ranked
    together, until `share` of the weights are.
    """
    work = sharing.structure(model).eval()
    layers = walk.compressible(work)
    kept = gated._inputs(
        scores, {name: walk.weight_of(m).shape[0] for name, m in layers.items()}, share
    )
    for name, module in layers.items():
        apply.zero_outside(module, kept[name])
    return sharing.own(work, model)


def by_dropout(model, data: Tensor, share: float, rate: float, seed: int):
    """Concrete dropout with one learned rate for each input of a layer and frozen weights; inputs
    with the largest rates go.
    """
    layers = walk.compressible(model)
    frozen = {name: walk.weight_of(m).detach() for name, m in layers.items()}
    logit = {name: torch.full((1, w.shape[1]), -2.0).requires_grad_() for name, w in frozen.items()}
    rng = torch.Generator().manual_seed(seed + 1)

    def dropped(_: int) -> dict[str, Tensor]:
        return {
            name: frozen[name]
            * concrete.drop_gate(a, concrete.logistic_noise(a.shape, rng))
            / (1 - torch.sigmoid(a))
            for name, a in logit.items()
        }

    def penalty(_: int) -> Tensor:
        return sum(
            concrete.dropout_penalty(
                torch.sigmoid(a)[0], frozen[name], length=0.1, examples=data.numel()
            )
            for name, a in logit.items()
        )

    mask_training.descend(
        model, dropped, logit.values(), data, steps=STEPS, batch=BATCH, learning_rate=rate,
        seed=seed, title="concrete dropout", penalty=penalty,
    )  # fmt: skip
    return without(model, {name: -a.detach() for name, a in logit.items()}, share)


if __name__ == "__main__":
    chosen = [a for a in sys.argv[1:] if a in SHARE]
    if not chosen:
        sys.exit(f"say which table: {', '.join(SHARE)}")
    main(chosen[0])
