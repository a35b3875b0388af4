"""Bits of fact: a table that knows all, a guesser that knows nothing, and a store that learns."""

import math

import pytest
import torch
from torch import nn

from course_utils.errors import CompressionError
from course_utils.theory import capacity


class Table(nn.Module):
    """Looks every answer up; `knows` of them, and guesses the others."""

    def __init__(self, facts, knows):
        super().__init__()
        self.logits = torch.zeros(len(facts.answer), facts.values)
        self.logits[torch.arange(knows), facts.answer[:knows]] = 80.0

    def forward(self, facts):
        return self.logits


def test_a_table_and_a_guesser():
    facts = capacity.random_facts(300)
    assert facts.bits == 300 * 4
    assert capacity.held_bits(Table(facts, 300), facts) == pytest.approx(1200)
    assert capacity.held_bits(Table(facts, 0), facts) == pytest.approx(0, abs=1e-6)
    assert capacity.held_bits(Table(facts, 75), facts) == pytest.approx(300)


def test_bits_of_one_fact():
    p = torch.tensor([1.0, 0.25, 1 / 16, 0.001])
    assert torch.allclose(
        capacity.stored_bits(p.log(), 16), torch.tensor([4.0, 2.0, 0.0, 0.0]).double(), atol=1e-6
    )


def test_questions_are_different_and_answers_even():
    facts = capacity.random_facts(8000)
    asked = torch.stack([facts.first, facts.second, facts.attribute], 1)
    assert len(torch.unique(asked, dim=0)) == 8000 and int(asked.max()) == 39
    counts = facts.answer.bincount(minlength=16)
    assert ((counts - 500).abs() < 5 * math.sqrt(500)).all()


def test_a_store_learns_a_few_facts():
    facts = capacity.random_facts(200)
    store = capacity.learn(capacity.FactStore(), facts, steps=300)
    assert sum(p.numel() for p in store.parameters()) == 2 * 40 * 16 + 5 * 16 + 17 * 32 + 33 * 16
    assert capacity.held_bits(store, facts) > 0.95 * facts.bits


def test_bad_input():
    with pytest.raises(CompressionError, match="count"):
        capacity.random_facts(9000)
    with pytest.raises(CompressionError, match="logarithms"):
        capacity.stored_bits(torch.tensor([0.3]), 16)
