"""Perplexity against a plain float64 loop, Hugging Face's own loss, and closed forms."""

import math
import time

import pytest
import torch
from scipy import stats

from course_utils.errors import CompressionError
from course_utils.evaluation import calibration, perplexity
from course_utils.evaluation.subject import scoring
from course_utils.evaluation.text import windows
from course_utils.quantization import QuantizedLinear, rtn

TEXT = ["The city of Delft lies in Nelor. " * 40, "Ada keeps a cat and orders soup. " * 40]


def loop(model, ids):
    """Nats per token: one window at a time, one position at a time, float64."""
    terms = []
    model = model.double()
    with torch.no_grad():
        for row in ids:
            logits = model(row[None], use_cache=False).logits[0]
            for t in range(len(row) - 1):
                terms.append(float(torch.logsumexp(logits[t], 0) - logits[t, row[t + 1]]))
    return math.fsum(terms) / len(terms), len(terms)


def test_equals_a_float64_loop(tiny, tokenizer):
    ids = windows(tokenizer, "bundled", split="validation", n=5, context=48, seed=2).ids
    found = perplexity(tiny, tokenizer, context=48, n=5, seed=2)
    expected, terms = loop(tiny, ids)
    assert found.nats == pytest.approx(expected, rel=1e-6)
    assert found.value == pytest.approx(math.exp(expected), rel=1e-5)
    assert found.protocol["tokens"] == terms == 5 * 47


def test_the_interval_is_students_over_the_windows(bundled):
    model, tokenizer = bundled
    ids = windows(tokenizer, "bundled", split="validation", n=8, context=64, seed=0).ids
    each = [loop(model.float(), row[None])[0] for row in ids]
    model.float()
    low, high = stats.t.interval(0.95, 7, loc=sum(each) / 8, scale=stats.sem(each))
    found = perplexity(model, tokenizer, context=64, n=8)
    assert found.half_width == pytest.approx((high - low) / 2, rel=1e-5)
    assert f"({found.nats:.4f} ± {found.half_width:.4f} nats)" in str(found)
    alone = perplexity(model, tokenizer, context=64, n=1)
    assert math.isnan(alone.half_width) and "±" not in str(alone)


def test_equals_the_loss_of_transformers(bundled):
    model, tokenizer = bundled
    ids = windows(tokenizer, "bundled", split="validation", n=20, context=64, seed=0).ids
    with torch.no_grad():
        losses = [float(model(input_ids=row[None], labels=row[None]).loss) for row in ids]
    assert perplexity(model, tokenizer, context=64, n=20).nats == pytest.approx(
        sum(losses) / 20, rel=1e-5
    )


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity(make, tokenizer):
    model = make("qwen2")
    torch.nn.init.zeros_(model.lm_head.weight)
    assert perplexity(model, tokenizer, context=32, n=2).value == pytest.approx(1024, rel=1e-5)


def test_the_bundled_model_has_learned_its_world(bundled, make):
    model, tokenizer = bundled
    found = perplexity(model, tokenizer, n=16)
    assert found.nats < 0.5 * math.log(1024)
    assert found.nats < perplexity(model, tokenizer, TEXT, split="all", context=64, n=4).nats


def test_the_number_carries_its_protocol(bundled):
    model, tokenizer = bundled
    found = perplexity(model, tokenizer, split="test", context=40, n=3)
    wanted = {
        "model": "bundled", "text": "bundled", "split": "test", "context": 40, "stride": 40,
        "windows": 3, "tokens": 117, "unit": "token", "dtype": "float32", "seed": 0,
    }  # fmt: skip
    assert found.protocol == wanted
    for part in (
        "model bundled",
        "float32",
        "bundled (test)",
        "context 40",
        "stride 40",
        "3 windows",
        "117 tokens",
        "per token",
    ):
        assert part in str(found) and part in repr(found)


