"""Distil a student from the bundled model (or any other) and save it as an ordinary model folder.

    python -m course_utils.distillation --out runs/student
    torchrun --nproc-per-node 2 -m course_utils.distillation --out runs/student

A killed run continues where its last checkpoint stands: give the same command again.
"""

import argparse
from pathlib import Path

from course_utils.models import load
from course_utils.models.data import token_windows

from . import parallel, students
from .trainer import train


def main() -> None:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", required=True, help="folder for the student, its log and the checkpoint"
    )
    parser.add_argument(
        "--teacher", default="bundled", help="'bundled', a model folder or a hub id"
    )
    parser.add_argument(
        "--layers",
        default="0,2,4",
        help="the teacher's blocks that the student keeps, default 0,2,4",
    )
    for name in ("hidden", "mlp", "heads"):
        parser.add_argument(
            f"--{name}", type=int, help=f"make the student's {name} narrower than the teacher's"
        )
    parser.add_argument(
        "--loss", default="response", help="such as labels, response, response+feature"
    )
    for name, value in (
        ("steps", 300),
        ("batch", 16),
        ("context", 256),
        ("windows", 2000),
        ("every", 50),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument(
        "--peak", type=float, default=1e-3, help="highest learning rate, default 0.001"
    )
    a = parser.parse_args()
    parallel.start()
    teacher, tokenizer = load(a.teacher, device=str(parallel.device()))
    data = token_windows(tokenizer, "train", a.windows, a.context, a.seed)
    student = students.from_layers(
        teacher,
        [int(i) for i in a.layers.split(",")],
        hidden=a.hidden,
        mlp=a.mlp,
        heads=a.heads,
        calibration=data[:32],
    )
    result = train(
        student, teacher, data, steps=a.steps, loss=a.loss,
        validation=token_windows(tokenizer, "validation", 32, a.context, a.seed), batch=a.batch,
        peak=a.peak, seed=a.seed, folder=Path(a.out), every=a.every,
    )  # fmt: skip
    if parallel.rank() == 0:
        result.model.save_pretrained(a.out)  # type: ignore[operator]
        tokenizer.save_pretrained(a.out)
        share = students.parameters(result.model) / students.parameters(teacher)
        print(
            f"{share:.0%} of the teacher's parameters, validation {result.validation:.4f} nats per "
            f"token, step {result.step}"
        )
    parallel.stop()


if __name__ == "__main__":
    main()
