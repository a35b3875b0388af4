"""Rows of several widths: the layer against HQQ row by row, damages against a small true KL, one
price against the knapsack.
"""

import re

import pytest
import torch
from wide_models import small

from course_utils.errors import CompressionError
from course_utils.evaluation import allocation, by_window
from course_utils.models import walk
from course_utils.quantization import hqq, load, mixed_rows

MAKE = small(hidden=32, layers=1)


@pytest.fixture(scope="module", params=list(MAKE))
def model(request):
    torch.manual_seed(0)
    made = MAKE[request.param]().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            # so that the model has something to say
            parameter.mul_(6 if parameter.dim() == 2 else 1)
    return made


@pytest.fixture(scope="module")
def ids():
    return torch.randint(60, (6, 24), generator=torch.Generator().manual_seed(1))


def widths(model, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {
        n: torch.randint(2, 5, (walk.weight_of(m).shape[0],), generator=rng).to(torch.uint8)
        for n, m in walk.compressible(model).items()
    }


def test_rows_are_those_of_hqq_and_survive_the_file(model, tmp_path):
    bits = widths(model)
    made = mixed_rows.quantize(model, bits, group_size=16)
    stored = weights = 0
    for name, module in walk.compressible(model).items():
        layer, w = made.model.get_submodule(name), walk.weight_of(module)
        for b in (2, 3, 4):
            rows = bits[name] == b
            torch.testing.assert_close(
                layer.weight[rows],
                hqq.quantize_layer(w, bits=b, group_size=16).weight[rows],
                rtol=0,
                atol=0,
            )
            stored += int(rows.sum()) * (-(-w.shape[1] * b // 8) + 1 + 4 * w.shape[1] // 16)
        weights += w.numel()
    assert made.details["bits_per_weight"] == pytest.approx(8 * stored / weights)
    made.save(tmp_path / "model")
    back = load(tmp_path / "model")
    for (name, a), b in zip(
        made.model.state_dict().items(), back.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_damages_foretell_the_kl_of_one_row(model, ids):
    """½ E[g²] E[(e·x)²] of a row, with sizes of g and x taken as independent: within a factor of 2
    of the true KL, summed over rows.
    """
    damages = mixed_rows.row_damages(model, ids, (3,), group_size=16, seed=0)
    original = by_window.predictions(model, ids)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    name = list(damages)[-1]
    module = walk.compressible(model)[name]
    rounded = hqq.quantize_layer(walk.weight_of(module), bits=3, group_size=16).weight
    true = 0.0
    for r in range(0, len(rounded), 4):
        weight = walk.weight_of(module)
        kept = weight[r].clone()
        with torch.no_grad():
            weight[r] = rounded[r]
        true += float(by_window.kl_by_window(original, model, ids).mean())
        with torch.no_grad():
            weight[r] = kept
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), (
        "the model stays as it is"
    )
    assert 0.5 < float(damages[name][::4].sum()) / true < 2


def test_one_price_is_the_knapsack_up_to_one_row():
    rng = torch.Generator().manual_seed(3)
    damage = {
        n: torch.rand(12, 1, generator=rng).double() * torch.tensor([1.0, 0.3, 0.1]) for n in "ab"
    }
    size = {
        "a": torch.tensor([[20.0, 30.0, 40.0]]).expand(12, -1),
        "b": torch.tensor([[8.0, 12.0, 16.0]]).expand(12, -1),
    }
    budget = 500.0
    chosen, bound = mixed_rows.allocate_rows(damage, size, budget)
    found = sum(float(damage[n][torch.arange(12), chosen[n].long() - 2].sum()) for n in "ab")
    taken = sum(float(size[n][torch.arange(12), chosen[n].long() - 2].sum()) for n in "ab")
    tables = [
        {
            f"{n}{i}": dict(zip((2, 3, 4), row, strict=True))
            for n in "ab"
            for i, row in enumerate(t[n].tolist())
        }
        for t in (damage, size)
    ]
    exact = sum(tables[0][n][b] for n, b in allocation.allocate(*tables, budget).items())
    assert taken <= budget and bound <= exact + 1e-9 and exact <= found + 1e-12
    assert found - bound < 0.7, "the largest step of one row"
    assert mixed_rows.allocate_rows(damage, size, 1e9)[0]["a"].tolist() == [4] * 12
    with pytest.raises(CompressionError, match="smallest options take 336"):
        mixed_rows.allocate_rows(damage, size, 300)


def test_errors(model):
    bits = widths(model)
    name = list(bits)[0]
    with pytest.raises(CompressionError, match=re.escape(f"nothing is said of {name}")):
        mixed_rows.quantize(model, {k: v for k, v in bits.items() if k != name})
    with pytest.raises(CompressionError, match=re.escape(name)):
        mixed_rows.quantize(model, {**bits, name: bits[name][:-1]}, group_size=16)
