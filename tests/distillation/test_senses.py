"""Keypad tones against the discrete Fourier transform, and what pairs teach."""

import numpy as np
import pytest
import torch

from course_utils.distillation import digits, senses
from course_utils.errors import CompressionError


@pytest.mark.parametrize("hertz", [697, 1336, 1000])
def test_goertzel_is_a_fourier_sum(hertz):
    x = torch.randn(
        3, senses.SAMPLES, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    wave = np.exp(-2j * np.pi * hertz * np.arange(senses.SAMPLES) / senses.RATE)
    assert senses.goertzel(x, hertz).numpy() == pytest.approx(
        np.abs(x.numpy() @ wave) ** 2, rel=1e-9
    )


def test_without_noise_the_two_loudest_frequencies_name_the_key():
    keys = {
        "1": (697, 1209),
        "5": (770, 1336),
        "9": (852, 1477),
        "0": (941, 1336),
        "3": (697, 1477),
        "7": (852, 1209),
    }
    heard = senses.ear(senses.tones(torch.tensor([int(k) for k in keys]), noise=0.0))
    for row, (low, high) in zip(heard, keys.values(), strict=True):
        assert (
            senses.ROWS[int(row[:4].argmax())] == low
            and senses.COLUMNS[int(row[4:].argmax())] == high
        )


def test_tones_repeat_by_seed_and_noise_has_its_size():
    names = torch.arange(10)
    assert torch.equal(senses.tones(names, seed=3), senses.tones(names, seed=3))
    quiet, loud = (senses.tones(names.repeat(40), noise=n, seed=1) for n in (0.0, 2.0))
    assert float((loud - quiet).std()) == pytest.approx(2.0, rel=0.02)


def test_pairs_teach_and_wrong_pairs_do_not():
    data = digits.load(0)
    x, names = data.train_x[:600], data.train_y[:600]
    teacher = senses.teach(digits.network(64, 32, 10, seed=0), x, senses.one_hot(names), steps=150)
    heard, later = (
        senses.ear(senses.tones(names, seed=1)),
        senses.ear(senses.tones(data.test_y, seed=2)),
    )
    answers = senses.soft(teacher, x)
    assert torch.allclose(answers.sum(-1), torch.ones(len(x)))
    got = {}
    for name, targets in {"pairs": answers, "wrong": answers.roll(7, 0)}.items():
        student = senses.teach(digits.network(7, 32, 10, seed=0), heard, targets, steps=150)
        got[name] = digits.accuracy(student, later, data.test_y)
    assert got["pairs"] > 0.9 and got["wrong"] < 0.25


def test_soft_targets_of_one_are_labels():
    logits = torch.randn(5, 10)
    targets = senses.one_hot(torch.arange(5))
    ours = -(targets * logits.log_softmax(-1)).sum(-1).mean()
    assert float(ours) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, torch.arange(5))), rel=1e-6
    )


def test_mislabelled_changes_about_the_share_and_never_to_the_same():
    names = torch.arange(10).repeat(300)
    changed = senses.mislabelled(names, 0.3)
    assert float((changed != names).float().mean()) == pytest.approx(0.3, abs=0.04)
    assert (senses.mislabelled(names, 1.0) != names).all() and torch.equal(
        senses.mislabelled(names, 0.0), names
    )


def test_bad_input_is_told():
    with pytest.raises(CompressionError, match="digits 0 … 9"):
        senses.tones(torch.tensor([10]))
    with pytest.raises(CompressionError, match="as many of both"):
        senses.teach(digits.network(7, 10), torch.zeros(3, 7), torch.zeros(2, 10))
