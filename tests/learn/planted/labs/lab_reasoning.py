"""Right and wrong answers to the exercises of lab 5.3."""

from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F

from course_utils.distillation.reasoning import BLANK, END, EQUALS, MARK

# --- a row ---


def row_by_lists(digits, steps, answer, width):
    ids, labels = [], []
    for place in range(width):
        ids.append(digits[place] if place < len(digits) else BLANK)
        labels.append(-100)
    ids.append(EQUALS)
    labels.append(-100)
    for one in (*steps, MARK, answer, END):
        ids.append(one)
        labels.append(one)
    return ids, labels


def row_by_arrays(digits, steps, answer, width):
    field = np.full(width + 1, BLANK)
    field[: len(digits)], field[-1] = digits, EQUALS
    ids = np.concatenate([field, steps, [MARK, answer, END]]).astype(int)
    labels = np.where(np.arange(len(ids)) > width, ids, -100)
    return ids.tolist(), labels.tolist()


def row_by_cut(digits, steps, answer, width):
    ids = (digits + width * [BLANK])[:width] + [EQUALS, *steps, MARK, answer, END]
    return ids, [-100 if place < width + 1 else one for place, one in enumerate(ids)]


def row(change):
    """A right row as (head, tail), changed."""

    def answer_of(digits, steps, answer, width):
        head = (digits + width * [BLANK])[:width] + [EQUALS]
        return change(head, [*steps, MARK, answer, END])

    return answer_of


NONE = -100

# --- the loss ---


