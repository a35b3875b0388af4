"""Second moments are summed in place, apart where layers' inputs part; factors of wide ones need
little beside themselves.
"""

import random

import pytest
import torch
from peak_memory import peak_of
from torch import nn

from course_utils import evaluation, models
from course_utils.models import walk
from course_utils.pruning import groups
from course_utils.quantization import gptaq, gptq, hessians, low_rank, paired, qronos, rtn
from course_utils.quantization.hessians import hessian, layer_error, shrunk


@pytest.mark.parametrize("n", [1, 2, 5, 511, 512, 513, 700, 1025])
def test_reversed_in_place(n):
    x = torch.arange(n * n, dtype=torch.float64).view(n, n)
    wanted, place = x.flip(0, 1), x.data_ptr()
    assert torch.equal(hessians.reversed_in_place(x), wanted) and x.data_ptr() == place
    column_by_column = wanted.T.contiguous().T
    assert torch.equal(hessians.reversed_in_place(column_by_column), wanted.flip(0, 1))


def test_the_factor_of_a_wide_matrix_needs_two_copies_of_it():
    """H stays as it is; beside it there are the factor, made where its copy lay,
    and its inverse.
    """
    x = torch.randn(900, 768, generator=torch.Generator().manual_seed(0))
    H = hessians.damped(hessians.hessian(x), 0.01)
    before = H.clone()
    U, most = peak_of(lambda: hessians.inverse_cholesky(H))
    assert torch.equal(H, before) and torch.equal(U, U.triu()) and (U.diagonal() > 0).all()
    inverse = torch.linalg.inv(H.double())
    assert (U.double().T @ U.double() - inverse).norm() < 1e-4 * inverse.norm()
    assert 2 * H.nbytes <= most < 2.2 * H.nbytes


class Routed(nn.Module):
    """A block that feeds its layers as `routes` say: for each pass a list of (layer, which of three
    inputs).
    """

    def __init__(self, layers: int, width: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, 3, bias=False) for _ in range(layers))
        self.routes: list[list[tuple[int, int]]] = []
        self.fed: list[list[torch.Tensor]] = [[] for _ in range(layers)]

    def forward(self, hidden):
        inputs = [hidden, 2 * hidden.roll(1, -1), hidden[:, :2] - 1]
        for layer, which in self.routes.pop(0):
            # a pass may end at its last layer
            self.fed[layer].append(inputs[which].reshape(-1, hidden.shape[-1]))
            self.layers[layer](inputs[which])
        return hidden


@pytest.mark.parametrize("seed", range(12))
def test_layers_that_part_get_sums_of_their_own(seed):
    """Random routes: layers share inputs in some passes and not in others, are skipped, and are
    called twice.
    """
    draws, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    layers, width = 5, 6
    block = Routed(layers, width)
    states = [(torch.randn(2, 4, width, generator=noise), {}) for _ in range(4)]
    same = [(layer, 0) for layer in range(layers)]
    block.routes = [
        same
        if draws.random() < 0.4
        else [(draws.randrange(layers), draws.randrange(3)) for _ in range(draws.randrange(1, 8))]
        for _ in states
    ]
    counts: dict[nn.Module, int] = {}
    found = hessians.block_hessians(block, states, block.layers, counts)
    for layer, fed in zip(block.layers, block.fed, strict=True):
        assert (layer in found) == bool(fed)
        if fed:
            x = torch.cat(fed).double()
            assert counts[layer] == len(x)
            torch.testing.assert_close(
                found[layer].double(), 2 / len(x) * x.T @ x, rtol=1e-5, atol=1e-5
            )
    assert not any(m._forward_pre_hooks for m in block.modules())