def test_windows_do_not_overlap_and_lose_nothing(tokenizer):
    ids = tokenizer("\n\n".join(TEXT))["input_ids"]
    found = windows(tokenizer, TEXT, split="all", n=None, context=16, seed=0).ids
    assert found.flatten().tolist() == ids[: len(ids) // 16 * 16]
    assert len(found) == len(ids) // 16


def test_a_file_and_its_splits(tmp_path, tokenizer, llama):
    file = tmp_path / "own text.txt"
    file.write_text("".join(f"line {i} of Zürich\n" for i in range(500)), encoding="utf-8")
    parts = {
        s: windows(tokenizer, file, split=s, n=None, context=32, seed=0).ids
        for s in ("train", "validation", "test", "all")
    }
    lines = {s: set(tokenizer.decode(p.flatten()).split("\n")[1:-1]) for s, p in parts.items()}
    assert not lines["train"] & lines["validation"] and not lines["validation"] & lines["test"]
    assert len(parts["train"]) / len(parts["all"]) == pytest.approx(0.8, abs=0.05)
    found = perplexity(llama, tokenizer, str(file), split="all", context=32, n=None)
    assert found.protocol["text"] == "own text.txt" and str(tmp_path) not in str(found)
    assert found.protocol["windows"] == len(parts["all"])
    assert found.nats == pytest.approx(loop(llama, parts["all"][:])[0], rel=1e-6)


def test_calibration_is_seeded_training_text(tokenizer):
    a = calibration(tokenizer, n=5, context=24, seed=1)
    assert a.shape == (5, 24) and a.dtype == torch.long
    assert torch.equal(a, calibration(tokenizer, n=5, context=24, seed=1))
    assert not torch.equal(a, calibration(tokenizer, n=5, context=24, seed=2))
    validation = windows(tokenizer, "bundled", split="validation", n=5, context=24, seed=1).ids
    assert not torch.equal(a, validation)


def test_calibration_on_a_fixed_text_draws_different_windows(tokenizer):
    every = {
        tuple(row.tolist())
        for row in windows(
            tokenizer, [" ".join(map(str, range(900)))], split="train", n=None, context=20, seed=0
        ).ids
    }
    rows = [
        tuple(r.tolist())
        for r in calibration(tokenizer, [" ".join(map(str, range(900)))], n=12, context=20, seed=4)
    ]
    assert len(set(rows)) == 12 and set(rows) <= every
    assert rows != [
        tuple(r.tolist())
        for r in calibration(tokenizer, [" ".join(map(str, range(900)))], n=12, context=20, seed=5)
    ]


def test_a_tokenizer_without_special_tokens(bare_tokenizer, llama):
    """Documents do not run into each other: something stands between them."""
    ids = windows(bare_tokenizer, "bundled", split="validation", n=4, context=64, seed=0).ids
    assert ids.max() < len(bare_tokenizer) and "\n\n" in bare_tokenizer.decode(ids.flatten())
    assert math.isfinite(perplexity(llama, bare_tokenizer, n=2, context=64).nats)


def test_a_hub_text(monkeypatch, tokenizer, llama):
    import datasets

    asked = []

    def fake(source, configuration, split):
        asked.append((source, configuration, split))
        return datasets.Dataset.from_dict({"text": TEXT})

    monkeypatch.setattr(datasets, "load_dataset", fake)
    found = perplexity(llama, tokenizer, "wikitext", split="test", context=32, n=4)
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", "test")]
    assert found.nats == perplexity(llama, tokenizer, TEXT, split="all", context=32, n=4).nats
    assert "wikitext-2-raw-v1 (test)" in str(found)


def test_a_missing_hub_is_said_at_once(tokenizer):
    import datasets  # noqa: F401 - its import is not what is timed

    began = time.perf_counter()
    with pytest.raises(CompressionError, match="hub cannot be reached.*'bundled' or a text file"):
        calibration(tokenizer, "wikitext")
    assert time.perf_counter() - began < 5


def test_dropout_is_off_and_the_mode_is_restored(make, tokenizer):
    model = make("gpt2")
    model.eval()
    quiet = perplexity(model, tokenizer, context=32, n=2).nats
    model.train()
    model.transformer.h[0].mlp.eval()
    assert perplexity(model, tokenizer, context=32, n=2).nats == quiet
    assert (
        model.training
        and model.transformer.h[1].mlp.training
        and not model.transformer.h[0].mlp.training
    )


def test_packed_layers_give_the_number_they_give_packed(llama, tokenizer):
    compressed = rtn.quantize(llama, bits=3, group_size=16)
    ids = windows(tokenizer, "bundled", split="validation", n=3, context=32, seed=0).ids
    with torch.no_grad():
        packed = (
            sum(float(compressed.model(input_ids=row[None], labels=row[None]).loss) for row in ids)
            / 3
        )
    before = {n: m for n, m in compressed.model.named_modules() if isinstance(m, QuantizedLinear)}
    found = perplexity(compressed, tokenizer, context=32, n=3)
    assert found.nats == pytest.approx(packed, rel=1e-6)
    assert "rtn, bits 3, group_size 16" in str(found)
    assert before and before == {
        n: m for n, m in compressed.model.named_modules() if isinstance(m, QuantizedLinear)
    }
    with pytest.raises(RuntimeError, match="stop"), scoring(compressed):
        raise RuntimeError("stop")
    assert before == {
        n: m for n, m in compressed.model.named_modules() if isinstance(m, QuantizedLinear)
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0"),
        ({"context": 1}, "context=1"),
        ({"context": 5000}, "reads at most 256"),
        ({"split": "dev"}, "train, validation, test"),
        ({"split": "all"}, "endless"),
        ({"n": None}, "endless"),
        ({"text": "./nowhere.txt"}, "no such file"),
        ({"text": []}, "non-empty list"),
        ({"text": "a text\nof two lines"}, r"in a list"),
        ({"text": ["short"], "split": "all", "n": 1, "context": 64}, "too few for even one window"),
        ({"text": TEXT, "split": "all", "n": 900}, r"ask for n=\d+ or fewer"),
    ],
)
def test_bad_arguments(llama, tokenizer, options, message):
    with pytest.raises(CompressionError, match=message):
        perplexity(llama, tokenizer, **options)


def test_a_file_that_is_not_text(tmp_path, llama, tokenizer):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x80" * 100)
    with pytest.raises(CompressionError, match="not UTF-8"):
        perplexity(llama, tokenizer, tmp_path / "a.txt")


def test_encoders_are_refused(tokenizer):
    from transformers import BertConfig, BertForMaskedLM, BertModel

    config = BertConfig(
        vocab_size=1024,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    for encoder in (BertModel(config), BertForMaskedLM(config)):
        with pytest.raises(CompressionError, match="causal language model"):
            perplexity(encoder, tokenizer)
    with pytest.raises(
        CompressionError, match="expected a Hugging Face model or a Compressed, got Linear"
    ):
        perplexity(torch.nn.Linear(2, 2), tokenizer)
