"""Which method is better than which, on the bundled model. KL is the mean over positions of KL(dense ‖ pruned).

KL is compared, not the loss: where pruning costs little, the loss of a pruned model may by chance be that of the
dense one or below, but its answers still differ.
"""

import pytest
import torch

from course_utils.models import load
from course_utils.models.data import token_windows
from course_utils.pruning import magnitude, sparsegpt, wanda


@pytest.fixture(scope="module")
def bundled():
    return load("bundled")


@pytest.fixture(scope="module")
def kl(bundled):
    model, tokenizer = bundled
    windows = token_windows(tokenizer, "validation", 12, 256, 0).long()
    calibration = token_windows(tokenizer, "train", 16, 256, 1).long()
    with torch.no_grad():
        goal = model(input_ids=windows).logits.flatten(0, 1).log_softmax(-1)

    @torch.no_grad()
    def measure(method, pattern):
        data = () if method is magnitude else (calibration,)
        pruned = method.prune(model, *data, 0.5, pattern=pattern).model
        found = pruned(input_ids=windows).logits.flatten(0, 1).log_softmax(-1)
        return float((goal.exp() * (goal - found)).sum(-1).mean())

    return {(m, p): measure(m, p) for m in (magnitude, wanda, sparsegpt) for p in (None, "2:4")}


def test_inputs_matter_at_half_the_weights(kl):
    assert 0 < kl[wanda, None] < 0.85 * kl[magnitude, None]
    assert 0 < kl[sparsegpt, None] < 0.7 * kl[magnitude, None]


def test_the_update_matters_at_two_of_four(kl):
    assert kl[sparsegpt, "2:4"] < 0.7 * kl[wanda, "2:4"] < 0.7 * kl[magnitude, "2:4"]


def test_a_pattern_costs(kl):
    assert all(kl[method, None] < 0.8 * kl[method, "2:4"] for method in (magnitude, wanda, sparsegpt))