@pytest.mark.parametrize("width", [1, 127, 128, 129, 300, 1100])
def test_half_of_a_product_and_its_mirror(width):
    x, y = torch.randn(2, 64, width, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(width, width)
    hessians.add_half(total, x)
    hessians.add_half(total, y)
    both = torch.cat((x, y)).double()
    torch.testing.assert_close(
        hessians.mirrored(total).double(), both.T @ both, rtol=1e-5, atol=1e-4
    )


def test_a_pass_ends_at_the_last_layer_that_is_watched():
    """From the second batch on, if the first one called each layer once; never where a batch takes
    another way.
    """
    block = Routed(3, 6)
    ways = [[(0, 0), (1, 0)], [(0, 0), (2, 1), (1, 0)], [(0, 0), (1, 0)], [(0, 0), (1, 0)]]
    states = [(torch.randn(1, 4, 6), {}) for _ in ways]
    seen, ran = [], []
    block.layers[1].register_forward_hook(lambda *_: ran.append(len(seen)))
    for watched, whole in ((block.layers[:2], 1), (block.layers, 4)):
        seen.clear(), ran.clear()
        block.routes = [list(way) for way in ways]
        walk.watch(
            block,
            states,
            list(watched),
            lambda module, _: seen.append(module),
            lambda: seen.append(None),
        )
        assert seen.count(None) == 4 and seen.count(block.layers[1]) == 4
        assert len(ran) == whole


def test_a_second_pass_makes_no_new_sums():
    """Three layers with one input: one sum, to which every later pass is added in its place."""
    block = Routed(3, 512)
    block.routes = [[(0, 0), (1, 0), (2, 0)]] * 4
    states = [(torch.randn(1, 4, 512), {}) for _ in range(4)]
    found, most = peak_of(lambda: hessians.block_hessians(block, states))
    assert len({H.data_ptr() for H in found.values()}) == 1
    assert most < 1.2 * found[block.layers[0]].nbytes


def hessians_of(model, layers, ids):
    """H of some layers, in the model as it is."""
    sums = {}
    handles = [
        layer.register_forward_pre_hook(lambda m, x: sums.update({m: hessian(x[0].flatten(0, -2))}))
        for layer in layers
    ]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return sums


def few_and_many(seed, inputs=96):
    """Inputs with correlations that fall off slowly, as a network's do: (tokens, in) to calibrate
    on, and as many others as one likes.
    """
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=rng, dtype=torch.float64) * torch.arange(
        1, inputs + 1
    ).pow(-0.7)
    return lambda tokens: torch.randn(tokens, inputs, generator=rng, dtype=torch.float64) @ mix.T


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9, 1.0, 1.5])
def test_with_few_tokens_neither_the_walk_nor_a_refit_is_worse_than_without(share):
    """On tokens that were not in the calibration; without shrinking both are, where tokens are
    about as many as inputs.
    """
    walked, fitted, plain = [], [], []
    for seed in range(6):
        draw = few_and_many(seed)
        tokens, weight = (
            int(share * 96),
            torch.randn(
                24, 96, generator=torch.Generator().manual_seed(99 + seed), dtype=torch.float64
            ),
        )
        H, test = hessian(draw(tokens)), hessian(draw(4000))
        known = shrunk(H, tokens, 2.0)
        rounded = layer_error(
            weight, rtn.quantize_layer(weight, bits=3, group_size=32).weight, test
        )
        walked.append(
            layer_error(
                weight,
                gptq.quantize_layer(weight, known, bits=3, group_size=32, never_worse=False).weight,
                test,
            )
            / rounded
        )
        columns = torch.arange(0, 96, 2)

        def cost(new, weight=weight, columns=columns, test=test):
            return layer_error(weight, torch.zeros_like(weight).index_copy_(1, columns, new), test)

        fitted.append(cost(groups.compensated(weight, known, columns)) / cost(weight[:, columns]))
        plain.append(cost(groups.compensated(weight, H, columns)) / cost(weight[:, columns]))
    assert max(walked) <= 1.0 and max(fitted) <= 1.0
    assert share not in (0.5,) or min(plain) > 1.2, (
        "48 tokens for 48 inputs that stay: a fit of noise"
    )


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9, 1.0, 1.5])
def test_with_few_tokens_what_two_models_tell_is_better_in_part(share):
    """A copy whose inputs are noisy beside the original's: on other tokens, GPTAQ and Qronos by
    what chance leaves of H and C are better than by all of it, and GPTAQ never worse than rounding.
    """
    better, errors = [], []
    for seed in range(6):
        draw, rng = few_and_many(seed), torch.Generator().manual_seed(50 + seed)
        tokens, weight = int(share * 96), torch.randn(24, 96, generator=rng, dtype=torch.float64)

        def noisy(x, rng=rng):
            return x + 0.3 * x.std(0) * torch.randn(x.shape, generator=rng, dtype=torch.float64)

        exact, other = draw(tokens), draw(4000)
        x, test = noisy(exact), noisy(other)
        H, C = hessian(x), (2 / tokens) * exact.T @ x

        def cost(result, weight=weight, other=other, test=test):
            return float((other @ weight.T - test @ result.weight.T).square().sum())

        known = paired.without_chance(H, C, tokens)
        for method in (gptaq, qronos):
            raw, tamed = (
                cost(method.quantize_layer(weight, *m, bits=3, group_size=32))
                for m in ((H, C), known)
            )
            better.append(tamed / raw)
        errors.append(
            cost(gptaq.quantize_layer(weight, *known, bits=3, group_size=32))
            / cost(rtn.quantize_layer(weight, bits=3, group_size=32))
        )
    assert max(errors) < 1.0
    assert max(better) < 1.0


