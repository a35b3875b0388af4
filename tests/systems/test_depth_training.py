import copy

import pytest
import torch
from tiny_models import model_of

from course_utils.errors import CompressionError
from course_utils.systems import depth, depth_training

IDS = torch.randint(3, 60, (16, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    return model_of(request.param, layers=3)


def test_the_highest_scores_pass_and_the_gradient_is_that_of_a_sigmoid():
    scores = torch.tensor([[3.0, -1.0, 0.5, 2.0]], requires_grad=True)
    keep = depth_training.straight_through(scores, 0.5)
    assert keep.tolist() == [[1, 0, 0, 1]]
    keep.sum().backward()
    soft = (scores.detach() - 0.5).sigmoid()
    torch.testing.assert_close(scores.grad, soft * (1 - soft))


@pytest.mark.parametrize("numbers", [1, 7, 100])
@pytest.mark.parametrize("capacity", [0.25, 0.5, 0.9])
def test_a_cut_lets_its_share_through(numbers, capacity):
    scores = torch.randperm(numbers).double()
    passed = int((scores > depth.cut(scores, capacity)).sum())
    assert abs(passed - min(capacity * numbers, numbers - 1)) <= 0.5


@torch.no_grad()
def test_keeping_nothing_or_all_is_a_skipped_block_or_the_model(model):
    def logits(factor):
        with depth_training.kept(model, {1: lambda x: torch.full(x.shape[:-1], factor)}):
            return model(input_ids=IDS).logits.log_softmax(-1)

    torch.testing.assert_close(logits(1.0), depth.predictions(model, IDS), atol=1e-6, rtol=0)
    skipped = depth.predictions(model, IDS, {1: torch.tensor(True)})
    assert torch.equal(logits(0.0), skipped)


@pytest.mark.parametrize("by", ["router", "fitted", "chance"])
def test_training_brings_the_model_nearer_and_leaves_the_original_alone(by):
    model = model_of("llama", layers=3)
    before, goal = copy.deepcopy(model.state_dict()), depth.predictions(model, IDS)
    settings = {"by": by, "batch": 8, "seed": 3}
    _, first = depth_training.train(model, IDS, (1, 2), 0.5, steps=1, peak=1e-9, **settings)
    student, choose = depth_training.train(model, IDS, (1, 2), 0.5, steps=15, peak=3e-3, **settings)

    def far(network, skips):
        return float(depth.kl(goal, depth.predictions(network, IDS, skips)).mean())

    skips = choose(student, IDS)
    assert far(student, skips) < 0.9 * far(model, first(model, IDS))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    shares = [float(skips[b].float().mean()) for b in (1, 2)]
    assert shares == pytest.approx([0.5, 0.5], abs=0.15 if by == "chance" else 0.01)
    if by != "chance":  # no token looks at later ones
        early = choose(student, IDS[:, :5])
        assert all(torch.equal(early[b], skips[b][:, :5]) for b in skips)


def test_a_trained_router_moves_and_a_fitted_one_does_not():
    model = model_of("gpt2", layers=3)
    start = depth.Router(model, IDS, (1,), 0.5)
    for by, moves in (("router", True), ("fitted", False)):
        _, choose = depth_training.train(model, IDS, (1,), 0.5, by=by, steps=4, batch=8, peak=1e-3)
        same = torch.allclose(choose.__self__.weights[1], start.weights[1], atol=1e-6)
        assert same != moves


def test_a_block_that_nobody_sees(model):
    student, choose = depth_training.train(
        model, IDS, (1,), 0.0, by="chance", steps=2, batch=8, peak=1e-4
    )
    assert bool(choose(student, IDS)[1].all())


def test_another_way_is_refused(model):
    with pytest.raises(CompressionError, match="router, fitted or chance"):
        depth_training.train(model, IDS, (1,), 0.5, by="magic")
