"""Subnets: slices against masks and against extracted models, four architectures; their training;
searches against brute force.
"""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM
from wide_models import small

from course_utils.distillation import digits
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.pruning import evolution, slimmable, subnets, supernet, supernet_training
from course_utils.pruning.subnets import Space, Subnet
from course_utils.quantization import compressed, rtn

MODELS = small(32, 4)
IDS = torch.randint(3, 60, (3, 12), generator=torch.Generator().manual_seed(1))


def made(kind):
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return model


@pytest.fixture(scope="module", params=MODELS)
def pair(request):
    model = made(request.param)
    net = supernet.Supernet(model)
    net.order(IDS)
    return model, net


def chosen(net):
    return Subnet((0, 2, 3), 20, 1 if net.shape.elastic_heads else net.shape.heads)


@torch.no_grad()
def test_sorting_changes_no_answer_and_the_given_model_not_at_all(pair):
    model, net = pair
    wanted = model(input_ids=IDS).logits
    torch.testing.assert_close(net.model(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.logits(net.whole, IDS), wanted, rtol=1e-4, atol=1e-5)
    inner = net.shape.parts.mlp_out
    assert any(
        (walk.weight_of(a.get_submodule(inner)) != walk.weight_of(b.get_submodule(inner))).any()
        for a, b in zip(walk.blocks(model), walk.blocks(net.model), strict=True)
    )


@torch.no_grad()
def test_the_slice_the_mask_and_the_extracted_model_answer_alike(pair, tmp_path):
    model, net = pair
    subnet = chosen(net)
    sliced, masked, alone = (
        net.logits(subnet, IDS),
        net.masked_logits(subnet, IDS),
        net.extract(subnet),
    )
    torch.testing.assert_close(sliced, masked, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone(input_ids=IDS).logits, masked, rtol=1e-4, atol=1e-5)
    assert (sliced - model(input_ids=IDS).logits).abs().max() > 0.1  # it is another function
    alone.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(input_ids=IDS).logits, masked, rtol=1e-4, atol=1e-5)
    assert (
        sum(p.numel() for p in loaded.parameters())
        == net.parameters(subnet)
        < net.parameters(net.whole)
    )
    assert len(walk.blocks(loaded)) == 3 and loaded.config.num_hidden_layers == 3
    assert len(walk.blocks(net.model)) == net.model.config.num_hidden_layers == 4  # as it was
    result = supernet.compressed(net, subnet)
    assert result.save(tmp_path / "c") > 0
    torch.testing.assert_close(
        compressed.load(tmp_path / "c")(input_ids=IDS).logits, masked, rtol=1e-4, atol=1e-5
    )


def test_slices_are_views_and_extracted_weights_are_not(pair):
    _, net = pair
    subnet = chosen(net)
    places = {p.untyped_storage().data_ptr() for p in net.model.parameters()}
    assert {t.untyped_storage().data_ptr() for t in net.slices(subnet).values()} <= places
    assert not {p.untyped_storage().data_ptr() for p in net.extract(subnet).parameters()} & places


def test_what_a_subnet_does_not_use_gets_no_gradient():
    net = supernet.Supernet(made("llama"))
    net.model.requires_grad_(True)
    supernet_training.text_loss(net.logits(Subnet((0, 2), 20, 1), IDS), IDS).backward()
    first, second = walk.blocks(net.model)[0], walk.blocks(net.model)[1]
    assert second.mlp.up_proj.weight.grad is None
    gradient = first.mlp.up_proj.weight.grad
    assert (gradient[20:] == 0).all() and (gradient[:20] != 0).any(1).all()
    keys, queries = first.self_attn.k_proj.weight.grad, first.self_attn.q_proj.weight.grad
    assert (keys[8:] == 0).all() and (queries[16:] == 0).all() and (queries[:16] != 0).any()


SPACE = Space(((0, 1, 2, 3), (0, 3)), (48, 24), (2, 1))


def trained(seed=0, **given):
    net = supernet.Supernet(made("llama"))
    losses = supernet_training.train(
        net, IDS, **{"stages": [(SPACE, 12)], "learning_rate": 3e-3, "seed": seed} | given
    )
    return net, losses


def test_training_lowers_the_loss_of_the_smallest_and_the_largest():
    net, losses = trained()
    before = supernet.Supernet(made("llama"))
    with torch.no_grad():
        for subnet in (SPACE.smallest, SPACE.largest):
            old, new = (
                float(supernet_training.text_loss(n.logits(subnet, IDS), IDS))
                for n in (before, net)
            )
            assert new < old - 0.1, subnet
    assert len(losses) == 12 and all(p.grad is None for p in net.model.parameters())


def test_one_step_is_the_sum_of_its_losses_by_hand():
    """The gradient of a step: the largest from the text, the others from its answers, which give no
    gradient back.
    """
    net = supernet.Supernet(made("llama"))
    net.model.requires_grad_(True)
    among = [SPACE.largest, SPACE.smallest, Subnet((0, 3), 48, 1)]
    supernet_training._one_step(net, IDS, among, distill=True)
    found = {n: p.grad.clone() for n, p in net.model.named_parameters()}
    net.model.zero_grad()
    logits = [net.logits(s, IDS) for s in among]
    text = torch.nn.functional.cross_entropy(
        logits[0][:, :-1].reshape(-1, 60), IDS[:, 1:].reshape(-1)
    )
    p = logits[0].detach().softmax(-1)
    kl = [(p * (p.log() - q.log_softmax(-1))).sum(-1).mean() for q in logits[1:]]
    ((text + kl[0] + kl[1]) / 3).backward()
    for name, parameter in net.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_the_sandwich_holds_both_ends_and_stages_free_their_choices():
    among = supernet_training.chosen(SPACE, random.Random(0), 4, True)
    assert among[:2] == [SPACE.largest, SPACE.smallest] and len(among) == len(set(among)) <= 4
    stages = supernet_training.progressive(SPACE, 10)
    assert [count for _, count in stages] == [3, 3, 4] and [len(space) for space, _ in stages] == [
        4,
        2,
        8,
    ]
    assert stages[0][0].blocks == ((0, 1, 2, 3),) and stages[1][0].channels == (48,)


