"""Gradients of both directions, votes and errors that add up, against autograd, scipy, enumeration
and sampling.
"""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import binom

from course_utils.distillation import compounding, directions, votes
from course_utils.errors import CompressionError


def pair(seed=0, v=8):
    g = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(v, generator=g, dtype=torch.float64), (
        2 * torch.randn(v, generator=g, dtype=torch.float64)
    ).log_softmax(-1)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_gradients_in_closed_form_are_autograds(direction):
    z, log_p = pair()
    z.requires_grad_()
    far = directions.divergence(log_p, z.log_softmax(-1), direction)
    p, q = log_p.exp().numpy(), z.detach().softmax(-1).numpy()
    assert float(far) == pytest.approx(
        rel_entr(*((p, q) if direction == "forward" else (q, p))).sum(), rel=1e-12
    )
    (due,) = torch.autograd.grad(far, z)
    torch.testing.assert_close(
        directions.gradient(z.detach(), log_p, direction), due, rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("baseline", [0.0, 1.3])
def test_score_function_estimates_are_unbiased(baseline):
    z, log_p = pair(1)
    due, q = directions.gradient(z, log_p, "reverse"), z.softmax(-1)
    every = directions.score_function(z, log_p, torch.arange(len(z)), baseline)
    torch.testing.assert_close(q @ every, due, rtol=1e-12, atol=1e-14)  # exactly, over all tokens
    drawn = torch.multinomial(q, 40_000, True, generator=torch.Generator().manual_seed(2))
    some = directions.score_function(z, log_p, drawn, baseline)
    assert ((some.mean(0) - due).abs() < 4 * some.std(0) / 200).all()


def test_forward_covers_with_the_moments_of_the_teacher_and_reverse_picks():
    grid = torch.linspace(-15, 15, 601, dtype=torch.float64)
    log_p = directions.log_mixture(grid, [0.6, 0.4], [-3, 3], [0.7, 0.7])
    p = log_p.exp()
    mean = float((p * grid).sum())
    sd = float((p * (grid - mean) ** 2).sum().sqrt())
    found = directions.fit_normal(log_p, grid, "forward", mean=0.5, sd=1.0)
    assert found[0] == pytest.approx(mean, abs=0.02) and found[1] == pytest.approx(sd, rel=0.02)
    left, right = (
        directions.fit_normal(log_p, grid, "reverse", mean=m, sd=1.0) for m in (-1.5, 1.5)
    )
    assert left[0] == pytest.approx(-3, abs=0.05) and right[0] == pytest.approx(3, abs=0.05)
    assert left[2] == pytest.approx(-np.log(0.6), abs=1e-3) and right[2] == pytest.approx(
        -np.log(0.4), abs=1e-3
    )
    with pytest.raises(CompressionError, match="direction"):
        directions.divergence(log_p, log_p, "both")


@pytest.mark.parametrize("m", [1, 2, 5, 8, 41])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_right_by_vote_is_a_binomial_tail(p, m):
    due = binom.sf(m // 2, m, p) + (0.5 * binom.pmf(m // 2, m, p) if m % 2 == 0 else 0)
    assert votes.right_by_vote(p, m) == pytest.approx(due, abs=1e-12)


def test_majorities():
    assert (
        votes.majority([3, 1, 1, 3, 2]) == 3
        and votes.majority([None, None, 4]) == 4
        and votes.majority([None]) is None
    )
    assert votes.accuracy([[1, 2, 2], [1, 1, 2]], [2, 2]) == [1.0, 0.0] and votes.accuracy(
        [[1, 2, 2]], [1], 1
    ) == [1.0]
    for wrong in (
        lambda: votes.majority([]),
        lambda: votes.right_by_vote(1.2, 3),
        lambda: votes.right_by_vote(0.5, 0),
        lambda: votes.accuracy([[1]], []),
    ):
        with pytest.raises(CompressionError):
            wrong()


@pytest.mark.parametrize(
    ("on", "off"), [(0.1, 1.0), (0.1, 0.1), (0.3, 0.6), (0.0, 1.0), (1.0, 0.0)]
)
def test_expected_errors_by_recursion_and_by_listing_all_walks(on, off):
    for T in (1, 2, 9):
        assert compounding.expected_errors(T, on, off) == pytest.approx(
            compounding.by_enumeration(T, on, off), abs=1e-12
        )


def test_errors_grow_with_the_square_off_the_path_and_linearly_on_it():
    e, T = 1e-4, 50
    assert compounding.expected_errors(T, e, e) == pytest.approx(e * T, rel=1e-12)
    assert compounding.expected_errors(T, e, 1.0) == pytest.approx(
        T - (1 - e) * (1 - (1 - e) ** T) / e, rel=1e-9
    )
    assert compounding.expected_errors(T, e, 1.0) == pytest.approx(e * T * (T + 1) / 2, rel=0.01)
    for wrong in ((0, 0.1, 0.1), (3, 1.1, 0.1), (3, 0.1, -0.1)):
        with pytest.raises(CompressionError):
            compounding.expected_errors(*wrong)
    with pytest.raises(CompressionError, match="too many"):
        compounding.by_enumeration(17, 0.1, 0.1)


def test_words_lost_in_a_generation_and_none_comes_back():
    p = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01], dtype=torch.float64)
    first = torch.stack(
        [
            directions.kept_after(p, 30, 1, generator=torch.Generator().manual_seed(s))
            for s in range(600)
        ]
    )[:, 1].double()
    due = float((1 - (1 - p) ** 30).sum())
    assert abs(float(first.mean()) - due) < 4 * float(first.std()) / 600**0.5
    walk = directions.kept_after(p, 30, 20, generator=torch.Generator().manual_seed(0))
    assert walk[0] == 5 and (walk.diff() <= 0).all()
    fresh = directions.kept_after(
        p, 3000, 20, fresh=0.5, generator=torch.Generator().manual_seed(0)
    )
    assert fresh[-1] == 5
    with pytest.raises(CompressionError):
        directions.kept_after(p, 0, 1)
