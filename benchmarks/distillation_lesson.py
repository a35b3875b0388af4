"""The comparisons of lesson 2.3 that take minutes; writes the tables that the lesson shows.

    python benchmarks/distillation_lesson.py [loss inside who]

One student, two of the teacher's five blocks; for each seed 64 windows of 64 tokens, walked through
five times in 40 steps of 8. Every row of a seed starts from the same weights and sees the same
tokens in the same order. The checkpoint of a run is chosen on 64 validation windows, and judged on
64 others. Labels alone are run at three peak learning rates, the others at 5e-4, the best of 5e-4,
1e-3 and 2e-3 on one seed for all mixes but τ = 8 (1e-3 there, a hundredth better). "who": 40 steps
in all for every arrangement, of the student and whoever else learns; labels at the best of their
three rates by the choosing windows.
"""

import argparse
import functools
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.distillation import losses, objectives, students, train, variants
from course_utils.evaluation import nats_by_window
from course_utils.evaluation.comparison import compare
from course_utils.models import load
from course_utils.models.data import token_windows
from course_utils.quantization import rtn

CONTEXT, BATCH, WINDOWS, STEPS, JUDGED = 64, 8, 64, 40, 64
PEAK, SEEDS = 5e-4, (0, 1, 2)
LABELS = {"labels": PEAK, "labels, half the rate": PEAK / 2, "labels, twice the rate": 2 * PEAK}
MIXES = {f"τ = {t:g}, α = {a:g}": (t, a) for t, a in ((1, 0), (2, 0), (2, 0.5), (4, 0), (8, 0))}
PROTOCOL = (
    f"{STEPS} steps of {BATCH} × {CONTEXT} tokens from {WINDOWS} windows, {len(SEEDS)} seeds; "
    f"checkpoint chosen on {JUDGED} windows, judged on {JUDGED} others"
)
COMMAND = "python benchmarks/distillation_lesson.py {}"
best = "τ = 1, α = 0"
INSIDE = ("features", "attention", "relations")

teacher, tokenizer = load("bundled")
start = students.from_layers(teacher, students.evenly(teacher, 2))
choose, judge = token_windows(tokenizer, "validation", 2 * JUDGED, CONTEXT, 2).long().split(JUDGED)


@functools.cache
def text(seed: int) -> Tensor:
    return token_windows(tokenizer, "train", WINDOWS, CONTEXT, seed + 1).long()


