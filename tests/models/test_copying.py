"""The planted start: heads that look back, heads that match, and labels of answers only."""

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.models import copying
from course_utils.models.data import answers_only
from course_utils.models.train import build

SIZE = {
    "vocabulary": 1024,
    "hidden": 256,
    "layers": 3,
    "heads": 8,
    "kv_heads": 4,
    "mlp": 64,
    "seed": 0,
}


@pytest.fixture(scope="module")
def planted():
    model = build(**SIZE).eval()
    copying.plant_copying(model)
    model.set_attn_implementation("eager")
    return model


def attention(model, ids, layer):
    """(heads, queries, keys)."""
    with torch.no_grad():
        return model(input_ids=ids, output_attentions=True).attentions[layer][0]


def test_each_head_of_the_first_layer_looks_back_its_distance(planted):
    ids = torch.randint(2, 1024, (1, 120), generator=torch.Generator().manual_seed(0))
    found = attention(planted, ids, 0)
    for head, back in enumerate(copying.LOOK_BACK):
        assert torch.diagonal(found[head], -back)[8:].mean() > 0.8, head


def test_the_second_layer_finds_what_followed_the_same_token(planted):
    """Random tokens, twice: at the second reading the token to come is the one after the first
    occurrence.
    """
    half = torch.randperm(1022, generator=torch.Generator().manual_seed(1))[:40] + 2
    found = attention(planted, torch.cat([half, half])[None], 1)
    queries = torch.arange(40, 79)
    for group, (sought, _) in enumerate(copying.MATCH):
        if sought == copying.FOLLOWS:
            for head in (2 * group, 2 * group + 1):
                right = found[head, queries].argmax(-1) == queries - 40 + 1
                assert right.float().mean() > 0.2, head  # by chance 1 in 60


def test_the_second_layer_finds_where_the_token_three_back_was_the_same(planted):
    generator = torch.Generator().manual_seed(2)
    ids = torch.stack([torch.randperm(1022, generator=generator)[:60] + 2 for _ in range(64)])
    ids[:, 50] = ids[:, 20]
    with torch.no_grad():
        # all but the query itself
        found = planted(input_ids=ids, output_attentions=True).attentions[1][:, :, 53, :53]
    best = found.topk(2).indices
    for group, (sought, _) in enumerate(copying.MATCH):
        if sought == copying.SAME:
            for head in (2 * group, 2 * group + 1):
                assert (best[:, head] == 23).any(-1).float().mean() > 0.4, head  # by chance 2 in 53


def test_an_untouched_model_has_neither():
    model = build(**SIZE).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(2, 1024, (1, 120), generator=torch.Generator().manual_seed(0))
    found = attention(model, ids, 0)
    assert (
        max(torch.diagonal(found[h], -b)[8:].mean() for h, b in enumerate(copying.LOOK_BACK)) < 0.2
    )


def test_a_model_that_cannot_hold_it_is_refused():
    with pytest.raises(CompressionError, match="two layers or more"):
        copying.plant_copying(build(**SIZE | {"layers": 1}))


def test_only_answers_are_labelled(tokenizer):
    text = (
        "<|end|>Story: Ada puts the lamp in the shed. In the end the lamp is in the shed."
        "<|end|>Instruction: Give the first word: ring box\nResponse: ring"
        "<|end|>Premise: Ada has a red hat.\nClaim: the hat of Ada is red.\nFollows: yes<|end|>"
    )
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    labels = answers_only(tokenizer, ids)
    chosen = labels[0] >= 0
    assert tokenizer.decode(ids[0][chosen]) == " shed ring yes" and torch.equal(
        labels[0][chosen], ids[0][chosen]
    )
    assert (labels[0][~chosen] == -100).all()
