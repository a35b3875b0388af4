"""Which method is better than which, on the bundled model.

KL is the mean over positions of KL(dense ‖ pruned).

KL is compared, not the loss: where pruning costs little, the loss of a pruned model may by chance
be that of the dense one or below, but its answers still differ.
"""

import pytest
import torch

from course_utils.distillation.fit import fit
from course_utils.models import load
from course_utils.models.data import mean_loss, token_windows
from course_utils.pruning import lottery, magnitude, recovery, schedules, sparsegpt, wanda


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
    assert all(
        kl[method, None] < 0.8 * kl[method, "2:4"] for method in (magnitude, wanda, sparsegpt)
    )


SEEDS = range(3)
FRESH = 90_001  # a seed of documents that neither the model nor the runs below were trained on


def test_gradual_with_training_is_better_than_one_shot(bundled):
    """Half of the weights, in blocks of 4 x 4 by magnitude: at once, and gradually in 16 short
    steps.

    Nats per token.

    Single weights are no test at 50 %: taking them at once costs this model less than 0.01 nats.
    Where gradual pruning beats pruning at once with as much training, see benchmarks/gradual.py and
    `test_schedules.test_gradual_beats_at_once_where_little_is_left_on_digits`.
    """
    model, tokenizer = bundled
    windows = token_windows(tokenizer, "train", 16, 128, FRESH).long()
    one_shot = mean_loss(magnitude.prune(model, 0.5, pattern="4x4").model, windows)
    assert mean_loss(magnitude.prune(model, 0.5).model, windows) < mean_loss(model, windows) + 0.01
    for seed in SEEDS:
        ids = token_windows(tokenizer, "train", 16 * 4, 64, 1000 + seed).long()
        run = schedules.gradual(
            model, ids, 0.5, pattern="4x4", steps=16, batch=4, update=2, seed=seed, progress=False
        )
        assert run.settings["sparsity"] == pytest.approx(0.5, abs=1e-3)
        assert mean_loss(run.model, windows) < one_shot - 0.5


def test_a_rewound_ticket_beats_a_random_ticket(bundled):
    """Half of the weights, and the others back to where the training started: the bundled model
    (Chen et al., 2020).
    """
    model, tokenizer = bundled
    windows = token_windows(tokenizer, "train", 16, 128, FRESH).long()
    for seed in SEEDS:
        ids = token_windows(tokenizer, "train", 8 * 4, 64, 2000 + seed).long()

        def train(network, ids=ids, seed=seed):
            fit(
                network.train(),
                recovery.next_token(network, ids),
                len(ids),
                steps=8,
                batch=4,
                peak=3e-4,
                seed=seed,
                progress=False,
            )

        ticket = lottery.find(model, train, rounds=1, rate=0.5)[-1]
        chance = lottery.train_masked(model, train, lottery.random_masks(ticket.masks, seed))
        assert ticket.sparsity == 0.5
        assert mean_loss(ticket.model, windows) < mean_loss(chance, windows) - 0.5
