"""Masks against plain Python that sorts and counts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.errors import CompressionError
from course_utils.pruning import groups, masks

FRACTIONS = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


COLUMNS, ROWS = st.integers(1, 12), st.integers(1, 6)


@st.composite
def scores(draw, columns=COLUMNS, rows=ROWS):
    """Matrices with many ties: small integers, some negative."""
    shape = draw(rows), draw(columns)
    values = draw(
        st.lists(st.integers(-3, 3), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    )
    return torch.tensor(values, dtype=torch.float32).view(shape)


def best(values: list[float], keep: int) -> list[bool]:
    """Brute force: True at the `keep` largest, the first of equals."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:keep]
    return [i in order for i in range(len(values))]


def goes(n: int, sparsity: float) -> int:
    """The integer nearest to sparsity · n, the larger of two that are as near."""
    return max(range(n + 1), key=lambda k: (-abs(k - sparsity * n), k))


@settings(deadline=None)
@given(scores(), FRACTIONS)
def test_per_layer_and_per_row_equal_a_sort(score, sparsity):
    flat = best(score.flatten().tolist(), score.numel() - goes(score.numel(), sparsity))
    assert masks.per_layer(score, sparsity).flatten().tolist() == flat
    keep = score.shape[1] - goes(score.shape[1], sparsity)
    assert masks.per_row(score, sparsity).tolist() == [best(row, keep) for row in score.tolist()]


@settings(deadline=None)
@given(st.integers(1, 8).flatmap(lambda m: st.tuples(
    st.just(m), st.integers(0, m), scores(columns=st.integers(1, 4).map(lambda k: k * m))))
)  # fmt: skip
def test_n_of_m_equals_a_sort_of_every_group(case):
    m, n, score = case
    wanted = [
        [keep for g in range(0, len(row), m) for keep in best(row[g : g + m], n)]
        for row in score.tolist()
    ]
    assert masks.n_of_m(score, n, m).tolist() == wanted
    assert masks.make(score, pattern=f"{n}:{m}").tolist() == wanted


@settings(deadline=None)
@given(scores(), scores(), FRACTIONS)
def test_across_is_one_ranking(a, b, sparsity):
    found = masks.across({"a": a, "b": b}, sparsity)
    both = a.flatten().tolist() + b.flatten().tolist()
    assert found["a"].flatten().tolist() + found["b"].flatten().tolist() == best(
        both, len(both) - goes(len(both), sparsity)
    )


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.77, 1.0])
def test_of_equal_scores_the_first_stay_across_matrices(sparsity):
    scores = {
        name: torch.randint(4, shape, generator=torch.Generator().manual_seed(3)).double()
        for name, shape in {"a": (5, 7), "b": (3, 4)}.items()
    }
    flat = torch.cat([score.flatten() for score in scores.values()])
    order = sorted(range(len(flat)), key=lambda i: (-float(flat[i]), i))[
        : len(flat) - round(sparsity * len(flat))
    ]
    found = torch.cat([mask.flatten() for mask in masks.across(scores, sparsity).values()])
    assert found.nonzero().flatten().tolist() == sorted(order)


@settings(deadline=None)
@given(st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(lambda s: st.tuples(
    st.just(s), scores(st.integers(1, 3).map(lambda k: k * s[1]),
                       st.integers(1, 3).map(lambda k: k * s[0])))), FRACTIONS)  # fmt: skip
def test_blocks_go_whole(case, sparsity):
    (height, width), score = case
    mask = masks.blocks(score, sparsity, (height, width))
    cells = [
        (i, j) for i in range(0, score.shape[0], height) for j in range(0, score.shape[1], width)
    ]
    sums = [
        sum(score[i + a, j + b].item() for a in range(height) for b in range(width))
        for i, j in cells
    ]
    kept = best(sums, len(cells) - goes(len(cells), sparsity))
    for (i, j), keep in zip(cells, kept, strict=True):
        assert mask[i : i + height, j : j + width].eq(keep).all()
    assert torch.equal(masks.make(score, sparsity, f"{height}x{width}"), mask)


