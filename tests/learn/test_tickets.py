"""Lab 4.2: the rules of a ticket are enforced, and the grader trains masks itself."""

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.learn import tickets
from course_utils.pruning import masks as choose


def kept(start, share):
    """The largest initial weights of each layer."""
    return {
        name: choose.top(w.abs().flatten(), round(share * w.numel())).view_as(w)
        for name, w in start.items()
    }


def full(start):
    return kept(start, 1.0)


def revives(start, train):
    gone = {name: ~mask for name, mask in kept(start, 0.96).items()}
    return [full(start), kept(start, 0.04), gone]


def trains(weights, times=1):
    def find(start, train):
        for _ in range(times):
            train(weights(start), full(start))
        return [full(start), kept(start, 0.04)]

    return find


BROKEN = [
    (lambda start, train: [full(start)], "at least one round"),
    (lambda start, train: [kept(start, 0.5), kept(start, 0.04)], "keep everything"),
    (revives, "came back"),
    (lambda start, train: [full(start), kept(start, 0.06)], "at least 95 %"),
    (trains(lambda start: {n: 2 * w for n, w in start.items()}), "never change"),
    (trains(lambda start: start, times=2), "1 trainings are allowed"),
    (lambda start, train: [full(start), {"0": full(start)["0"]}], "expected a dict"),
    (
        lambda start, train: [full(start), {n: m.float() for n, m in kept(start, 0.04).items()}],
        "expected torch.bool",
    ),
    (
        lambda start, train: [full(start), {n: m.T for n, m in kept(start, 0.04).items()}],
        "of shape",
    ),
]


@pytest.mark.parametrize(("find", "said"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_rule_is_named(find, said):
    with pytest.raises(CompressionError, match=said):
        tickets.judged(find, seed=1, limit=1)


def test_the_initial_weights_are_a_copy():
    """What a learner does to them changes neither the task nor what the masks are worth."""

    def spoils(start, train):
        masks = kept(start, 0.04)
        for weight in start.values():
            weight.zero_()
        return [{name: torch.ones_like(mask) for name, mask in masks.items()}, masks]

    honest = tickets.judged(lambda start, train: [full(start), kept(start, 0.04)], seed=2)
    assert tickets.judged(spoils, seed=2) == honest and all(0 < share < 1 for share in honest)


def test_sparsity_and_nesting_by_hand():
    first, second = (
        {"a": torch.tensor([[True, True, False, True]])},
        {"a": torch.tensor([[True, False, False, False]])},
    )
    assert tickets.sparsity(second) == 0.75
    assert tickets.nested([first, second]) and not tickets.nested([second, first])