def test_searches_against_trying_all():
    space = Space(tuple((0, *rest) for rest in ((), (1,), (2,), (1, 2))), (8, 16, 24, 32), (1, 2))

    def score(s):
        shape = (len(s.blocks) - 2.2) ** 2 + (s.channels / 8 - 3.1) ** 2
        return shape + 0.3 * s.heads + 0.01 * sum(s.blocks)

    allowed = lambda s: s.channels * len(s.blocks) <= 64  # noqa: E731
    every = evolution.exhaustive(space, score, allowed)
    assert len(every.scores) == sum(map(allowed, space)) < len(space) == 32
    assert every.scores[every.best] == min(score(s) for s in space if allowed(s))
    found = [
        evolution.evolve(space, score, allowed, evaluations=14, seed=seed) for seed in range(20)
    ]
    chance = [
        evolution.by_chance(space, score, allowed, evaluations=14, seed=seed) for seed in range(20)
    ]
    for search in (*found, *chance):
        assert len(search.scores) == 14 == len(search.best_after) and all(
            map(allowed, search.scores)
        )
        assert (
            search.best_after == sorted(search.best_after, reverse=True)
            and search.best_after[-1] >= every.scores[every.best]
        )
        assert all(value == score(s) for s, value in search.scores.items())
    assert sum(f.best_after[-1] for f in found) < sum(c.best_after[-1] for c in chance)
    assert len(evolution.by_chance(space, score, allowed, evaluations=999).scores) == len(
        every.scores
    )


def refused(run, said):
    with pytest.raises(CompressionError, match=said):
        run()


def test_what_a_model_does_not_hold_is_refused():
    net, opt = supernet.Supernet(made("llama")), supernet.Supernet(made("opt"))
    for subnet, said in (
        (Subnet((), 20, 1), "blocks"), (Subnet((2, 0), 20, 1), "ascending"),
        (Subnet((0, 4), 20, 1), "0 to 3"), (Subnet((0,), 49, 1), "channels=49"),
        (Subnet((0,), 0, 1), "channels=0"), (Subnet((0,), 20, 3), "heads=3"),
    ):  # fmt: skip
        refused(lambda subnet=subnet: net.logits(subnet, IDS), said)
        refused(lambda subnet=subnet: net.extract(subnet), said)
    refused(lambda: opt.logits(Subnet((0,), 20, 2), IDS), "no head size")
    refused(
        lambda: supernet.Supernet(rtn.quantize(made("llama"), group_size=16).model),
        "not known|quantiz",
    )
    refused(lambda: supernet.Supernet(torch.nn.Linear(3, 3)), "Hugging Face")
    refused(lambda: Space((), (1,), (1,)), "blocks")
    refused(lambda: Space(((0,),), (1, 1), (1,)), "channels")
    refused(lambda: SPACE.narrowed("width"), "width")
    refused(lambda: subnets.space(made("llama"), channels=(60,)), "channels=60")
    for given, said in (
        ({"each": 1}, "each=1"),
        ({"sandwich": False}, "distill"),
        ({"stages": []}, "steps=0"),
        ({"learning_rate": 0}, "rate"),
        ({"data": IDS[:0]}, "calib|empty|data"),
    ):
        refused(
            lambda given=given: supernet_training.train(
                net, **{"data": IDS, "stages": [(SPACE, 1)]} | given
            ),
            said,
        )
    nothing = lambda s: False  # noqa: E731
    refused(lambda: evolution.exhaustive(SPACE, len, nothing), "budget")
    refused(lambda: evolution.evolve(SPACE, len, nothing, evaluations=8), "budget")
    refused(
        lambda: evolution.evolve(SPACE, len, nothing, evaluations=4, population=8), "population=8"
    )
    net = digits.network(64, 8, 10)
    refused(lambda: slimmable.logits(net, torch.zeros(1, 64), 9), "width=9")
    refused(
        lambda: slimmable.logits(digits.network(64, 8, 8, 10), torch.zeros(1, 64), 4),
        "one hidden layer",
    )
    refused(lambda: slimmable.train(net, torch.zeros(2, 64), torch.zeros(2).long(), ()), "widths")


def test_a_slimmed_perceptron_is_the_smaller_one_and_training_helps_its_slices():
    data, net = digits.load(0), digits.network(64, 16, 10)
    small = digits.network(64, 5, 10)
    state = net.state_dict()
    small.load_state_dict(
        {
            "0.weight": state["0.weight"][:5],
            "0.bias": state["0.bias"][:5],
            "3.weight": state["3.weight"][:, :5],
            "3.bias": state["3.bias"],
        }
    )
    torch.testing.assert_close(slimmable.logits(net, data.test_x, 5), small.eval()(data.test_x))
    torch.testing.assert_close(slimmable.logits(net, data.test_x, 16), net.eval()(data.test_x))
    found = {}
    for name, widths in (("alone", (16,)), ("together", (8, 16))):
        made = slimmable.train(
            digits.network(64, 16, 10), data.train_x, data.train_y, widths, steps=100
        )
        found[name] = slimmable.accuracy(made, data.test_x, data.test_y, 8)
    assert found["together"] > found["alone"] + 0.1
