"""The classic picture on real digits."""

import numpy as np
import pytest
import torch

from course_utils.distillation import compare, digits
from course_utils.errors import CompressionError


@pytest.fixture(scope="module")
def taught():
    data = digits.load()
    return data, digits.big(data)


def test_the_file_holds_the_digits_of_scikit_learn():
    from sklearn.datasets import load_digits

    images, names = load_digits(return_X_y=True)
    with np.load(digits.FILE, allow_pickle=False) as stored:
        assert (stored["x"] == images).all() and (stored["y"] == names).all()


def test_data_is_divided():
    data = digits.load(3)
    assert data.train_x.shape == (1297, 64) and data.test_x.shape == (500, 64)
    assert data.train_x.min() == 0 and data.train_x.max() == 1
    rows = {tuple(row.tolist()) for row in data.train_x}
    assert not any(tuple(row.tolist()) in rows for row in data.test_x)
    assert not torch.equal(digits.load(4).test_y, data.test_y)


def test_teacher_knows_what_looks_alike(taught):
    """Among its wrong answers to a 3, the digits that share its strokes get more than an even
    share, and 4 less.
    """
    data, teacher = taught
    assert digits.accuracy(teacher, data.test_x, data.test_y) > 0.95
    shares = digits.dark_knowledge(teacher, data.test_x, data.test_y)
    torch.testing.assert_close(shares.sum(-1), torch.ones(10))
    assert (shares.diagonal() == 0).all()
    assert shares[3, 5] + shares[3, 8] > 3 / 9 and shares[3, 4] < 0.5 / 9
    assert float(shares[8, [1, 3, 5, 9]].sum()) > 5 / 9


def test_dark_knowledge_by_hand(taught):
    data, teacher = taught
    with torch.no_grad():
        p = (teacher(data.test_x[data.test_y == 8]).double() / 4).softmax(-1).mean(0)
    wanted = [float(v / (p.sum() - p[8])) if i != 8 else 0.0 for i, v in enumerate(p)]
    got = digits.dark_knowledge(teacher, data.test_x, data.test_y)[8]
    assert got.tolist() == pytest.approx(wanted, rel=1e-4)


def test_distilled_beats_labels_on_few_images():
    rows = digits.experiment(seeds=range(5))
    gains = [row["distilled"] - row["labels"] for row in rows]
    mean, half = compare.interval(gains)
    assert mean - half > 0, gains
    assert all(row["teacher"] > row["distilled"] for row in rows)


def test_a_digit_never_seen_is_learned_from_the_teacher():
    found = digits.without(3)
    assert found["labels"] == 0
    assert found["distilled, bias corrected"] > 0.7 > found["labels, bias corrected"]


def test_same_seed_same_student(taught):
    data, teacher = taught
    pairs = [
        digits.train(
            digits.network(64, 8, 10, seed=1, dropout=0.2),
            data.train_x,
            data.train_y,
            teacher,
            steps=20,
            seed=s,
        )
        for s in (0, 0, 1)
    ]
    first, second, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in pairs)
    assert torch.equal(first, second) and not torch.equal(first, other)
    with pytest.raises(CompressionError, match="data"):
        digits.train(pairs[0], data.train_x[:0], data.train_y[:0])