def options(seed: int, steps: int = STEPS, peak: float = PEAK) -> dict:
    return {
        "validation": choose, "steps": steps, "batch": BATCH, "peak": peak, "seed": seed,
        "keep": "best", "every": max(1, steps // 8), "progress": False,
    }  # fmt: skip


@functools.cache
def answers(seed: int) -> Tensor:
    """The teacher's logits on the text of a seed, asked for once:
    every run reads them five times.
    """
    with torch.no_grad():
        return torch.cat([teacher(input_ids=ids).logits for ids in text(seed).split(16)])


class Formula(objectives.Objective):
    """α CE + (1 − α) times a formula of (student logits, teacher logits), from the answers of a
    seed.
    """

    needs_teacher = False

    def __init__(self, seed: int, formula: Callable[[Tensor, Tensor], Tensor], alpha: float = 0.0):
        super().__init__()
        self._answers, self.formula, self.alpha = answers(seed), formula, alpha

    def forward(self, student, teacher, batch):
        s, t = student.logits[:, :-1], self._answers[batch.rows][:, :-1]
        value = (1 - self.alpha) * self.formula(s, t)
        if self.alpha:
            value = value + self.alpha * losses.cross_entropy(s, batch.labels, batch.counted)
        return {"loss": value}


def softened(tau: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda s, t: tau**2 * losses.kl(s, t, tau)


def objective(name: str, seed: int):
    """A fresh loss: labels, a mix of τ and α, or the best mix with something inside."""
    if name in LABELS:
        return objectives.Labels()
    mix, _, inside = name.partition(" + ")
    tau, alpha = map(float, MIXES[mix])
    if not inside:
        return Formula(seed, softened(tau), alpha)
    more = {
        "features": lambda: objectives.Feature(start, teacher),
        "attention": lambda: objectives.Attention(start, teacher),
        "relations": objectives.Relation,
    }
    return objectives.Sum(objectives.Response(tau, alpha), more[inside]())


@functools.cache
def run(name: str, seed: int):
    result = train(
        start,
        teacher,
        text(seed),
        loss=objective(name, seed),
        **options(seed, peak=LABELS.get(name, PEAK)),
    )
    told = (
        f"{name}, seed {seed}: step {result.step}, choosing {result.validation:.4f}, "
        f"last {result.history[-1]['validation']:.4f}"
    )
    print(told, file=sys.stderr, flush=True)
    return result, nats_by_window(result.model, judge)


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def of_losses(title: str, names: list[str], against: str):
    for name in names:
        [run(name, seed) for seed in SEEDS]

    def each(what):
        return {name: what([run(name, seed)[0] for seed in SEEDS]) for name in names}

    columns = {
        "kept step": each(lambda r: f"{mean(one.step for one in r):.0f}"),
        f"choosing windows, step {STEPS}": each(
            lambda r: f"{mean(one.history[-1]['validation'] for one in r):.3f}"
        ),
    }
    rows = {name: lambda seed, name=name: run(name, seed)[1] for name in names}
    return compare(
        title, rows, seeds=SEEDS, against=against, unit="nats", protocol=PROTOCOL, columns=columns
    )


@functools.cache
def best_rate() -> str:
    """The rate of labels alone that is best on the choosing windows."""
    return min(LABELS, key=lambda name: mean(run(name, seed)[0].validation for seed in SEEDS))


def arrangements() -> dict[str, Callable[[int], Tensor]]:
    """40 steps in all; the response is τ = 1, α = 0 wherever somebody teaches."""
    blocks = students.evenly(teacher, 3)
    middle, peer = students.from_layers(teacher, blocks), students.from_layers(teacher, [1, 4])
    copy = rtn.quantize(teacher, bits=3, group_size=64).model
    half = STEPS // 2
    alone = {"loss": objectives.Response(1.0, 0.0)}

    def last(results) -> Tensor:
        return nats_by_window(results[-1].model, judge)

    return {
        "labels, the best rate": lambda s: run(best_rate(), s)[1],
        "teacher → student": lambda s: run(best, s)[1],
        "progressive: assistant": lambda s:
            last(variants.assistants([middle, start], teacher, text(s), **alone,
                                     **options(s, half))),
        "progressive: growing": lambda s:
            last(variants.growing(teacher, text(s), stages=[blocks[:1], [blocks[0], blocks[-1]]],
                                  **alone, **options(s, half))),
        "self: born again": lambda s:
            last(variants.born_again(start, text(s), generations=1, **alone, **options(s, half))),
        "self: deep to shallow": lambda s:
            last([variants.deep_to_shallow(start, text(s), temperature=1.0, **options(s))]),
        "several teachers": lambda s:
            last([variants.several_teachers(start, [teacher, copy], text(s), temperature=1.0,
                                            alpha=0.0, **options(s))]),
        "online: two peers": lambda s:
            last(variants.mutual([start, peer], text(s), **options(s, half))[:1]),
    }  # fmt: skip


def who():
    own = dict.fromkeys(
        ("progressive: assistant", "progressive: growing", "self: born again", "online: two peers"),
        str(STEPS // 2),
    )
    rows = arrangements()
    columns = {"steps of the student": {name: own.get(name, str(STEPS)) for name in rows}}
    return compare(
        "Who teaches whom",
        rows,
        seeds=SEEDS,
        against=next(iter(rows)),
        unit="nats",
        protocol=PROTOCOL,
        columns=columns,
    )


TABLES = {
    "loss": lambda: of_losses("Labels or a teacher", [*LABELS, *MIXES], "labels"),
    "inside": lambda: of_losses("Something inside, beside the answers",
                                [best, *(f"{best} + {what}" for what in INSIDE)], best),
    "who": who,
}  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; all by default")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    for name in parser.parse_args().tables or TABLES:
        table = TABLES[name]()
        print(table, "\n", flush=True)
        table.save(f"distillation-{name}", command=COMMAND.format(name))
