"""Channel groups of plain networks: against masking by hand, and against torch-pruning."""

import copy

import pytest
import torch
import torch_pruning
from torch import nn

from course_utils.errors import CompressionError
from course_utils.pruning import masks, sequential


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Dropout(0.1),
        nn.Linear(16, 10),
    ), torch.randn(5, 1, 8, 8)  # fmt: skip


def mlp():
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Sequential(nn.Linear(16, 8), nn.Tanh()),
        nn.Linear(8, 3),
    ), torch.randn(5, 6)


@pytest.fixture(params=[cnn, mlp], ids=["cnn", "mlp"])
def case(request):
    torch.manual_seed(0)
    model, x = request.param()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (
                module.weight.data,
                module.bias.data,
                module.running_mean,
                module.running_var,
            ):
                tensor.uniform_(0.5, 1.5)
    return model.eval(), x


def layers(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}


def run(model, x):
    with torch.no_grad():
        return model(x)


def test_equals_channels_that_nobody_reads(case):
    model, x = case
    before = copy.deepcopy(model.state_dict())
    result = sequential.prune(model, keep=0.25)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    names = list(layers(model))
    assert list(result.details["kept"]) == names[:-1]
    masked = copy.deepcopy(model)
    for name, reader in zip(names[:-1], names[1:], strict=True):
        kept, count = result.details["kept"][name], layers(model)[name].weight.shape[0]
        assert len(kept) == count // 4 == layers(result.model)[name].weight.shape[0]
        weight = layers(masked)[reader].weight.data
        span = weight.shape[1] // count
        for channel in set(range(count)) - set(kept):
            weight[:, channel * span : (channel + 1) * span] = 0
    assert torch.allclose(run(result.model, x), run(masked, x), atol=1e-6)
    for name, module in layers(result.model).items():
        sizes = (
            (module.out_features, module.in_features)
            if isinstance(module, nn.Linear)
            else (module.out_channels, module.in_channels)
        )
        assert tuple(module.weight.shape[:2]) == sizes, name


def their_groups(model, x):
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)
    for name, module in list(layers(model).items())[:-1]:
        function = (
            torch_pruning.prune_linear_out_channels
            if isinstance(module, nn.Linear)
            else torch_pruning.prune_conv_out_channels
        )
        yield (
            name,
            graph.get_pruning_group(module, function, idxs=list(range(module.weight.shape[0]))),
        )


def test_scores_are_those_of_torch_pruning(case):
    model, x = case
    importance = torch_pruning.importance.GroupMagnitudeImportance(
        p=2, group_reduction="sum", normalizer=None
    )
    ours = {channels.name: sequential.magnitude(channels) for channels in sequential.find(model)}
    found = {name: importance(group) for name, group in their_groups(model, x)}
    assert list(found) == list(ours)
    for name in ours:
        assert torch.allclose(ours[name], found[name].float(), rtol=1e-5), name


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_the_same_groups_go_for_the_same_scores(case, ratio):
    model, x = case
    g = torch.Generator().manual_seed(1)
    worth = {
        name: torch.rand(m.weight.shape[0], generator=g)
        for name, m in list(layers(model).items())[:-1]
    }
    theirs, by_layer = copy.deepcopy(model), {}
    for name, module in layers(theirs).items():
        by_layer[module] = worth.get(name)
    pruner = torch_pruning.pruner.BasePruner(
        theirs, x, importance=lambda group: by_layer[group[0].dep.target.module].clone(),
        pruning_ratio=ratio,
        ignored_layers=[list(layers(theirs).values())[-1]],
    )  # fmt: skip
    pruner.step()
    result = sequential.prune(model, keep=1 - ratio, scores=worth)
    wanted, found = theirs.state_dict(), result.model.state_dict()
    assert wanted.keys() == found.keys()
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name
    assert torch.equal(run(result.model, x), run(theirs.eval(), x))
    assert result.model[0].weight.shape[0] == model[0].weight.shape[0] - masks.removed(
        model[0].weight.shape[0], ratio
    )


def test_keeping_everything_and_training_on(case):
    model, x = case
    assert torch.equal(run(sequential.prune(model, keep=1.0).model, x), run(model, x))
    small = sequential.prune(model, keep=2).model
    assert all(m.weight.shape[0] == 2 for m in list(layers(small).values())[:-1])
    small.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


def test_bad_input_is_named(case):
    model, _ = case

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

    linear = nn.Linear(4, 4)
    bad = [
        (lambda: sequential.prune(model, keep=0), "keep=0"),
        (lambda: sequential.prune(model, keep=1000), "channels of 0"),
        (lambda: sequential.prune(model, scores={}), "scores: 0 needs"),
        (lambda: sequential.prune(linear), "torch-pruning"),
        (lambda: sequential.prune(nn.Sequential(linear)), "at least two layers"),
        (lambda: sequential.prune(nn.Sequential(linear, nn.LayerNorm(4), linear)), "LayerNorm"),
        (lambda: sequential.prune(nn.Sequential(nn.Linear(4, 8),
            nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 2))), "LayerNorm"),
        (lambda: sequential.prune(nn.Sequential(nn.Conv2d(3, 8, 3),
            nn.GroupNorm(4, 8, affine=False), nn.Conv2d(8, 2, 1))), "GroupNorm"),
        (lambda: sequential.prune(nn.Sequential(nn.Linear(4, 4), linear, nn.ReLU(), linear,
            nn.Linear(4, 2))), "stands in two places"),
        (lambda: sequential.prune(nn.Sequential(linear, Block(), linear)), "Block"),
        (lambda: sequential.prune(nn.Sequential(linear, nn.Linear(8, 2))), "do not match"),
        (lambda: sequential.prune(nn.Sequential(nn.Conv2d(4, 4, 3), nn.Linear(4, 2))),
         "do not match"),
        (lambda: sequential.prune(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), linear)), "grouped"),
    ]  # fmt: skip
    for call, named in bad:
        with pytest.raises(CompressionError, match=named):
            call()
