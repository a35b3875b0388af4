"""Facts asked one by one: against scoring all tokens, a model that knows nothing, and people in
order of frequency.
"""

import pytest
import torch

from course_utils import models
from course_utils.errors import CompressionError
from course_utils.evaluation import answers, facts
from course_utils.world.people import ATTRIBUTES, World, default_world


@pytest.fixture(scope="module")
def bundled():
    return models.load("bundled")


def test_beginnings_tell_values_apart():
    assert facts.beginnings([[1, 2, 3], [1, 4], [5, 6], [5, 6, 7]]) == [
        [1, 2],
        [1, 4],
        [5, 6],
        [5, 6, 7],
    ]


def test_beginnings_give_what_whole_answers_give(bundled):
    net, tokenizer = bundled
    world = default_world()
    asked = facts.questions(tokenizer, template=1)
    few = facts.Asked(asked.pairs[: sum(asked.sizes[:40])], asked.sizes[:40], asked.rights[:40])
    found = facts.known(net, few)
    whole, right = [], []
    for person, attribute in world.facts()[:40]:
        question, answer = facts.kinds.question(world, person, attribute, 1)
        pairs = [
            answers.encode_pair(tokenizer, f"Question: {question}\nAnswer:", f" {v}")
            for v in ATTRIBUTES[attribute]
        ]
        scores = torch.tensor(answers.log_probabilities(net, pairs), dtype=torch.float64)
        place = ATTRIBUTES[attribute].index(answer)
        right.append(float(scores.argmax() == place))
        whole.append(
            float(
                (
                    torch.tensor(len(pairs)).log2()
                    + scores.log_softmax(-1)[place] / torch.tensor(2.0).log()
                ).clamp(min=0)
            )
        )
    assert found.right.tolist() == right
    assert torch.allclose(found.bits, torch.tensor(whole, dtype=torch.float64), atol=2e-3)
    assert found.person[:11].tolist() == [0] * 5 + [1] * 5 + [2]


def test_a_stranger_to_the_world_knows_nothing(bundled):
    net, tokenizer = bundled
    found = facts.known(net, facts.questions(tokenizer, world=World(seed=5, n_people=40)))
    assert found.right.mean() < 0.25 and len(found.bits) == 200


def test_bad_input(bundled):
    with pytest.raises(CompressionError, match="template"):
        facts.questions(bundled[1], template=3)
