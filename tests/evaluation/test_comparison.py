"""Comparisons: the intervals of paired differences, orders, refusals, and what an executed notebook
holds of them.
"""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from course_utils.errors import CompressionError
from course_utils.evaluation import comparison
from course_utils.evaluation.comparison import compare
from course_utils.evaluation.comparison_page import plus_minus

WINDOWS = torch.arange(64, dtype=torch.float64).sin() + 2


def noisy(shift, spread=0.05):
    """A row that depends on seed and window; `shift` is its true difference."""

    def row(seed):
        rng = torch.Generator().manual_seed(1000 * seed + int(1e6 * shift))
        return WINDOWS + shift + spread * torch.randn(64, generator=rng, dtype=torch.float64)

    return row


def quiet(title, rows, **options):
    return compare(title, rows, progress=False, **options)


def test_rows_without_chance_take_their_interval_from_the_windows_and_are_paired():
    wobble = 0.01 * torch.arange(64, dtype=torch.float64).cos()
    table = quiet(
        "t",
        {"RTN": lambda seed: WINDOWS, "GPTQ": lambda seed: WINDOWS - 0.02 + wobble},
        against="RTN",
    )
    low, high = stats.t.interval(
        0.95, 63, loc=float(WINDOWS.mean()), scale=stats.sem(WINDOWS.numpy())
    )
    assert table.interval("RTN") == pytest.approx((low, high), rel=1e-10)
    mean, half = table.difference("GPTQ", "RTN")
    paired = stats.ttest_rel(
        (WINDOWS - 0.02 + wobble).numpy(), WINDOWS.numpy()
    ).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((paired.low, paired.high), rel=1e-9)
    assert half < table.half_width("RTN") / 10, "what windows have in common cancels"
    assert (
        table.order("GPTQ", "RTN") == "<"
        and table.order("RTN", "GPTQ") == ">"
        and table.order("RTN", "RTN") == "="
    )
    assert "better" in str(table) and "the same for every seed" in str(table)


def test_one_number_for_each_seed():
    a, b = [1.0, 1.3, 0.9, 1.1], [0.8, 1.0, 0.75, 0.8]
    table = quiet(
        "t",
        {"a": lambda s: a[s], "b": lambda s: np.float32(b[s])},
        seeds=range(4),
        against="a",
        better="higher",
    )
    paired = stats.ttest_rel(b, a).confidence_interval(0.95)
    mean, half = table.difference("b", "a")
    assert (mean - half, mean + half) == pytest.approx((paired.low, paired.high), rel=1e-6)
    assert (
        table.mean("a") == pytest.approx(1.075)
        and table.order("b", "a") == "<"
        and "worse" in str(table)
    )


def test_both_seeds_and_windows_count():
    table = quiet("t", {"a": noisy(0.0), "b": noisy(0.3), "c": noisy(0.0001, 0.5)}, against="a")
    assert table.order("b", "a") == ">" and table.order("c", "a") == "=" == table.order("a", "c")
    assert (
        "no difference seen" in str(table)
        and "3 seeds" in str(table)
        and "64 windows" in str(table)
    )
    by_seed = lambda seed: WINDOWS + 0.5 * (seed - 1)  # noqa: E731
    moved = quiet("t", {"a": lambda seed: WINDOWS, "b": by_seed}, against="a")
    assert moved.difference("b", "a")[1] == pytest.approx(
        stats.t.ppf(0.975, 2) * 0.5 / math.sqrt(3), rel=1e-9
    )


def test_a_false_difference_is_seen_in_five_of_a_hundred():
    seen = 0
    for trial in range(800):
        rng = torch.Generator().manual_seed(trial)
        by_seed, by_window = torch.randn(3, 1, generator=rng), torch.randn(1, 64, generator=rng)
        drawn = [0.1 * torch.randn(3, 64, generator=rng) + by_window for _ in range(2)]
        drawn[1] += 0.05 * by_seed
        table = quiet("t", {"a": lambda s, v=drawn[0]: v[s], "b": lambda s, v=drawn[1]: v[s]})
        seen += table.order("a", "b") != "="
    assert 0.02 <= seen / 800 <= 0.08, seen / 800


def test_a_single_number_has_no_interval_and_no_order():
    table = quiet("bytes", {"a": lambda s: 3, "b": 4.0}, against="a")
    assert math.isnan(table.half_width("a")) and table.mean("b") == 4
    assert (
        "difference seen" not in str(table)
        and "better" not in str(table)
        and "worse" not in str(table)
    )
    with pytest.raises(CompressionError, match="one number each.*window"):
        table.order("a", "b")
    exact = quiet("t", {"a": WINDOWS, "b": WINDOWS + 1}, against="a")
    assert exact.order("a", "b") == "<" and exact.order("b", "b") == "="


