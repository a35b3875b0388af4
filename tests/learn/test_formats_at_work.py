"""What lesson 5.2 measures: outliers where they should be, blocks of NVFP4 counted by hand, affine
grids by trying all.
"""

import pytest
import torch
from wide_models import tiny

from course_utils.errors import CompressionError
from course_utils.learn import formats_at_work as work
from course_utils.learn.plots import formats as pictures
from course_utils.models import walk
from course_utils.quantization import approximate, microscaling, value_tables


def test_rows_with_outliers():
    plain, loud = (work.rows_with_outliers(size, 3, rows=5, every=128) for size in (1.0, 64.0))
    ratio = loud / plain
    assert (
        plain.shape == (5, 512)
        and ((ratio == 1) | (ratio == 64)).all()
        and (ratio == 64).sum(1).tolist() == [4] * 5
    )
    assert not torch.equal(plain, work.rows_with_outliers(1.0, 4, rows=5))


def test_rows_of_a_comparison_are_the_formats_own_errors():
    x = work.rows_with_outliers(64.0, 1, rows=2)
    for name, row in work.eight_bit_rows(64.0, 2).items():
        back = value_tables.scaled(x, value_tables.values(name))
        assert row(1).tolist() == pytest.approx(
            [value_tables.sqnr(a, b) for a, b in zip(x, back, strict=True)]
        )
    found = work.four_bit_rows(64.0, 2)["MXFP4"](1)
    back = microscaling.fake_quantize(x.float(), "MXFP4")
    assert found.tolist() == pytest.approx(
        [value_tables.sqnr(a, b) for a, b in zip(x.float(), back, strict=True)]
    )
    assert set(work.turning((1.0, 8.0), 64, rows=1)) == set(work.EIGHT)


def test_blocks_that_put_their_largest_number_at_four():
    """A block of 4s and 3s fits the one place exactly; 6s and 4s the other."""
    x = torch.tensor([[4.0, 3.0] * 8 + [6.0, 4.0] * 8])
    layer = microscaling.MicroscaledLinear.of(
        microscaling.encode(x, "NVFP4", four_over_six=True), None
    )
    assert work.share_of_fours(torch.nn.Sequential(layer)) == 0.5


def test_the_best_affine_grid():
    x = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 - 0.2
    found = work.best_affine(x, 2)
    best = min(
        value_tables.mean_error(x, (torch.arange(4) - z) * s)
        for z in range(4) for s in torch.linspace(0.2, 2.0, 181, dtype=torch.float64).tolist()
    )  # fmt: skip
    assert 0.0 in found.tolist() and value_tables.mean_error(x, found) <= 1.1 * best
    assert found.diff().std() < 1e-12


@torch.no_grad()
def test_models_with_other_weights_and_what_comes_out_of_an_activation():
    ids = torch.randint(64, (2, 8), generator=torch.Generator().manual_seed(0))
    for kind in ("llama", "opt", "gpt2"):
        model = tiny(kind)
        changed = work.with_weights(model, lambda weight: 2 * weight)
        for name, module in walk.compressible(model).items():
            assert torch.equal(
                walk.weight_of(changed.get_submodule(name)), 2 * walk.weight_of(module)
            )
        same = work.with_weights(model, lambda weight: weight)
        torch.testing.assert_close(
            same(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5
        )
        assert len(work.after_activation(model, ids)) == 2
    low = float(work.after_activation(tiny("llama"), ids).min())
    assert -0.2785 < low < 0, "SiLU is never below -0.2785"
    with pytest.raises(CompressionError, match="act_fn"):
        work.after_activation(torch.nn.Linear(2, 2), ids)


def test_products_of_each_kind():
    rows = work.cheap_products(dots=8, terms=32)
    off = {name: float(row(0).mean()) for name, row in rows.items()}
    assert (
        off["exact"]
        == 0
        < off["4 of 14 columns left out"]
        < off["Mitchell"]
        < off["streams of 256 bits"]
    )
    assert off["Mitchell, times one factor"] < 0.2


def test_figures(monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures.plt, "show", lambda: drawn.append(pictures.plt.gcf()))
    lists = {"INT4": value_tables.values("INT4"), "NF4": value_tables.values("NF4")}
    pictures.number_lines(lists)
    pictures.relative_errors(("INT8", "LNS8"))
    pictures.own_values(torch.randn(500), lists)
    drawn += [
        pictures.small_float(2, 1),
        pictures.streams(0.5),
        pictures.turning((1, 2), {"INT8": [40.0, 30.0]}, 64),
    ]
    lines = [[line for axes in figure.axes for line in axes.lines] for figure in drawn]
    assert lines[3][0].get_xdata().tolist() == [
        -6,
        -4,
        -3,
        -2,
        -1.5,
        -1,
        -0.5,
        0,
        0.5,
        1,
        1.5,
        2,
        3,
        4,
        6,
    ]
    low = lines[1][1].get_ydata()[20]
    assert low == pytest.approx((2 ** (1 / 8) - 1) / (2 ** (1 / 8) + 1), rel=0.02)
    unipolar = lines[4][0]
    assert unipolar.get_ydata()[0] == pytest.approx(
        float(approximate.stream_variance(0.5, 0.5, 16)) ** 0.5 / 0.25
    )
    for figure in drawn:
        pictures.plt.close(figure)
