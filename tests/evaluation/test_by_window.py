"""One number a window: against loops over tokens, and against scipy's relative entropy."""

import pytest
import torch
from scipy.special import rel_entr

from course_utils.errors import CompressionError
from course_utils.evaluation import kl_by_window, nats_by_window, perplexity, predictions
from course_utils.evaluation.text import windows
from course_utils.quantization import rtn


def test_nats_are_those_of_the_perplexity(bundled, tokenizer):
    model, _ = bundled
    ids = windows(tokenizer, "bundled", split="validation", n=20, context=64, seed=0).ids
    each = nats_by_window(model, ids)
    assert float(each.mean()) == pytest.approx(
        perplexity(model, tokenizer, context=64, n=20).nats, rel=1e-12
    )
    with torch.no_grad():
        losses = [float(model(input_ids=row[None], labels=row[None]).loss) for row in ids]
    assert each.tolist() == pytest.approx(losses, rel=1e-5)


def test_divergence_is_scipys(bundled, tokenizer):
    model, _ = bundled
    ids = windows(tokenizer, "bundled", split="validation", n=18, context=32, seed=0).ids
    rounded = rtn.quantize(model, bits=3, group_size=64)
    with torch.no_grad():
        p, q = (m(input_ids=ids).logits.double().softmax(-1) for m in (model, rounded.model))
    want = rel_entr(p, q).sum(-1).mean(1)
    kept = predictions(model, ids)
    assert kept.shape == (18, 32, model.config.vocab_size)
    for original in (model, kept):
        assert kl_by_window(original, rounded, ids).tolist() == pytest.approx(
            want.tolist(), rel=1e-3
        )
    assert float(kl_by_window(model, model, ids).abs().max()) == 0
    assert not torch.allclose(kl_by_window(rounded, model, ids), want), (
        "the order of the two matters"
    )


def test_refusals(bundled, tokenizer):
    model, _ = bundled
    ids = windows(tokenizer, "bundled", split="validation", n=2, context=16, seed=0).ids
    with pytest.raises(CompressionError, match="same windows"):
        kl_by_window(predictions(model, ids), model, ids[:1])
    with pytest.raises(CompressionError, match="expected \\(windows, context\\)"):
        nats_by_window(model, ids[0])
