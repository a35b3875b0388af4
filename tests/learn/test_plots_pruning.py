"""What the figures of the pruning lessons show, read back from the drawn figures."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from course_utils.evaluation.comparison import compare
from course_utils.learn import plots
from course_utils.learn.plots import pruning as plots_pruning
from course_utils.pruning import masks, storage


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_the_weight_map_shows_what_stays():
    weight = torch.randn(10, 12, generator=torch.Generator().manual_seed(0))
    kept = masks.per_layer(weight.abs(), 0.25)
    left, right = plots_pruning.weight_map(
        weight, kept, score="magnitude", name="model.layers.0.mlp.up", corner=8
    ).axes[:2]
    shown = np.ma.filled(left.images[0].get_array().astype(float), np.nan)
    assert np.array_equal(np.isnan(shown), ~kept[:8, :8].numpy())
    assert np.allclose(shown[~np.isnan(shown)], weight[:8, :8][kept[:8, :8]].numpy())
    assert "25%" in left.get_title(loc="left") and right.get_title(loc="left") == "0.mlp.up"


def test_sensitivity_has_a_line_for_each_kind_and_a_point_for_each_block():
    harm = {
        f"layers.{b}.{kind}": 10.0**-b * (i + 1)
        for b in range(3)
        for i, kind in enumerate(("q", "up"))
    }
    (axes,) = plots_pruning.sensitivity(harm, title="t", ylabel="KL").axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert lines == {"q": pytest.approx([1, 0.1, 0.01]), "up": pytest.approx([2, 0.2, 0.02])}


def test_the_head_map_crosses_out_all_but_the_best():
    score = torch.tensor([[3.0, 1.0, 2.0, 4.0], [1.0, 5.0, 6.0, 2.0]])
    axes = plots_pruning.head_map(score, 2, title="t").axes[0]
    assert {tuple(map(int, text.get_position())) for text in axes.texts} == {
        (1, 0),
        (2, 0),
        (0, 1),
        (3, 1),
    }
    assert np.allclose(axes.images[0].get_array().sum(1), 1)
    assert not plots_pruning.head_map(score, 4, title="t").axes[0].texts


def test_bytes_cross_the_dense_line_where_they_break_even():
    shape = (64, 96)
    for axes, (_, bits) in zip(
        plots_pruning.bytes_by_sparsity(shape).axes, plots_pruning.PRECISIONS, strict=True
    ):
        for line in axes.lines:
            if line.get_label() in ("bitmask", "csr", "csr16"):
                x, y = map(np.asarray, line.get_data())
                assert (
                    float(x[y < 1].min()) - 0.02
                    <= storage.break_even(line.get_label(), shape, bits)
                    <= x[y < 1].min() + 1e-9
                )


def test_schedules_end_at_the_final_sparsity():
    _, axes = plots.figure()
    plots_pruning.schedule_curves(axes, final=0.8, rounds=3, end=0.6)
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert all(values[-1] == pytest.approx(0.8) for values in lines.values())
    assert (
        lines["gradually"][0] == 0
        and lines["gradually"][60] == pytest.approx(0.8)
        and lines["gradually"][59] < 0.8
    )


def test_lines_over_sparsity_show_means_and_intervals():
    values = {
        "dense": [0.9, 0.94],
        "ticket, 36.0% left": [0.8, 0.9],
        "ticket, 4.7% left": [0.5, 0.7],
        "random, 4.7% left": [0.1, 0.2],
    }
    table = compare(
        "t",
        {label: dict(enumerate(v)).__getitem__ for label, v in values.items()},
        seeds=(0, 1),
        progress=False,
    )
    (axes,) = plots_pruning.tickets(table).axes
    shown = {c.get_label(): c for c in axes.containers}
    line, _, (bars,) = shown["ticket"]
    assert list(line.get_xdata()) == [4.7, 36.0] and list(line.get_ydata()) == pytest.approx(
        [0.6, 0.85]
    )
    ends = [tuple(segment[:, 1]) for segment in bars.get_segments()]
    assert ends[0] == pytest.approx(table.interval("ticket, 4.7% left"))
    assert list(shown["random"][0].get_ydata()) == pytest.approx([0.15])
    dense = next(line for line in axes.lines if line.get_label() == "dense")
    assert list(dense.get_ydata()) == pytest.approx([0.92, 0.92])


def test_both_ways_of_pruning_while_training_are_drawn():
    values = {
        "dense": [0.9, 0.94],
        "at once, 95% gone": [0.8, 0.9],
        "gradually, 95% gone": [0.5, 0.7],
    }
    table = compare(
        "t",
        {label: dict(enumerate(v)).__getitem__ for label, v in values.items()},
        seeds=(0, 1),
        progress=False,
    )
    _, right = plots_pruning.schedules_and_accuracy(table).axes
    assert {c.get_label(): float(c[0].get_ydata()[0]) for c in right.containers} == pytest.approx(
        {"at once": 0.85, "gradually": 0.6}
    )


def test_csr_times_are_drawn_for_each_number_of_tokens():
    (axes,) = plots_pruning.csr_times((0.5, 0.9), {1: [0.2, 1.1], 64: [0.5, 2.0]}, size=8).axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert lines["1 token, 8 × 8"] == [0.2, 1.1] and lines["64 tokens, 8 × 8"] == [0.5, 2.0]


def test_the_harm_map_shows_its_numbers():
    axes = plots_pruning.harm_map(torch.tensor([[0.1, 0.25], [0.0, 1.5]]), title="t").axes[0]
    assert {tuple(map(int, t.get_position())): t.get_text() for t in axes.texts} == {
        (0, 0): "0.100", (1, 0): "0.250", (0, 1): "0.000", (1, 1): "1.500",
    }  # fmt: skip
