"""The same small student trained on labels alone and distilled, from the bundled model, over several seeds.

    python benchmarks/distillation.py [quarter tenth] [--windows 64] [--steps 40] [--seeds 3] [--questions 200]

There is little text: `windows` pieces of 64 tokens, walked through again and again (0: new text at every step).
Every way of a seed starts from the same weights and sees the same tokens in the same order, so the gain over labels
is a paired difference. Prints Markdown: the mean over seeds and Student's 95 % interval of the mean of the gains.
"""

import argparse

import torch

from course_utils.distillation import compare, students
from course_utils.evaluation import task_scores
from course_utils.models import load
from course_utils.models.data import mean_loss, token_windows

CONTEXT, BATCH, PEAK = 64, 8, 2e-3
WAYS = {
    "labels alone": "labels", "response": "response", "response + features": "response+feature",
    "response + attention": "response+attention",
}  # fmt: skip


def gain(found: dict, name: str, what: str, sign: int) -> str:
    """Mean ± half width of the paired gains over labels alone, positive where `name` is better."""
    pairs = zip(found[name][what], found["labels alone"][what], strict=True)
    mean, half = compare.interval([sign * (mine - alone) for mine, alone in pairs])
    return f"{mean:+.4f} ± {half:.4f}"


def table(size: str, windows: int, steps: int, seeds: int, questions: int) -> None:
    teacher, tokenizer = load("bundled")
    validation = token_windows(tokenizer, "validation", 64, CONTEXT, 0).long()
    student = students.bundled(teacher, size, token_windows(tokenizer, "train", 16, 128, 0).long())

    def facts(model) -> float:
        return task_scores(model, tokenizer, tasks=("facts",), n=questions)["facts"].accuracy

    found = compare.losses(
        lambda seed: student, teacher, lambda seed: token_windows(tokenizer, "train", windows or steps * BATCH, CONTEXT, seed + 1).long(),
        WAYS, validation=validation, seeds=range(seeds), score=facts, steps=steps, batch=BATCH, peak=PEAK, every=steps,
        progress=False,
    )  # fmt: skip
    share = students.parameters(student) / students.parameters(teacher)
    print(f"\n### {size}: {students.parameters(student):,} parameters, {share:.0%} of the teacher's\n")
    print(f"Teacher {mean_loss(teacher, validation):.4f} nats, facts {facts(teacher):.1%}; ", end="")
    print(f"student untrained {mean_loss(student, validation):.4f} nats, facts {facts(student):.1%}.\n")
    print("| trained by | validation, nats | gain over labels | facts | gain over labels | time / labels |")
    print("|---|---|---|---|---|---|")
    for name, one in found.items():
        loss, score = (sum(one[what]) / seeds for what in ("loss", "score"))
        gains = ("", "") if name == "labels alone" else (gain(found, name, "loss", -1), gain(found, name, "score", 1))
        ratio = one["seconds"] / found["labels alone"]["seconds"]
        print(f"| {name} | {loss:.4f} | {gains[0]} | {score:.1%} | {gains[1]} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=["quarter", "tenth"])
    for option, value in (("windows", 64), ("steps", 40), ("seeds", 3), ("questions", 200)):
        parser.add_argument(f"--{option}", type=int, default=value)
    a = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    text = f"{a.windows} windows of text" if a.windows else "new text at every step"
    print(
        f"{text}, {a.steps} steps of {BATCH} × {CONTEXT} tokens, peak learning rate {PEAK}, τ = 2, α = 0.5, {a.seeds} seeds"
    )
    for size in a.sizes:
        table(size, a.windows, a.steps, a.seeds, a.questions)
