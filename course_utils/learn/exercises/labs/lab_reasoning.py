"""Lab 5.3: a training row with its chain, the loss at scored places,
which chains to keep, a vote.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.distillation.reasoning import BLANK, END, EQUALS, MARK
from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn

LAB = "lab-5.3-reasoning"
NOT_SCORED = -100


def whole(rng: torch.Generator, low: int, high: int) -> int:
    """A whole number, both ends included."""
    return int(torch.randint(low, high + 1, (), generator=rng))


def some(rng: torch.Generator, n: int, below: int = 10) -> list[int]:
    return torch.randint(below, (n,), generator=rng).tolist()


# --- a row ---


def row_inputs(rng: torch.Generator) -> dict:
    """Fields with blanks and one that is full, long ones too; the answer need not be the last
    step's state.
    """
    width, digits = turn(rng, (10, 6), (10, 10), (171, 139), (9, 4))
    steps = some(rng, turn(rng, digits, digits - 2, digits, 3))
    return {
        "digits": some(rng, digits),
        "steps": steps,
        "answer": (steps[-1] + whole(rng, 1, 9)) % 10,
        "width": width,
    }


def example(
    digits: list[int], steps: list[int], answer: int, width: int
) -> tuple[list[int], list[int]]:
    """(ids, labels): digits, blanks up to `width`, "=", steps, ":", answer, "."; labels are −100 up
    to "=", the ids behind it.
    """
    head = digits + [BLANK] * (width - len(digits)) + [EQUALS]
    tail = [*steps, MARK, answer, END]
    return head + tail, [NOT_SCORED] * len(head) + tail


def row_with(
    tail=lambda s, a: [*s, MARK, a, END],
    fill=lambda d, w: d + [BLANK] * (w - len(d)),
    labels=lambda head, tail: [NOT_SCORED] * len(head) + tail,
):
    """A row with one thing wrong."""

    def answer_of(digits, steps, answer, width):
        head, end = [*fill(digits, width), EQUALS], tail(steps, answer)
        return head + end, labels(head, end)

    return answer_of


def ahead(head, tail):
    """Labels that are moved to where they are predicted from."""
    return [NOT_SCORED] * (len(head) - 1) + tail + [NOT_SCORED]


# --- the loss ---


def loss_inputs(rng: torch.Generator) -> dict:
    """Rows with unlike numbers of scored places; the first place of some is scored, though nothing
    predicts it.
    """
    rows, places, ids = turn(rng, (4, 7, 5), (3, 143, 4), (137, 5, 3), (2, 6, 141))
    labels = torch.randint(ids, (rows, places), generator=rng)
    begin, end = (
        torch.randint(0, places - 2, (rows, 1), generator=rng),
        torch.randint(1, 3, (rows, 1), generator=rng),
    )
    place = torch.arange(places)
    kept = (place >= begin) & (place <= places - end)
    logits = pick(rng, 0.5, 2.0) * torch.randn(
        rows, places, ids, generator=rng, dtype=torch.float64
    )
    return {"logits": logits.requires_grad_(True), "labels": torch.where(kept, labels, NOT_SCORED)}


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """− the mean of ln softmax(logits[row, t − 1])[labels[row, t]] over all places t ≥ 1 whose
    label is not −100.
    """
    log_p, goal = logits[:, :-1].log_softmax(-1), labels[:, 1:]
    scored = goal != NOT_SCORED
    picked = log_p.gather(-1, goal.clamp(min=0)[..., None])[..., 0]
    return -picked[scored].sum() / scored.sum()


def entropies(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(−ln p of each label, which are scored) of logits and labels that stand at
    the same places.
    """
    each = F.cross_entropy(
        logits.transpose(1, 2), labels, reduction="none", ignore_index=NOT_SCORED
    )
    return each, labels != NOT_SCORED


def not_shifted(logits, labels):
    each, scored = entropies(logits, labels)
    return each.sum() / scored.sum()


def shifted_back(logits, labels):
    each, scored = entropies(logits[:, 1:], labels[:, :-1])
    return each.sum() / scored.sum()


def everything_scored(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].clamp(min=0).flatten())


def over_all_places(logits, labels):
    each, _ = entropies(logits[:, :-1], labels[:, 1:])
    return each.mean()


def row_by_row(logits, labels):
    each, scored = entropies(logits[:, :-1], labels[:, 1:])
    return (each.sum(1) / scored.sum(1)).mean()


def summed(logits, labels):
    return entropies(logits[:, :-1], labels[:, 1:])[0].sum()


# --- which chains are kept ---


def text_of(steps: list[int], answer: int, end: int = 3) -> list[int]:
    return [*steps, *[MARK, answer, END][:end]]


