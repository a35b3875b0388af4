"""Reports against what is really on the disk and in memory."""

import sys
import types

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.evaluation import (
    Report,
    Score,
    compare,
    decoding_speed,
    memory,
    perplexity,
    report,
    task_scores,
)
from course_utils.quantization import rtn

# the function of this name hides the module
reporting = sys.modules["course_utils.evaluation.report"]
FEW = {"tasks": ("facts", "addition"), "n": 10, "windows": 4, "context": 64, "runs": 1}


@pytest.fixture(scope="module")
def pair(bundled):
    model, tokenizer = bundled
    compressed = rtn.quantize(model, bits=4)
    return (
        compressed,
        report(model, tokenizer, **FEW),
        report(compressed, tokenizer, name="INT4 <b>", **FEW),
    )


def test_everything_is_measured(pair, bundled, tmp_path):
    model, tokenizer = bundled
    compressed, plain, packed = pair
    compressed.save(tmp_path / "model")
    assert packed.bytes_on_disk == sum(f.stat().st_size for f in (tmp_path / "model").iterdir())
    assert (
        packed.bytes_in_memory
        == memory.bytes_in_memory(compressed.model)
        < plain.bytes_in_memory / 2
    )
    assert packed.perplexity == perplexity(compressed, tokenizer, n=4, context=64)
    assert plain.perplexity == perplexity(model, tokenizer, n=4, context=64)
    assert packed.scores == task_scores(compressed, tokenizer, tasks=FEW["tasks"], n=10)
    assert packed.settings == compressed.settings and plain.name == "bundled"


def test_a_plain_model_is_written_without_loss_in_its_narrowest_form(pair, bundled):
    """The bundled weights are bfloat16 values: two bytes each, and little besides."""
    n = sum(p.numel() for p in bundled[0].parameters())
    assert 2 * n < pair[1].bytes_on_disk < 2 * n + 20_000
    assert pair[1].bytes_in_memory >= 4 * n


def test_table(pair):
    _, plain, packed = pair
    table = compare([plain, packed])
    text, page = str(table), table._repr_html_()
    assert f"({packed.bytes_on_disk / plain.bytes_on_disk:.2f}×)" in text
    assert f"({packed.tokens_per_second / plain.tokens_per_second:.2f}×)" in text
    for part in (
        "context 64",
        "4 windows",
        "252 tokens scored",
        "10 items",
        "facts 25%",
        "key-value cache",
        "rtn, bits 4",
    ):
        assert part in text and part in page
    assert "INT4 &lt;b&gt;" in page and "INT4 <b>" not in page
    assert str(plain) in repr(plain) and "bundled" in plain._repr_html_()
    lines = text.split("\n")
    assert len({len(line.rstrip()) for line in lines[:3]}) <= 2


def test_what_was_measured_differently_is_not_compared(pair, bundled):
    with pytest.raises(CompressionError, match="different protocols"):
        compare(
            [
                pair[1],
                report(bundled[0], bundled[1], **FEW | {"context": 32, "runs": 0, "tasks": ()}),
            ]
        )
    with pytest.raises(CompressionError, match="at least one"):
        compare([])
    fewer = report(bundled[0], bundled[1], **FEW | {"n": 5, "runs": 0})
    with pytest.raises(CompressionError, match="different items"):
        compare([pair[1], fewer])


def test_parts_can_be_left_out(bundled):
    found = report(bundled[0], bundled[1], **FEW | {"runs": 0, "tasks": ()})
    assert found.tokens_per_second is None and found.scores == {}
    assert "tokens/s" not in str(found) and "items" not in str(found)


def test_decoding_reads_one_token_at_a_time(bundled):
    model, tokenizer = bundled
    widths = []
    handle = model.register_forward_pre_hook(
        lambda m, a, k: widths.append(k["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        assert decoding_speed(model, tokenizer, tokens=6, runs=2) > 0
    finally:
        handle.remove()
    prompts = [w for w in widths if w > 1]
    assert len(prompts) == 3 and len(widths) == 3 * (1 + 6)  # one run first to warm up


def test_speed_is_the_median_after_a_warm_up(bundled, monkeypatch):
    """A clock by hand: the first run takes 100 s, then 4, 1 and 2."""
    ticks = iter([0, 100, 0, 4, 0, 1, 0, 2])
    monkeypatch.setattr(reporting, "time", types.SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert decoding_speed(*bundled, tokens=6, runs=3) == 6 / 2


def test_small_contexts_cannot_be_timed(make, tokenizer):
    model = make("gpt2")
    model.config.n_positions = 16
    with pytest.raises(CompressionError, match="runs=0"):
        decoding_speed(model, tokenizer)


def test_other_precisions_and_architectures(tiny, tokenizer):
    """A random model cannot be narrowed, so 32 bits are written; in bfloat16 half of that."""
    wide = report(tiny, tokenizer, **FEW | {"tasks": ()})
    narrow = report(tiny.to(torch.bfloat16), tokenizer, **FEW | {"tasks": ()})
    assert narrow.bytes_on_disk < 0.6 * wide.bytes_on_disk
    assert narrow.perplexity.protocol["dtype"] == "bfloat16"
    assert isinstance(narrow, Report) and all(isinstance(s, Score) for s in narrow.scores.values())