def loss_by_torch(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def loss_by_loop(logits, labels):
    terms = []
    for r in range(labels.shape[0]):
        for t in range(1, labels.shape[1]):
            if labels[r, t] != -100:
                z = logits[r, t - 1]
                terms.append(torch.logsumexp(z, 0) - z[labels[r, t]])
    return sum(terms) / len(terms)


def loss_by_mask(logits, labels):
    scored = labels[:, 1:] >= 0
    chosen, goal = logits[:, :-1][scored], labels[:, 1:][scored]
    return -torch.distributions.Categorical(logits=chosen).log_prob(goal).mean()


def loss_by_roll(logits, labels):
    goal = labels.roll(-1, dims=1).clone()
    goal[:, -1] = -100
    return F.cross_entropy(logits.transpose(1, 2), goal)


def of(shift, reduce):
    def answer(logits, labels):
        z, y = shift(logits, labels)
        each = F.cross_entropy(z.transpose(1, 2), y, reduction="none")
        return reduce(each, (y != -100).double())

    return answer


def ahead(z, y):
    return z[:, :-1], y[:, 1:]


def mean(each, scored):
    return each.sum() / scored.sum()


def detached(logits, labels):
    return loss_by_torch(logits.detach(), labels) + 0 * logits.sum()


# --- which chains are kept ---


def good(text, answer):
    return text[-1:] == [END] and text[-3:-1] == [MARK, answer]


def keep_by_dict(samples, answers):
    return [
        [list(t) for t in dict.fromkeys(tuple(t) for t in texts if good(t, a))]
        for texts, a in zip(samples, answers, strict=True)
    ]


def keep_by_sets(samples, answers):
    found = []
    for i in range(len(samples)):
        seen, kept = set(), []
        for text in samples[i]:
            if (
                len(text) < 3
                or text[-1] != END
                or text[-3] != MARK
                or text[-2] != answers[i]
                or str(text) in seen
            ):
                continue
            seen.add(str(text))
            kept.append(text)
        found.append(kept)
    return found


def keep_by_removal(samples, answers):
    for texts, answer in zip(samples, answers, strict=True):
        for place in reversed(range(len(texts))):
            if not good(texts[place], answer) or texts[place] in texts[:place]:
                del texts[place]
    return samples


def kept(condition, once=True):
    def answer_of(samples, answers):
        found = []
        for texts, answer in zip(samples, answers, strict=True):
            some = []
            for text in texts:
                if condition(text, answer) and not (once and text in some):
                    some.append(text)
            found.append(some)
        return found

    return answer_of


def marked(text, answer):
    return (MARK in text and text.index(MARK) + 1 < len(text)) and text[
        text.index(MARK) + 1
    ] == answer


def unlike_in_all(samples, answers):
    seen, found = set(), []
    for texts, answer in zip(samples, answers, strict=True):
        new = [
            t for t in dict.fromkeys(tuple(t) for t in texts if good(t, answer)) if t not in seen
        ]
        seen.update(new)
        found.append([list(t) for t in new])
    return found


def sorted_texts(samples, answers):
    return [sorted(texts) for texts in keep_by_dict(samples, answers)]


# --- the vote ---


def votes(texts):
    return [t[-2] for t in texts if len(t) > 2 and t[-1] == END and t[-3] == MARK]


def vote_by_counter(samples):
    return [Counter(v).most_common(1)[0][0] if (v := votes(texts)) else None for texts in samples]


def vote_by_table(samples):
    found = []
    for texts in samples:
        v = votes(texts)
        counts = np.bincount(v, minlength=10) if v else np.zeros(10)
        found.append(next((a for a in v if counts[a] == counts.max()), None))
    return found


def vote_by_loop(samples):
    found = []
    for texts in samples:
        best, most = None, 0
        said = votes(texts)
        for a in said:
            if said.count(a) > most:
                best, most = a, said.count(a)
        found.append(best)
    return found


def voted(ballots, best=lambda v: Counter(v).most_common(1)[0][0], nobody=None):
    def answer(samples):
        return [best(v) if (v := ballots(texts)) else nobody for texts in samples]

    return answer


def behind_mark(texts):
    return [t[t.index(MARK) + 1] for t in texts if MARK in t[:-1]]


def unlike(texts):
    return votes([list(t) for t in dict.fromkeys(map(tuple, texts))])


def favourite_text(samples):
    found = []
    for texts in samples:
        whole = Counter(tuple(t) for t in texts if votes([t]))
        found.append(whole.most_common(1)[0][0][-2] if whole else None)
    return found


def smallest(v):
    return min(a for a in v if v.count(a) == max(map(v.count, v)))


def latest(v):
    return max(dict.fromkeys(v[::-1]), key=v.count)


RIGHT = {
    "lab_reasoning.example": [row_by_lists, row_by_arrays, row_by_cut],
    "lab_reasoning.loss": [loss_by_torch, loss_by_loop, loss_by_mask, loss_by_roll],
    "lab_reasoning.keep": [keep_by_dict, keep_by_sets, keep_by_removal],
    "lab_reasoning.vote": [vote_by_counter, vote_by_table, vote_by_loop],
}
WRONG = {
    "lab_reasoning.example": [
        (row(lambda head, tail: (head + tail, head + tail)), "prompt_scored"),
        (row(lambda head, tail: (head + tail[-3:-1] + tail[:-3] + tail[-1:],
                                 [NONE] * len(head) + tail[-3:-1] + tail[:-3] + tail[-1:])),
                                 "answer_first"),
        (row(lambda head, tail: (head + tail[:-1], [NONE] * len(head) + tail[:-1])), "end_missing"),
        (row(lambda head, tail: (head + tail, [NONE] * len(head) + tail[:-1] + [NONE])),
         "end_not_scored"),
        (row(lambda head, tail: (head + tail, [NONE] * len(head + tail[:-3]) + tail[-3:])),
         "answer_only_scored"),
        (row(lambda head, tail: (head + tail[-3:], [NONE] * len(head) + tail[-3:])),
         "steps_missing"),
        (row(lambda head, tail: (head + tail[:-3] + tail[-2:],
                                 [NONE] * len(head) + tail[:-3] + tail[-2:])), "mark_missing"),
        (lambda digits, steps, answer, width: row_by_cut(digits, steps, steps[-1], width),
         "last_step_for_answer"),
        (row(lambda head, tail: (head + tail, ([NONE] * len(head) + tail)[1:] + [NONE])),
         "moved_ahead"),
        (row(lambda head, tail: ([i for i in head if i != BLANK] + tail,
                                 [NONE] * sum(i != BLANK for i in head) + tail)), "no_blanks"),
        (row(lambda head, tail: (head + tail, [NONE] * (len(head) - 1) + head[-1:] + tail)),
         "equals_scored"),
        (row(lambda head, tail: (head + tail, [0] * len(head) + tail)), None),
        (row(lambda head, tail:
            ([BLANK] * head.count(BLANK) + [i for i in head if i != BLANK] + tail,
             [NONE] * len(head) + tail)), None),
        (row(lambda head, tail: head + tail), None),
    ],
    "lab_reasoning.loss": [
        (of(lambda z, y: (z, y), mean), "not_shifted"),
        (of(lambda z, y: (z[:, 1:], y[:, :-1]), mean), "shifted_back"),
        (lambda logits, labels: loss_by_torch(logits, labels * (labels != -100)),
         "everything_scored"),
        (of(ahead, lambda each, scored: each.mean()), "over_all_places"),
        (of(ahead, lambda each, scored: (each.sum(1) / scored.sum(1)).mean()), "row_by_row"),
        (of(ahead, lambda each, scored: each.sum()), "summed"),
        (of(ahead, lambda each, scored: -each.sum() / scored.sum()), "sign"),
        (of(ahead, lambda each, scored: each.sum() / scored.sum() * 1.4426950408889634), "in_bits"),
        (of(ahead, lambda each, scored: each.sum() / len(each)), None),
        (detached, None),
        (of(ahead, lambda each, scored: each[-1].sum() / scored[-1].sum()), None),
    ],
    "lab_reasoning.keep": [
        (kept(lambda t, a: bool(votes([t]))), "wrong_kept"),
        (kept(marked), "cut_off_kept"),
        (kept(good, once=False), "twice"),
        (lambda samples, answers: [texts[:1] for texts in keep_by_dict(samples, answers)],
         "one_each"),
        (unlike_in_all, "once_in_all"),
        (kept(lambda t, a: bool(votes([t])) and t[-4:-3] == [a]), "by_last_step"),
        (kept(lambda t, a: bool(votes([t])) and not good(t, a)), "wrong_ones_kept"),
        (sorted_texts, None),
        (lambda samples, answers: sum(keep_by_dict(samples, answers), []), None),
        (lambda samples, answers:
            [texts for texts in keep_by_dict(samples, answers) if texts] + [[]], None),
    ],
    "lab_reasoning.vote": [
        (voted(behind_mark), "cut_off_votes"),
        (voted(unlike), "each_text_once"),
        (favourite_text, "most_frequent_text"),
        (voted(votes, lambda v: v[0]), "first_text"),
        (voted(votes, smallest), "smallest_of_equal"),
        (voted(votes, latest), "last_of_equal"),
        (voted(votes, nobody=0), "zero_for_none"),
        (voted(votes, min), None),
        (voted(votes, lambda v: max(a for a in v if v.count(a) == max(map(v.count, v)))), None),
        (voted(votes, lambda v: sorted(v)[len(v) // 2]), None),
        (lambda samples: [a for a in vote_by_counter(samples) if a is not None], None),
    ],
}  # fmt: skip
