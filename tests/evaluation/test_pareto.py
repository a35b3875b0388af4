"""The front against brute force on many small sets with ties."""

import itertools
import math
import random

import pytest

from course_utils.errors import CompressionError
from course_utils.evaluation import pareto


def by_definition(costs):
    def beaten(i):
        return any(
            all(a <= b for a, b in zip(c, costs[i], strict=True)) and c != costs[i] for c in costs
        )

    return sorted((i for i in range(len(costs)) if not beaten(i)), key=lambda i: costs[i])


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_equals_the_definition(dimensions):
    rng = random.Random(dimensions)
    for _ in range(300):
        n = rng.randrange(1, 12)
        costs = [tuple(rng.randrange(6) for _ in range(dimensions)) for _ in range(n)]
        assert pareto.front(costs) == by_definition(costs)


def test_order_does_not_matter_and_nothing_is_on_the_front_that_is_beaten():
    costs = [(3, 1.0), (1, 3.0), (2, 2.0), (2, 2.5), (3, 1.0), (4, 0.5), (4, 0.9)]
    for order in itertools.permutations(range(len(costs))):
        found = pareto.front([costs[i] for i in order])
        assert sorted(order[i] for i in found) == [0, 1, 2, 4, 5]
    assert pareto.front([]) == [] and pareto.front([(math.inf, 1.0)]) == [0]


@pytest.mark.parametrize("bad", [[(1.0, 2.0), (1.0,)], [()], [(1.0, math.nan)]])
def test_what_cannot_be_compared_is_refused(bad):
    with pytest.raises(CompressionError, match="costs"):
        pareto.front(bad)


DENT = [(1.0, 10.0), (5.0, 8.0), (10.0, 1.0)]  # the middle one is on the front, in a dent of it


def test_a_weighted_sum_never_takes_a_point_in_a_dent_and_limits_reach_it():
    assert pareto.front(DENT) == [0, 1, 2]
    assert {pareto.weighted(DENT, (w / 1000, 1 - w / 1000)) for w in range(1001)} == {0, 2}
    assert pareto.within(DENT, (6, math.inf), 1) == 1
    assert pareto.within(DENT, (math.inf, 9), 0) == 1


def test_limits_reach_all_of_the_front_and_only_it():
    rng = random.Random(0)
    for _ in range(100):
        costs = [(rng.randrange(8), rng.randrange(8), rng.randrange(8)) for _ in range(8)]
        kept = pareto.front(costs)
        reached = {pareto.within(costs, costs[i], 0) for i in kept}
        assert {costs[i] for i in reached} == {costs[i] for i in kept}
        assert pareto.within(costs, (math.inf, 9, 9), 2) in kept


def test_weights_and_limits_refused():
    for weights in ((1.0,), (0.0, 0.0), (-1.0, 2.0)):
        with pytest.raises(CompressionError, match="weight"):
            pareto.weighted(DENT, weights)
    with pytest.raises(CompressionError, match="limits"):
        pareto.within(DENT, (0.5, 9), 0)
