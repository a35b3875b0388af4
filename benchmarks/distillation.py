"""The same small student trained on labels alone and distilled, from the bundled model, over
several seeds.

    python benchmarks/distillation.py [quarter tenth] [--kinds facts] [--windows 64] [--steps 40]
        [--seeds 3]

There is little text: `windows` pieces of 64 tokens, walked through again and again (0: new text at
every step).
With `before`, the start of all ways has first been trained on labels for so many steps of new text.
Every way of a seed starts from the same weights and sees the same tokens in the same order, so a
gain is a paired difference. Each run keeps the best of eight checkpoints by 64 windows, and 64
others judge it: without this a student of labels alone, which soon knows its few windows by heart,
is judged at its worst. Prints Markdown: the mean over seeds and Student's 95 % interval of the mean
of the gains.
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from course_utils.distillation import compare, students, train
from course_utils.evaluation import task_scores
from course_utils.models import load
from course_utils.models.data import mean_loss, token_windows

CONTEXT, BATCH = 64, 8
WAYS = {
    "labels alone": "labels", "response": "response", "response + features": "response+feature",
    "response + attention": "response+attention",
}  # fmt: skip


def gain(mine: list[float], base: list[float], sign: int) -> str:
    """Mean ± half width of the paired gains over `base`, positive where `mine` is better."""
    mean, half = compare.interval([sign * (a - b) for a, b in zip(mine, base, strict=True)])
    return f"{mean:+.4f} ± {half:.4f}"


def gains(found: dict, name: str, what: str, sign: int) -> list[str]:
    """The gains over labels alone and over the response alone; empty where a way would be compared
    with itself.
    """
    bases = {"labels alone": [], "response": ["labels alone"]}.get(
        name, ["labels alone", "response"]
    )
    told = [gain(found[name][what], found[base][what], sign) for base in bases]
    return told + [""] * (2 - len(told))


class Setting:
    """The teacher, one start and one validation text for all ways and seeds."""

    def __init__(self, size: str, a: argparse.Namespace):
        self.size, self.a = size, a
        self.teacher, self.tokenizer = load("bundled")
        self.choose, self.validation = self.text("validation", 128, 0).split(64)
        calibration = token_windows(self.tokenizer, "train", 16, 128, 0).long()
        self.student = students.bundled(self.teacher, size, calibration)
        if a.before:
            ids = self.text("train", a.before * BATCH, 0)
            self.student = train(
                self.student,
                None,
                ids,
                loss="labels",
                steps=a.before,
                batch=BATCH,
                peak=a.peak,
                progress=False,
            ).model

    def text(self, split: str, n: int, seed: int) -> torch.Tensor:
        return token_windows(self.tokenizer, split, n, CONTEXT, seed, self.a.kinds).long()

    def facts(self, model) -> float:
        """Accuracy on as many questions of each split that no training text comes from."""
        splits = [
            task_scores(model, self.tokenizer, tasks=("facts",), n=self.a.questions, split=split)[
                "facts"
            ].accuracy
            for split in ("validation", "test")
        ]
        return sum(splits) / 2

    def measure(self, seeds: Sequence[int]) -> dict[str, dict]:
        """What `compare.losses` finds, seed by seed, so that a run that is stopped has told what it
        knows.
        """
        found: dict[str, dict] = {
            name: {"loss": [], "step": [], "score": [], "seconds": 0.0} for name in self.a.ways
        }
        a = self.a
        ways = {name: WAYS[name] for name in a.ways}
        for seed in seeds:
            one = compare.losses(
                lambda seed: self.student, self.teacher,
                lambda seed: self.text("train", a.windows or a.steps * BATCH, seed + 1), ways,
                seeds=[seed], choose=self.choose, validation=self.validation, score=self.facts,
                steps=a.steps, batch=BATCH, peak=a.peak, every=max(1, a.steps // 8), progress=False,
            )  # fmt: skip
            print(f"{self.size}, seed {seed}: {one}", file=sys.stderr, flush=True)
            for name, values in one.items():
                for what, value in values.items():
                    found[name][what] += value
        return found

    def report(self, found: dict[str, dict]) -> None:
        share = students.parameters(self.student) / students.parameters(self.teacher)
        print(
            f"\n### {self.size}: {students.parameters(self.student):,} parameters, "
            f"{share:.0%} of the teacher's\n"
        )
        for name, model in (("Teacher", self.teacher), ("the student's start", self.student)):
            end = "; " if name == "Teacher" else ".\n\n"
            print(
                (
                    f"{name} {mean_loss(model, self.validation):.4f} nats, facts "
                    f"{self.facts(model):.1%}"
                ),
                end=end,
            )
        print(
            "| trained by | nats | gain over labels | over response | facts | gain over labels | "
            "over response | time / labels |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for name, one in found.items():
            loss, score = (sum(one[what]) / len(one[what]) for what in ("loss", "score"))
            better, knows = gains(found, name, "loss", -1), gains(found, name, "score", 1)
            ratio = one["seconds"] / found["labels alone"]["seconds"]
            line = (name, f"{loss:.4f}", *better, f"{score:.1%}", *knows, f"{ratio:.1f}")
            print("| " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", default=["quarter", "tenth"])
    parser.add_argument(
        "--kinds", nargs="*", help="kinds of documents, such as facts; all by default"
    )
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument(
        "--ways",
        nargs="*",
        choices=WAYS,
        default=list(WAYS),
        help="labels alone and response are needed",
    )
    for option, value in (
        ("before", 0),
        ("windows", 64),
        ("steps", 40),
        ("seeds", 3),
        ("questions", 200),
    ):
        parser.add_argument(f"--{option}", type=int, default=value)
    a = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    text = f"{a.windows} windows of text" if a.windows else "new text at every step"
    print(
        f"{text} ({', '.join(a.kinds) if a.kinds else 'all kinds'}), {a.steps} steps of {BATCH} × "
        f"{CONTEXT} tokens, {a.before} steps on labels before, peak learning rate {a.peak}, τ = 2, "
        f"α = 0.5, {a.seeds} seeds"
    )
    for size in a.sizes:
        setting = Setting(size, a)
        setting.report(setting.measure(range(a.seeds)))
