"""The comparisons on digits of lesson 2.3; writes the tables that the lesson shows.

    python benchmarks/distillation_digits.py [worth temperature ignorant missing]

Students with 12 hidden units and 100 images (two layers, 400 steps of 64); those of "missing" have
32 and all images but the 3s. Students of a seed start alike and see the same images in the same
order, at the peak learning rate 1e-2 (for labels 3e-3 and 100 steps were tried on three seeds, and
not better). Every seed divides the images anew: 1,297 to learn from, 500 to judge by.
"""

import argparse
import functools

import torch

from course_utils.distillation import digits
from course_utils.evaluation.comparison import Comparison, compare

EXAMPLES, HIDDEN, SEEDS, PEAK = 100, 12, range(5), 1e-2
PROTOCOL = (
    f"{EXAMPLES} images, {HIDDEN} hidden units, 400 steps; test accuracy on 500 "
    f"images, {len(SEEDS)} seeds"
)
COMMAND = "python benchmarks/distillation_digits.py {}"


@functools.cache
def data(seed: int) -> digits.Digits:
    return digits.load(seed)


@functools.cache
def teacher(seed: int, kind: str):
    """ "all" images, the "same" few as the student, or one that learned "nothing"."""
    if kind == "all":
        return digits.big(data(seed), seed)
    net = digits.network(64, 256, 256, 10, seed=seed + 100 * (kind == "nothing"), dropout=0.3)
    if kind == "nothing":
        return net.eval()
    return digits.train(
        net,
        data(seed).train_x[:EXAMPLES],
        data(seed).train_y[:EXAMPLES],
        steps=500,
        peak=3e-3,
        seed=seed,
    )


@functools.cache
def student(
    seed: int,
    kind: str | None,
    temperature: float = 4.0,
    alpha: float = 0.1,
    examples: int = EXAMPLES,
) -> float:
    here = data(seed)
    guide = None if kind is None else teacher(seed, kind)
    net = digits.network(64, HIDDEN, 10, seed=seed)
    x, y = here.train_x[:examples], here.train_y[:examples]
    digits.train(net, x, y, guide, temperature=temperature, alpha=alpha, peak=PEAK, seed=seed)
    return digits.accuracy(net, here.test_x, here.test_y)


def taught(*settings):
    return lambda seed: student(seed, *settings)


def table(title: str, rows: dict, **more) -> Comparison:
    return compare(
        title,
        rows,
        seeds=list(SEEDS),
        against=next(iter(rows)),
        better="higher",
        protocol=PROTOCOL,
        **more,
    )


def worth() -> Comparison:
    rows = {
        "labels": taught(None),
        "teacher of the same 100 images": taught("same"),
        "teacher of all 1,297 images": taught("all"),
        "labels of all 1,297 images": taught(None, 4.0, 0.1, 10_000),
        "the teacher of 100 itself": lambda s: digits.accuracy(
            teacher(s, "same"), data(s).test_x, data(s).test_y
        ),
        "the teacher of 1,297 itself": lambda s: digits.accuracy(
            teacher(s, "all"), data(s).test_x, data(s).test_y
        ),
    }
    behind = dict(zip(rows, ("100", "100", "1,297", "1,297", "100", "1,297"), strict=True))
    return table(
        "A student of 12 units, τ = 4, α = 0.1", rows, columns={"images behind it": behind}
    )


def temperature() -> Comparison:
    rows = {"labels": taught(None)} | {
        f"τ = {t}": taught("all", float(t)) for t in (1, 2, 4, 8, 16, 32)
    }
    return table("One student, many temperatures, α = 0.1", rows)


def ignorant() -> Comparison:
    mixes = {
        f"{name}, α = {a:g}": taught(kind, 4.0, a)
        for name, kind in (("good", "all"), ("ignorant", "nothing"))
        for a in (0.0, 0.5)
    }
    return table(
        "Teachers that know and do not know, τ = 4", {"labels alone (α = 1)": taught(None)} | mixes
    )


def missing() -> Comparison:
    found = functools.cache(lambda seed: digits.without(3, seed=seed))
    names = (
        "labels",
        "labels, bias corrected",
        "distilled",
        "distilled, bias corrected",
        "teacher",
    )
    rows = {name: lambda seed, name=name: found(seed)[name] for name in names}
    protocol = (
        "32 hidden units, all images but the 3s, 600 steps, τ = 8, α = 0; "
        f"share of the test 3s that are named, {len(SEEDS)} seeds"
    )
    return compare(
        "A student that never saw a 3",
        rows,
        seeds=list(SEEDS),
        against="labels",
        better="higher",
        protocol=protocol,
    )


TABLES = {"worth": worth, "temperature": temperature, "ignorant": ignorant, "missing": missing}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; all by default")
    torch.set_num_threads(1)
    for name in parser.parse_args().tables or TABLES:
        made = TABLES[name]()
        print(made, "\n", flush=True)
        made.save(f"digits-{name}", command=COMMAND.format(name))