@torch.no_grad()
def test_factors_by_few_tokens_of_a_language_model():
    """A text's tokens are not independent: 256 of them say less of 512 inputs than so many draws
    would.
    """
    model, tokenizer = models.load("bundled")
    layers = [layer for name, layer in walk.compressible(model).items() if "down_proj" in name][
        1::2
    ]
    seen = {
        seed: hessians_of(
            model, layers, evaluation.calibration(tokenizer, "bundled", n=n, context=128, seed=seed)
        )
        for seed, n in ((1, 2), (2, 2), (9, 32))
    }
    for seed in (1, 2):
        lost = [0.0, 0.0]
        for layer in layers:
            H, far = seen[seed][layer], seen[9][layer]
            for place, known in enumerate((H, shrunk(H, 256, low_rank.ENOUGH))):
                lost[place] += layer_error(
                    layer.weight, low_rank.factor(layer.weight, known, rank=96).weight, far
                ) / layer_error(layer.weight, 0 * layer.weight, far)
        assert lost[1] < 0.9 * lost[0]


def test_what_tells_two_models_apart_is_shrunk_by_the_same_part():
    x = few_and_many(1)(50)
    H, C = (
        hessian(x),
        hessian(x)
        + 0.1
        * torch.randn(96, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    )
    share = hessians.chance(H, 50, paired.ENOUGH)
    tamed, with_it = paired.without_chance(H, C, 50)
    assert 0 < share < 1
    torch.testing.assert_close(tamed, shrunk(H, 50, paired.ENOUGH), rtol=1e-12, atol=0)
    torch.testing.assert_close(with_it - tamed, (1 - share) * (C - H), rtol=1e-9, atol=1e-12)
    assert paired.without_chance(H, C, 192) == (H, C)


def test_shrinking_is_the_formula_and_ends_where_tokens_suffice():
    x = few_and_many(0)(40)
    H = hessian(x)
    deviation = H.diagonal().sqrt()
    R = H / deviation[:, None] / deviation
    size, p, n = sum(float(r) ** 2 for r in R.flatten()), 96, 40
    share = ((1 - 2 / p) * size + p**2) / ((n + 1 - 2 / p) * (size - p))
    assert 0 < share < 1
    wanted = (1 - share) * H + share * torch.diag(H.diagonal())
    torch.testing.assert_close(shrunk(H, 40), wanted, rtol=1e-10, atol=1e-12)
    assert shrunk(H, 96) is H and shrunk(H, 95) is not H
    independent = torch.diag(torch.rand(8, generator=torch.Generator().manual_seed(0)) + 0.1)
    assert torch.equal(shrunk(independent, 3), independent)
    dead = H.clone()
    dead[3], dead[:, 3] = 0, 0
    found = shrunk(dead, 40)
    assert torch.isfinite(found).all() and (found[3] == 0).all()
