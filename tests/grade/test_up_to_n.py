"""Answers that are right only up to n rows, columns, tokens or layers, or that save work: no check
and no hidden test takes them.

Hidden tests call the checks with other seeds (`test_hidden_tests.py`), so the inputs of a check
decide.
"""

import re

import pytest
import torch
from up_to_n import LABS, LISTS, SIZES, cut, extent, load, part, parts, points

from course_utils.learn.checks import checking, exercise, trials
from course_utils.pruning.masks import n_of_m

CHECKED = re.compile(r'check\("([\w.]+)", (\w+)')
# Arguments that may stay small: a table of 16 numbers, a shape, functions and where they start, six
# orders. H and U are square and
# symmetric or triangular: what is cut off makes them singular. The tokens that come next are at
# hand where no right answer looks at them.
SMALL = {"table", "shape", "steps", "results", "start", "H", "U", "next_tokens"}
# whole numbers of things that an answer may go through
NUMBERS = {"layers", "kv_heads", "head_dim", "context", "batch", "rounds", "count"}
RESULT = "the result"


@pytest.fixture(scope="module")
def opened():
    return {name: load(name) for name in LABS}


def graded(opened, name):
    """(exercise, function, its right answer) of each test of a lab that calls `check`."""
    return [
        (*found.groups(), opened[name].reference[found[2]])
        for test in opened[name].tests
        if (found := CHECKED.search(test.source))
    ]


# --- beyond n, whatever an exercise is about ---


def ending(function, n, dim, argument, place):
    """The function that reads nothing beyond n along a dimension of an argument, or gives nothing
    beyond in (a part of) its result.
    """

    def answer(**given):
        if argument != RESULT:
            return function(**{**given, argument: cut(given[argument], n, dim)})
        whole = function(**given)
        if place is None:
            return cut(whole, n, dim)
        return tuple(cut(item, n, dim) if i == place else item for i, item in enumerate(whole))

    return answer


def shows(item, draw, want, function):
    """Whether the check sees on these inputs that the function is wrong."""
    try:
        result = checking._answer(function, trials.clone(draw), (), item.refuses).result
    except Exception:
        return True
    return checking._apart(item, trials.Trial(draw, result), want) is not None


def ways(draw, want):
    """(argument or RESULT, place in it, dimension) of all that may be cut off."""
    for argument, value in [*draw.items(), (RESULT, want)]:
        if argument in SMALL:
            continue
        dims = ["value"] if argument in NUMBERS else [*range(4), *LISTS]
        # the states of the pipeline are as small as its start
        if argument == RESULT and "order" in draw:
            dims = LISTS
        yield from (
            (argument, place, dim)
            for place, _ in (parts(value) if argument == RESULT else [(None, value)])
            for dim in dims
        )


@pytest.mark.parametrize("name", [name for name in LABS if name != "lab-3.1-gptq"])
def test_nothing_beyond_n_is_left_out_unseen(opened, name):
    for topic, _, right in graded(opened, name):
        item = exercise.find(topic)
        draws = [trials.draw(item, 5 + i) for i in range(item.trials)]
        wants = [
            checking._answer(right, trials.clone(draw), (), item.refuses).result for draw in draws
        ]
        assert checking.judge(topic, right, seed=5)
        for argument, place, dim in ways(draws[0], wants[0]):
            most = [
                extent(part(want, place) if argument == RESULT else draw[argument], dim)
                for draw, want in zip(draws, wants, strict=True)
            ]
            if max(most) < 2 or (
                topic.startswith("lab_lottery.")
                and dim in (*LISTS, "value")
                and argument not in ("ticket", "control")
            ):
                continue  # layers, batches and rounds are many in that lab's hidden tests
            assert max(most) > max(SIZES), (
                f"{topic}: {argument} ({place}) has {max(most)} or fewer along {dim} in all draws"
            )
            large = sorted(range(item.trials), key=most.__getitem__, reverse=True)
            for n in SIZES:
                wrong = ending(right, n, dim, argument, place)
                assert any(shows(item, draws[i], wants[i], wrong) for i in large), (
                    topic,
                    argument,
                    place,
                    dim,
                    n,
                )


