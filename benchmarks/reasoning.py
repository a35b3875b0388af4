"""What a small student learns from a teacher's chains: which are kept, what stands in them, and the
controls; equal tokens, three seeds.

    python benchmarks/reasoning.py        # minutes on one core

The teacher, the student and the budget of lab 5.3. Every row: 320,000 tokens read, the same rate,
accuracy on 500 new prompts of 6 to 10 digits. A seed is another rule, another teacher, other
prompts and another student. Writes learn/tables/reasoning.json.
"""

import torch

from course_utils.distillation.reasoning import END, MARK, example, pad
from course_utils.evaluation.comparison import compare
from course_utils.learn import reasoned
from course_utils.learn.exercises.labs.lab_reasoning import complete, keep, vote

COMMAND, SEEDS = "python benchmarks/reasoning.py", (0, 1, 2)


def of_texts(task, texts):
    """Rows of the texts that are kept for each prompt."""
    return pad(
        [
            example(p, t[:-3], t[-2])
            for p, some in zip(task.prompts, texts, strict=True)
            for t in some
        ]
    )


def everything(task):
    return of_texts(task, [[t for t in some if complete(t)] for some in task.samples])


def by_key(task):
    return of_texts(task, keep(task.samples, task.answers))


def by_vote(task):
    return of_texts(task, keep(task.samples, [-1 if a is None else a for a in vote(task.samples)]))


def answers_only(task):
    return pad([example(p, [], a) for p, a in zip(task.prompts, task.answers, strict=True)])


def random_steps(task):
    rng = torch.Generator().manual_seed(task.seed)
    texts = [
        [[*torch.randint(10, (len(p),), generator=rng).tolist(), MARK, a, END]]
        for p, a in zip(task.prompts, task.answers, strict=True)
    ]
    return of_texts(task, texts)


def row(make, agree=True):
    """Accuracy for a seed."""

    def reached(seed):
        task = reasoned.Task(seed, agree=agree)
        found = float(task.accuracy(make(task), seed=seed).mean())
        print(make.__name__, agree, seed, round(found, 3), flush=True)
        return found

    return reached


def teacher(seed):
    """The share of its texts that are complete and right."""
    task = reasoned.Task(seed)
    right = [
        complete(t) and t[-2] == a
        for some, a in zip(task.samples, task.answers, strict=True)
        for t in some
    ]
    return sum(right) / len(right)


if __name__ == "__main__":
    rows = {
        "chains kept by the key": row(by_key),
        "chains kept by a vote": row(by_vote),
        "all complete chains": row(everything),
        "right answers only": row(answers_only),
        "random steps, right answers": row(random_steps),
        "all chains, scattered errors": row(everything, agree=False),
        "kept by a vote, scattered errors": row(by_vote, agree=False),
        "the teacher itself": teacher,
    }
    table = compare(
        "What the student has learned", rows, seeds=SEEDS, against="chains kept by the key",
        better="higher",
        protocol="500 new prompts of 6 to 10 digits; 320,000 tokens read by every student",
    )  # fmt: skip
    table.save("reasoning", command=COMMAND)
    print(table)