@settings(deadline=None)
@given(scores(), FRACTIONS)
def test_rows_and_columns_are_blocks_of_one_row_or_column(score, sparsity):
    keep = len(score) - goes(len(score), sparsity)
    assert masks.rows(score, sparsity).all(1).tolist() == best(score.sum(1).tolist(), keep)
    assert torch.equal(masks.columns(score, sparsity), masks.rows(score.T.contiguous(), sparsity).T)


PATTERNS = ["per_layer", "per_row", "rows", "columns", "2:4", "1x4", "2x2"]


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(deadline=None, max_examples=25)
@given(
    scores(columns=st.sampled_from([4, 8, 12]), rows=st.sampled_from([2, 4])), FRACTIONS, FRACTIONS
)
def test_idempotent_and_monotone(pattern, weight, first, second):
    low, high = sorted((first, second))
    mask = masks.make(weight.abs(), low, pattern)
    again = masks.make((weight * mask).abs(), low, pattern)
    assert torch.equal(weight * mask * again, weight * mask), (
        "pruning what is pruned changes nothing"
    )
    assert torch.equal(mask, again)
    stricter = masks.make(weight.abs(), high, pattern)
    assert not (stricter & ~mask).any(), (
        "a weight that went at a low sparsity is gone at a higher one"
    )


def test_sparsity_zero_and_one_and_one_row():
    score = torch.randn(1, 8)
    for pattern in ("per_layer", "per_row", "rows", "columns", "1x4"):
        assert masks.make(score, 0.0, pattern).all()
        assert not masks.make(score, 1.0, pattern).any()


def test_global_patterns_need_their_own_function():
    with pytest.raises(CompressionError, match="global"):
        masks.make(torch.ones(2, 4), 0.5, "global")
    with pytest.raises(CompressionError, match="scores: empty"):
        masks.across({}, 0.5)


def test_numbers_of_numpy_are_numbers():
    assert (
        masks.removed(10, np.float32(0.5))
        == masks.removed(10, np.float64(0.5))
        == masks.removed(10, 0.5)
        == 5
    )
    assert (
        groups.how_many(8, np.int64(3), "heads") == 3
        and groups.how_many(8, np.float32(0.5), "heads") == 4
    )


@pytest.mark.parametrize(
    "score, sparsity, pattern, named",
    [
        (torch.ones(2, 6), 0.5, "2:4", "does not divide"),
        (torch.ones(2, 4), 0.5, "5:4", "0 <= N <= M"),
        (torch.ones(3, 4), 0.5, "2x2", "do not tile"),
        (torch.ones(3, 4), 0.5, "0x2", "do not tile"),
        (torch.ones(3, 4), 0.5, "per_column", "pattern='per_column'"),
        (torch.ones(3, 4), 0.5, "2:", "pattern='2:'"),
        (torch.ones(3, 4), 1.5, None, "sparsity=1.5"),
        (torch.ones(3, 4), -0.1, "2:4", "sparsity=-0.1"),
        (torch.ones(3, 4), float("nan"), None, "sparsity=nan"),
        (torch.ones(3, 4), "half", None, "sparsity='half'"),
        (torch.ones(3, 4), torch.tensor(0.5), None, r"sparsity=tensor\(0.5000\): choose a number"),
        (torch.ones(3, 4), 0.5, "²:4", "pattern='²:4'"),
        (torch.ones(4), 0.5, None, "non-empty matrix"),
        (torch.ones(0, 4), 0.5, None, "non-empty matrix"),
        (torch.tensor([[1.0, float("nan")]]), 0.5, None, "NaN"),
        (torch.tensor([[1.0, float("inf")]]), 0.5, "per_row", "NaN or infinity"),
    ],
)
def test_bad_input_is_named(score, sparsity, pattern, named):
    with pytest.raises(CompressionError, match=named):
        masks.make(score, sparsity, pattern)
