"""Heads that look back and heads that match, on planted patterns; tokens that could be copied;
silenced heads.
"""

import pytest
import torch
from tiny_models import model_of

from course_utils.errors import CompressionError
from course_utils.evaluation import by_window, circuits
from course_utils.models import walk

IDS = torch.randint(3, 96, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return model_of("llama", layers=2).eval()


def test_pairs_that_stood_before():
    ids = torch.tensor([[5, 6, 7, 5, 6, 8, 5, 6]])
    assert circuits.seen_before(ids).tolist() == [[False, False, False, True, False, False, True]]


def test_looking_back_on_planted_maps():
    back = torch.zeros(1, 2, 6, 6)
    back[0, 0, range(1, 6), range(5)] = 1.0
    back[0, 1, range(2, 6), range(4)] = 0.5
    assert circuits.looking_back([back], 1).tolist() == [[1.0, 0.0]] and circuits.looking_back(
        [back], 2
    ).tolist() == [[0.0, 0.5]]


def test_matching_on_planted_maps():
    ids, maps = torch.tensor([[5, 6, 7, 5, 9]]), torch.zeros(1, 2, 5, 5)
    maps[0, 0, 3, 1] = 0.75  # reads 5, looks at the 6 behind the first 5
    maps[0, 1, 3, 0] = 1.0  # looks at the first 5 itself
    assert circuits.matching([maps], ids).tolist() == [[0.75, 0.0]]
    with pytest.raises(CompressionError, match="longer windows"):
        circuits.matching([maps], torch.arange(5)[None])


def test_maps_are_attention_and_the_model_stays(model):
    before = model.config._attn_implementation
    maps = circuits.attention_maps(model, IDS)
    assert (
        len(maps) == 2
        and maps[0].shape == (3, 4, 12, 12)
        and model.config._attn_implementation == before
    )
    torch.testing.assert_close(maps[1].sum(-1), torch.ones(3, 4, 12))
    assert maps[0].triu(1).abs().max() == 0


def test_kl_at_some_tokens(model):
    original, changed = by_window.predictions(model, IDS), model_of("llama", layers=1).eval()
    where = torch.ones(3, 11, dtype=torch.bool)
    where[:, 4:] = False
    with torch.no_grad():
        q = changed(input_ids=IDS).logits.log_softmax(-1)
    expected = (
        torch.nn.functional.kl_div(q[:, :4], original[:, :4], log_target=True, reduction="none")
        .sum(-1)
        .mean(1)
    )
    torch.testing.assert_close(
        circuits.kl_where(original, changed, IDS, where).float(), expected, rtol=1e-4, atol=1e-6
    )
    again = circuits.kl_where(original, by_window.predictions(changed, IDS), IDS, where)
    torch.testing.assert_close(again, circuits.kl_where(original, changed, IDS, where))
    with pytest.raises(CompressionError, match="each window"):
        circuits.kl_where(original, changed, IDS, torch.zeros(3, 11, dtype=torch.bool))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_a_silent_head_is_a_head_with_no_output(kind):
    from course_utils.pruning import anatomy

    net = model_of(kind, layers=2).eval()
    with circuits.without_head(net, 1, 2):
        silent = by_window.predictions(net, IDS)
    out = walk.blocks(net)[1].get_submodule(anatomy.of(net).attention_out)
    weight = walk.weight_of(out)
    size = weight.shape[1] // 4
    with torch.no_grad():
        weight[:, 2 * size : 3 * size] = 0
    torch.testing.assert_close(by_window.predictions(net, IDS), silent, rtol=1e-5, atol=1e-6)


def test_heads_that_are_not_there(model):
    with (
        pytest.raises(CompressionError, match="2 blocks of 4 heads"),
        circuits.without_head(model, 0, 4),
    ):
        pass