def samples_for(rng: torch.Generator, answer: int, n: int, length: int) -> list[list[int]]:
    """Texts of one prompt: right, wrong, cut off at each place, some twice; the last state of a
    wrong one may be right.
    """
    found: list[list[int]] = []
    while len(found) < n:
        steps, other = ([*some(rng, length - 1), answer] for _ in range(2))
        off = (answer + whole(rng, 1, 9)) % 10
        kinds = [
            text_of(steps, answer), text_of(steps, answer), text_of(other, answer),
            text_of(steps, off), text_of([*steps[:-1], off], off),
            text_of([*steps[:-1], off], answer), text_of(steps, answer, 2),
            text_of(steps, answer, 1), steps, text_of([*other[:-1], off], off), text_of([], answer),
            [answer, END], [], [*steps, MARK, answer, MARK], [*steps, answer, answer, END],
        ]  # fmt: skip
        found += [kinds[i] for i in torch.randperm(len(kinds), generator=rng).tolist()]
    return found[:n]


def keep_inputs(rng: torch.Generator) -> dict:
    """The texts of some prompts, of which two are alike; in some draws one has no right text."""
    prompts, n, length = turn(rng, (4, 15, 3), (3, 16, 5), (139, 15, 3), (3, 720, 5), (2, 15, 137))
    answers = some(rng, prompts)
    samples = [samples_for(rng, a, n, length) for a in answers]
    samples[-1], answers[-1] = [list(s) for s in samples[0]], answers[0]
    if turn(rng, True, False):
        answers[1] = next(
            (a for a in range(10) if all(text[-2:-1] != [a] for text in samples[1])), answers[1]
        )
    return {"samples": samples, "answers": answers}


def complete(text: list[int]) -> bool:
    """Whether it ends with ":", an answer and the end."""
    return len(text) >= 3 and text[-1] == END and text[-3] == MARK


def keep(samples: list[list[list[int]]], answers: list[int]) -> list[list[list[int]]]:
    """For each prompt its complete texts with the right answer, each once, in their order."""
    found: list[list[list[int]]] = []
    for texts, answer in zip(samples, answers, strict=True):
        found.append([])
        for text in texts:
            if complete(text) and text[-2] == answer and text not in found[-1]:
                found[-1].append(text)
    return found


def answer_in(text: list[int]) -> int | None:
    """What stands behind ":", whether or not an end follows."""
    return text[text.index(MARK) + 1] if MARK in text[:-1] else None


def kept_by(good, once=True, most=None):
    """Texts that are good by another rule."""

    def answer_of(samples, answers):
        found = []
        for texts, answer in zip(samples, answers, strict=True):
            chosen = [text for text in texts if good(text, answer)]
            unique = [text for i, text in enumerate(chosen) if text not in chosen[:i]]
            found.append((unique if once else chosen)[:most])
        return found

    return answer_of


def once_in_all(samples, answers):
    seen: list[list[int]] = []
    found = []
    for texts in keep(samples, answers):
        found.append([text for text in texts if text not in seen])
        seen += texts
    return found


def vote_inputs(rng: torch.Generator) -> dict:
    """Majorities that stand on many texts or on one text said often, ties, cut-off texts that would
    turn it; some without any complete text.
    """
    prompts, n, length = turn(rng, (5, 7, 3), (4, 9, 4), (139, 6, 2), (3, 143, 2), (3, 5, 137))
    samples: list[list[list[int]]] = []
    for i in range(prompts):
        a, b, c = torch.randperm(10, generator=rng)[:3].tolist()
        big = n // 2
        # a tie of three: the largest comes first, then the smallest, then the middle one, which is
        # the median of all
        if i % 4 == 0:
            second, third, first = sorted((a, b, c))
            big = (n - 1) // 3
            texts = [
                text_of(some(rng, length), one)
                for one in (first, second, third)
                for _ in range(big)
            ]
            texts[0] = text_of([], first)
            texts += [text_of(some(rng, length), second, 2) for _ in range(n - 3 * big)]
        elif i % 4 == 1:
            # one text said often against several with other answers each; the cut-off ones would
            # outvote it
            same = text_of(some(rng, length), a)
            texts = (
                [text_of(some(rng, length), c)]
                + [list(same) for _ in range(big)]
                + [text_of(some(rng, length), b, 2) for _ in range(n - big - 1)]
            )
        elif i % 4 == 2:  # unlike texts with one answer, which the last one decides
            texts = [text_of(some(rng, length), b)] * big + [
                text_of(some(rng, length), a) for _ in range(n - big)
            ]
        else:
            texts = [
                [],
                [a, END],
                [a, MARK, a, MARK],
                [a, a, a, END],
                *(text_of(some(rng, length), a, pick(rng, 0, 1, 2)) for _ in range(n - 4)),
            ]
        samples.append(texts)
    return {"samples": samples}


