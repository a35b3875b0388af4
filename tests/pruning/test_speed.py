"""What is timed: the ratio of medians on a clock of our own, zeros in the right number, products
that agree.
"""

import itertools

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.pruning import speed


def test_the_ratio_is_that_of_the_medians():
    now = [0.0]
    slow, fast = (
        itertools.chain([100.0], itertools.cycle(costs))
        for costs in ((4.0, 6.0, 50.0), (2.0, 3.0, 1.0))
    )

    def spend(costs):
        return lambda: now.__setitem__(0, now[0] + next(costs))

    assert speed.ratio(spend(slow), spend(fast), rounds=3, clock=lambda: now[0]) == 3.0


def test_random_weights_have_the_sparsity_or_the_pattern():
    assert int((speed.random_weight(20, 0.75) == 0).sum()) == 300
    assert ((speed.random_weight(8, 0.5, "2:4") != 0).view(8, -1, 4).sum(-1) == 2).all()


def test_products_that_disagree_are_refused(monkeypatch):
    weight = speed.random_weight(16, 0.9)
    assert speed.csr_over_dense(weight, 2, rounds=1) > 0
    monkeypatch.setattr(torch.Tensor, "to_sparse_csr", lambda self: 2 * self)
    with pytest.raises(CompressionError, match="disagree"):
        speed.csr_over_dense(weight, 2, rounds=1)
