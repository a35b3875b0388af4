"""A student of two blocks, taught by the whole model: python examples/distil.py [MODEL] [STEPS]
[TEXT]
"""

import sys

from course_utils import distillation, evaluation, models


def main(source="bundled", steps="60", text="bundled"):
    teacher, tokenizer = models.load(source)
    data = evaluation.text.windows(tokenizer, text, split="train", n=256, context=128, seed=0).ids
    held_out = evaluation.text.windows(
        tokenizer, text, split="validation", n=16, context=128, seed=0
    ).ids
    chosen = distillation.students.evenly(teacher, 2)
    student = distillation.students.from_layers(teacher, chosen)
    print(
        f"blocks {chosen} of the teacher: {student.num_parameters():,} of "
        f"{teacher.num_parameters():,} parameters"
    )

    taught = distillation.train(
        student, teacher, data, steps=int(steps), loss="response", batch=8, peak=2e-3
    )
    for name, model in (("before", student), ("after", taught.model)):
        print(
            f"{name}: KL to the teacher "
            f"{float(evaluation.kl_by_window(teacher, model, held_out).mean()):.3f}"
        )
    return taught


if __name__ == "__main__":
    main(*sys.argv[1:])