def vote(samples: list[list[list[int]]]) -> list[int | None]:
    """For each prompt the answer of most complete texts; of equally many that which comes first;
    None without a complete text.
    """
    ballots = [[text[-2] for text in texts if complete(text)] for texts in samples]
    return [max(dict.fromkeys(votes), key=votes.count) if votes else None for votes in ballots]


def vote_by(ballots, choose=lambda votes: max(dict.fromkeys(votes), key=votes.count), nobody=None):
    return lambda samples: [
        choose(votes) if (votes := ballots(texts)) else nobody for texts in samples
    ]


def of_complete(texts):
    return [text[-2] for text in texts if complete(text)]


def each_text_once(texts):
    return of_complete([text for i, text in enumerate(texts) if text not in texts[:i]])


def most_frequent_text(samples):
    found = []
    for texts in samples:
        whole_ones = [text for text in texts if complete(text)]
        found.append(max(whole_ones, key=whole_ones.count)[-2] if whole_ones else None)
    return found


EXERCISES = [
    Exercise(
        "lab_reasoning.example",
        row_inputs,
        example,
        {
            "prompt_scored": row_with(labels=lambda head, tail: head + tail),
            "answer_first": row_with(tail=lambda s, a: [MARK, a, *s, END]),
            "end_missing": row_with(tail=lambda s, a: [*s, MARK, a]),
            "end_not_scored": row_with(
                labels=lambda head, tail: [NOT_SCORED] * len(head) + tail[:-1] + [NOT_SCORED]
            ),
            "answer_only_scored": row_with(
                labels=lambda head, tail: [NOT_SCORED] * (len(head) + len(tail) - 3) + tail[-3:]
            ),
            "steps_missing": row_with(tail=lambda s, a: [MARK, a, END]),
            "mark_missing": row_with(tail=lambda s, a: [*s, a, END]),
            "last_step_for_answer": row_with(tail=lambda s, a: [*s, MARK, s[-1], END]),
            "moved_ahead": row_with(labels=ahead),
            "no_blanks": row_with(fill=lambda d, w: d),
            "equals_scored": row_with(
                labels=lambda head, tail: [NOT_SCORED] * (len(head) - 1) + [EQUALS, *tail]
            ),
        },
        lesson=LAB,
        trials=4,
    ),
    Exercise(
        "lab_reasoning.loss",
        loss_inputs,
        loss,
        {
            "not_shifted": not_shifted,
            "shifted_back": shifted_back,
            "everything_scored": everything_scored,
            "over_all_places": over_all_places,
            "row_by_row": row_by_row,
            "summed": summed,
            "sign": lambda logits, labels: -loss(logits, labels),
            "in_bits": lambda logits, labels: loss(logits, labels) / 0.6931471805599453,
        },
        lesson=LAB,
        trials=4,
        gradients=("logits",),
    ),
    Exercise(
        "lab_reasoning.keep",
        keep_inputs,
        keep,
        {
            "wrong_kept": kept_by(lambda text, answer: complete(text)),
            "cut_off_kept": kept_by(lambda text, answer: answer_in(text) == answer),
            "twice": kept_by(
                lambda text, answer: complete(text) and text[-2] == answer, once=False
            ),
            "one_each": kept_by(lambda text, answer: complete(text) and text[-2] == answer, most=1),
            "once_in_all": once_in_all,
            "by_last_step": kept_by(
                lambda text, answer: complete(text) and text[-4:-3] == [answer]
            ),
            "wrong_ones_kept": kept_by(lambda text, answer: complete(text) and text[-2] != answer),
        },
        lesson=LAB,
        trials=5,
    ),
    Exercise(
        "lab_reasoning.vote",
        vote_inputs,
        vote,
        {
            "cut_off_votes": vote_by(
                lambda texts: [a for text in texts if (a := answer_in(text)) is not None]
            ),
            "each_text_once": vote_by(each_text_once),
            "most_frequent_text": most_frequent_text,
            "first_text": vote_by(of_complete, choose=lambda votes: votes[0]),
            "smallest_of_equal": vote_by(
                of_complete, choose=lambda votes: max(sorted(set(votes)), key=votes.count)
            ),
            "last_of_equal": vote_by(
                of_complete,
                choose=lambda votes: max(dict.fromkeys(reversed(votes)), key=votes.count),
            ),
            "zero_for_none": vote_by(of_complete, nobody=0),
        },
        lesson=LAB,
        trials=5,
    ),
]