# --- answers that save work ---


def rounded(function, rounding):
    """Shares that are rounded to a whole number of weights otherwise, in each row."""

    def answer(**given):
        whole = given["weight"].shape[1]
        return function(**{**given, "sparsity": rounding(given["sparsity"] * whole) / whole})

    return answer


def of_the_whole(weight, input_norm, sparsity):
    """The number that goes, counted in the whole matrix and laid on the rows."""
    score = weight.abs() * input_norm
    gone = score.argsort(dim=1)[:, : -(-round(sparsity * weight.numel()) // len(weight))]
    return torch.ones_like(weight, dtype=torch.bool).scatter(1, gone, False)


LAZY = [
    ("budget.kv_cache_bytes", lambda layers, heads, kv_heads, head_dim, context, batch, bits:
        2 * layers * kv_heads * head_dim * context * batch * (bits // 8)),
    ("budget.kv_cache_bytes", lambda layers, heads, kv_heads, head_dim, context, batch, bits:
        2 * layers * kv_heads * head_dim * context * batch * max(1, bits // 8)),
    ("budget.weight_bytes", lambda parameters, bits: parameters // 1_000_000 * bits / 8 * 1e6),
    ("budget.weight_bytes", lambda parameters, bits: parameters // 8 * bits),
    ("budget.weight_bytes", lambda parameters, bits: parameters * (bits // 8)),
    ("lab_distillation.paired_interval", lambda alone, distilled, t:
        (abs(float((alone - distilled).mean())),
         float(t * (alone - distilled).std() / len(alone) ** 0.5))),
    ("budget.smallest_within", lambda sizes, losses, limit:
        sizes.index(min(s for s, loss in zip(sizes, losses, strict=True) if loss <= limit)) if min(
            losses) <= limit else -1),
    ("lab_pruner.n_of_m", lambda score, n, m: n_of_m(score.abs(), n, m)),
    ("lab_wanda.mask", of_the_whole),
    ("lab_wanda.input_norm", lambda batches:
        sum(batch.square().sum(0) for batch in batches[:4]).sqrt()),
    ("distillation_losses.attention", lambda student_map, teacher_map, mask:
        (teacher_map * (teacher_map / student_map).log()).sum(-1).transpose(1, 2)[mask].mean()),
]  # fmt: skip


def padded_at_the_end(ids, mask):
    """Labels where padding stands at the end of a row only, which nobody has promised."""
    out = torch.full_like(ids[:, 1:], -100)
    for row, count in enumerate(mask.sum(1).tolist()):
        out[row, : max(0, count - 1)] = ids[row, 1:count]
    return out


LAZY.append(("lab_distillation.labels_of", padded_at_the_end))


@pytest.mark.parametrize("place", range(len(LAZY)))
def test_an_answer_that_saves_work_is_wrong(place):
    name, wrong = LAZY[place]
    assert not any(checking.judge(name, wrong, seed=seed) for seed in range(4))


@pytest.mark.parametrize("rounding", [int, lambda share: -int(-share // 1)])
def test_shares_are_rounded_as_the_task_says(opened, rounding):
    right = opened["lab-3.2-wanda"].reference
    assert not any(
        checking.judge("lab_wanda.mask", rounded(right["wanda_mask"], rounding), seed=seed)
        for seed in range(4)
    )


def test_a_seed_that_is_not_used_is_wrong(opened):
    """Lab 4.2's random masks: with the same seed the same ones, which a check of single results
    cannot see.
    """

    def shuffled(masks, seed):
        return {n: m.flatten()[torch.randperm(m.numel())].view(m.shape) for n, m in masks.items()}

    lab = opened["lab-4.2-lottery-ticket"]
    assert points(lab, "random-masks-test") == 6
    assert points(lab, "random-masks-test", random_masks=shuffled) == 0
