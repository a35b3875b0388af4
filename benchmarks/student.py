"""A student with three of the bundled model's five blocks, trained by the original: the tables that
lesson 1.3 shows.

    python benchmarks/student.py [--steps 40 120] [--seeds 3] [--write]

Every run sees new text: `steps` batches of 8 × 128 tokens. The loss is half the original's
probabilities (τ = 2), half the next token. Evaluation: 64 validation windows of 256 tokens, and all
fact questions of the test split. `--write` puts the tables where the lesson loads them: `student`
(nats of each window) and `student_facts` (right or wrong).
"""

import argparse
import copy
import functools

import torch

from course_utils import distillation, evaluation, models, world
from course_utils.distillation import students
from course_utils.evaluation.comparison import compare
from course_utils.models.data import token_windows
from course_utils.quantization import Compressed, rtn

BATCH, CONTEXT, PEAK, FACTS = 8, 128, 2e-3, 400


def main(options: argparse.Namespace) -> None:
    net, tokenizer = models.load("bundled")
    windows = token_windows(tokenizer, "validation", 64, 256, 0)
    questions = world.items("facts", n=FACTS)
    start = students.from_layers(net, students.evenly(net, 3))

    @functools.cache
    def trained(steps: int, seed: int):
        if not steps:
            return start
        data = evaluation.calibration(tokenizer, n=steps * BATCH, context=CONTEXT, seed=seed)
        run = distillation.train(
            start,
            net,
            data,
            steps=steps,
            batch=BATCH,
            peak=PEAK,
            seed=seed,
            keep="last",
            progress=False,
        )
        print(f"{steps} steps, seed {seed}: {run.seconds:.0f} s", flush=True)
        return in_bf16(run.model)

    rounded = functools.cache(lambda seed: rtn.quantize(trained(last, seed), bits=4))
    last = options.steps[-1]
    names = {f"student, {steps} steps": steps for steps in options.steps}
    versions = {"original": lambda seed: net, "student, not trained": lambda seed: start}
    versions |= {name: functools.partial(trained, steps) for name, steps in names.items()}
    versions[f"student, {last} steps, 4 bits"] = lambda seed: rounded(seed).model
    megabytes = {
        name: Compressed(make(0), {"method": "none"}, 0.0).bytes_on_disk / 1e6
        for name, make in versions.items()
    }
    tokens = {name: f"{steps * BATCH * CONTEXT:,}" for name, steps in names.items()}

    def table(title: str, measure, **more):
        rows = {
            name: functools.partial(lambda make, seed: measure(make(seed)), make)
            for name, make in versions.items()
        }
        return compare(
            title,
            rows,
            seeds=range(options.seeds),
            against="original",
            columns={"MB": megabytes, "tokens": tokens},
            **more,
        )

    losses = table(
        "A student, trained a little and a little longer",
        functools.cache(lambda m: evaluation.nats_by_window(m, windows)),
        unit="nats per token",
        protocol=(
            "bundled model, validation split, 64 windows of 256 tokens; "
            "three seeds, each with its own text"
        ),
    )
    facts = table(
        "What the student knows",
        functools.cache(lambda m: [float(r) for r in evaluation.judge(m, tokenizer, questions)]),
        unit="share of the facts",
        better="higher",
        protocol=f"{FACTS} questions of the test split with four choices; chance 25 %",
    )
    print(losses, facts, sep="\n\n")
    if options.write:
        losses.save("student", command="python benchmarks/student.py --write")
        facts.save("student_facts", command="python benchmarks/student.py --write")


def in_bf16(model):
    """A copy with its parameters as a file in BF16 holds them."""
    return copy.deepcopy(model).bfloat16().float()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[40, 120])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    main(parser.parse_args())
