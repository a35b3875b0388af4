"""The comparisons of lesson 2.3 that take minutes; writes the tables that the lesson shows.

    python benchmarks/distillation_lesson.py [loss inside who]

One student, two of the teacher's five blocks; for each seed 64 windows of 64 tokens, walked through five times in 40
steps of 8. Every row of a seed starts from the same weights and sees the same tokens in the same order. Each loss has
the best of three peak learning rates, found on a seed of its own. The checkpoint of a run is chosen on 64 validation
windows, and judged on 64 others. "who": 40 steps in all for every arrangement, of the student and whoever else learns.
"""

import argparse
import functools
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.distillation import objectives, students, train, variants
from course_utils.evaluation import nats_by_window
from course_utils.evaluation.comparison import compare
from course_utils.models import load
from course_utils.models.data import token_windows
from course_utils.quantization import rtn

CONTEXT, BATCH, WINDOWS, STEPS, JUDGED = 64, 8, 64, 40, 64
PEAKS, TUNED_ON, SEEDS = (2.5e-4, 5e-4, 1e-3), 9, (0, 1, 2)
MIXES = {f"τ = {t:g}, α = {a:g}": (t, a) for t, a in ((1, 0), (1, 0.5), (2, 0), (2, 0.5), (4, 0), (8, 0))}
PROTOCOL = f"{STEPS} steps of {BATCH} × {CONTEXT} tokens from {WINDOWS} windows, {len(SEEDS)} seeds; checkpoint chosen on {JUDGED} windows, judged on {JUDGED} others"
COMMAND = "python benchmarks/distillation_lesson.py {}"
best = "τ = 1, α = 0"

teacher, tokenizer = load("bundled")
start = students.from_layers(teacher, students.evenly(teacher, 2))
choose, judge = token_windows(tokenizer, "validation", 2 * JUDGED, CONTEXT, 2).long().split(JUDGED)


@functools.cache
def text(seed: int) -> Tensor:
    return token_windows(tokenizer, "train", WINDOWS, CONTEXT, seed + 1).long()


def options(seed: int, peak: float, steps: int = STEPS) -> dict:
    return {
        "validation": choose, "steps": steps, "batch": BATCH, "peak": peak, "seed": seed, "keep": "best",
        "every": max(1, steps // 8), "progress": False,
    }  # fmt: skip


def objective(name: str):
    """A fresh loss: labels, a mix of τ and α, or the best mix with something inside."""
    if name == "labels":
        return objectives.Labels()
    mix, _, inside = name.partition(" + ")
    response = objectives.Response(*map(float, MIXES[mix]))
    more = {
        "features": lambda: objectives.Feature(start, teacher), "attention": lambda: objectives.Attention(start, teacher),
        "relations": objectives.Relation,
    }  # fmt: skip
    return objectives.Sum(response, more[inside]()) if inside else response


@functools.cache
def run(name: str, seed: int, peak: float):
    result = train(start, teacher, text(seed), loss=objective(name), **options(seed, peak))
    told = f"{name}, seed {seed}, peak {peak:g}: step {result.step}, choosing {result.validation:.4f}, last {result.history[-1]['validation']:.4f}"
    print(told, file=sys.stderr, flush=True)
    return result, nats_by_window(result.model, judge)


@functools.cache
def peak_of(name: str) -> float:
    """The best peak learning rate of a loss on a seed that is not among those compared."""
    return min(PEAKS, key=lambda peak: run(name, TUNED_ON, peak)[0].validation)


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def of_losses(title: str, names: list[str], against: str, peaks: Callable[[str], float]):
    def each(what):
        return {name: what([run(name, seed, peaks(name))[0] for seed in SEEDS]) for name in names}

    rows = {name: lambda seed, name=name: run(name, seed, peaks(name))[1] for name in names}
    for name in names:
        [run(name, seed, peaks(name)) for seed in SEEDS]
    columns = {
        "peak": {name: f"{peaks(name):g}" for name in names},
        "kept step": each(lambda r: f"{mean(one.step for one in r):.0f}"),
        "at step 40": each(lambda r: f"{mean(one.history[-1]['validation'] for one in r):.3f}"),
    }
    return compare(title, rows, seeds=SEEDS, against=against, unit="nats", protocol=PROTOCOL, columns=columns)


def arrangements() -> dict[str, Callable[[int], Tensor]]:
    """40 steps in all; the response is τ = 1, α = 0 wherever somebody teaches."""
    blocks = students.evenly(teacher, 3)
    middle, peer = students.from_layers(teacher, blocks), students.from_layers(teacher, [1, 4])
    copy = rtn.quantize(teacher, bits=3, group_size=64).model
    half, peak = STEPS // 2, peak_of(best)
    answers = {"loss": objectives.Response(1.0, 0.0)}

    def last(results) -> Tensor:
        return nats_by_window(results[-1].model, judge)

    return {
        "labels": lambda s: run("labels", s, peak_of("labels"))[1],
        "teacher → student": lambda s: run(best, s, peak)[1],
        "progressive: assistant": lambda s: last(variants.assistants([middle, start], teacher, text(s), **answers, **options(s, peak, half))),
        "progressive: growing": lambda s: last(variants.growing(teacher, text(s), stages=[blocks[:1], [blocks[0], blocks[-1]]], **answers, **options(s, peak, half))),
        "self: born again": lambda s: last(variants.born_again(start, text(s), generations=1, **answers, **options(s, peak, half))),
        "self: deep to shallow": lambda s: last([variants.deep_to_shallow(start, text(s), temperature=1.0, **options(s, peak))]),
        "several teachers": lambda s: last([variants.several_teachers(start, [teacher, copy], text(s), temperature=1.0, alpha=0.0, **options(s, peak))]),
        "online: two peers": lambda s: last(variants.mutual([start, peer], text(s), **options(s, peak, half))[:1]),
    }  # fmt: skip


def who():
    own = dict.fromkeys(("progressive: assistant", "progressive: growing", "self: born again", "online: two peers"), str(STEPS // 2))
    rows = arrangements()
    columns = {"steps of the student": {name: own.get(name, str(STEPS)) for name in rows}}
    return compare("Who teaches whom", rows, seeds=SEEDS, against="labels", unit="nats", protocol=PROTOCOL, columns=columns)


TABLES = {
    "loss": lambda: of_losses("Labels or a teacher", ["labels", *MIXES], "labels", peak_of),
    "inside": lambda: of_losses(
        "Something inside, beside the answers", [best, *(f"{best} + {what}" for what in ("features", "attention", "relations"))], best,
        lambda name: peak_of(best),
    ),
    "who": who,
}  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; all by default")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    for name in parser.parse_args().tables or TABLES:
        table = TABLES[name]()
        print(table, "\n", flush=True)
        table.save(f"distillation-{name}", command=COMMAND.format(name))