def test_rows_that_are_equal_for_every_seed_are_equal_without_an_interval():
    moving = [0.2, 0.6, 0.5]
    table = quiet(
        "t",
        {
            "a": lambda s: 1.0,
            "b": lambda s: 1.0,
            "c": lambda s: moving[s],
            "d": lambda s: moving[s],
            "e": lambda s: 0.5,
        },
    )
    assert table.order("a", "b") == "=" == table.order("c", "d") and table.order(
        "c", "a"
    ) == "<" == table.order("d", "a")
    with pytest.raises(CompressionError, match="one number each"):
        table.order("a", "e")  # a constant difference other than 0


def test_rows_draw_alike_and_the_generator_is_left_alone():
    drawn = []
    before = torch.random.get_rng_state()
    quiet(
        "t",
        {
            "a": lambda s: drawn.append(float(torch.rand(()))) or 1.0,
            "b": lambda s: drawn.append(float(torch.rand(()))) or 2.0,
        },
    )
    assert (
        drawn[:3] == drawn[3:]
        and len(set(drawn)) == 3
        and torch.equal(before, torch.random.get_rng_state())
    )


@pytest.mark.parametrize(
    "rows, options, said",
    [
        ({"a": lambda s: float("nan")}, {}, "'a', seed 0: nan is not finite"),
        ({"a": lambda s: torch.tensor([1.0, math.inf])}, {}, "not finite"),
        ({"a": lambda s: "much"}, {}, "'a', seed 0: it gives str"),
        ({"a": lambda s: None}, {}, "it gives NoneType; return a number"),
        ({"a": lambda s: torch.ones(2, 3)}, {}, r"shape \(2, 3\)"),
        ({"a": lambda s: torch.ones(0)}, {}, "one number for each window"),
        ({"a": lambda s: torch.ones(2 + s)}, {}, "as many for every seed"),
        ({"a": lambda s: 1.0, "b": lambda s: torch.ones(3)}, {}, "same windows"),
        ({"a": lambda s: 1.0}, {"against": "b"}, "no such row"),
        ({"a": lambda s: 1.0}, {"better": "larger"}, "'lower' or 'higher'"),
        ({"a": lambda s: 1.0}, {"seeds": (0, 0)}, "each once"),
        ({"a": lambda s: 1.0}, {"columns": {"MB": {"b": 1}}}, "no rows"),
        ({}, {}, "at least one row"),
    ],
)
def test_refusals(rows, options, said):
    with pytest.raises(CompressionError, match=said):
        quiet("t", rows, **options)


def test_an_unknown_row():
    with pytest.raises(CompressionError, match="no row 'c'; its rows are 'a'"):
        quiet("t", {"a": WINDOWS}).mean("c")


def test_saved_and_loaded(tmp_path):
    table = quiet(
        "<b>Three</b> bits", {"RTN": noisy(0.0), "GPTQ": noisy(0.2)}, against="RTN", unit="nats",
        protocol="as said",
        columns={"MB": {"GPTQ": 1.25}},
    )  # fmt: skip
    path = table.save(tmp_path / "new" / "three.json", command="python benchmarks/three.py")
    again = comparison.load(path)
    for label in table.values:
        assert again.mean(label) == pytest.approx(table.mean(label), rel=1e-8)
    assert again.difference("GPTQ", "RTN") == pytest.approx(
        table.difference("GPTQ", "RTN"), rel=1e-6
    )
    assert again.command == "python benchmarks/three.py" and again.date and again.seeds == (0, 1, 2)
    assert "Made by python benchmarks/three.py on 20" in str(again) and "1.25" in str(again)
    assert "&lt;b&gt;Three" in again._repr_mimebundle_()["text/html"]
    with pytest.raises(CompressionError, match="no table nothing.json"):
        comparison.load("nothing")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(CompressionError, match="not a saved comparison"):
        comparison.load(tmp_path / "bad.json")


def test_every_committed_table_can_be_shown_and_names_its_command():
    for file in sorted(comparison.TABLES.glob("*.json")):
        table = comparison.load(file.stem)
        assert table.command and table.date and table.title in str(table), file.name


def test_an_output_holds_the_table_for_readers_and_for_tests():
    table = quiet("t", {"b": noisy(0.2), "a": noisy(0.0)}, against="a", unit="nats")
    bundle = table._repr_mimebundle_()
    # as nbformat writes it
    again = comparison.from_json(json.loads(json.dumps(bundle[comparison.MIME], sort_keys=True)))
    assert again.order("b", "a") == ">" and str(again) == bundle["text/plain"]
    assert bundle["text/html"].count("<tr>") == 3


@pytest.mark.parametrize(
    "mean, half, text",
    [
        (0.64553, 0.00213, "0.6455 ± 0.0021"), (12.3, 4.56, "12.3 ± 4.6"),
        (1234.5, 78.9, "1234 ± 79"), (-0.0031, 0.00052, "−0.00310 ± 0.00052"),
        (6.1e-7, 3.1e-8, "(6.10 ± 0.31)e−7"), (2.0, 0.0, "2"), (0.5, math.nan, "0.5"),
        (0.0, 0.0123, "0.000 ± 0.012"),
    ],
)  # fmt: skip
def test_digits(mean, half, text):
    assert plus_minus(mean, half) == text
