"""GPTQ beside round-to-nearest on the bundled model."""

import pytest
import torch

from course_utils import evaluation, models
from course_utils.quantization import gptq, rtn


@pytest.fixture(scope="module")
def table():
    """For each method and number of bits: (nats per token, KL from the exact model), on fresh
    training documents.

    Not on held-out ones: the model has learnt a little of which documents never occur, and rounding
    that away can lower its loss there (by 0.002 nats in a sample of 24 windows), which says nothing
    about the method.
    """
    model, tokenizer = models.load("bundled")
    calibration = evaluation.calibration(tokenizer, n=24)
    ids = evaluation.text.windows(
        tokenizer, "bundled", split="train", n=12, context=256, seed=77
    ).ids

    @torch.no_grad()
    def measured(subject):
        with evaluation.subject.scoring(subject) as ready:
            logits = ready(ids).logits.log_softmax(-1)
        exact.append(logits)
        divergence = float((exact[0].exp() * (exact[0] - logits)).sum(-1).mean())
        return evaluation.perplexity(
            subject, tokenizer, split="train", seed=77, n=64
        ).nats, divergence

    exact: list[torch.Tensor] = []
    found = {"exact": measured(model)}
    for bits in (8, 4, 3, 2):
        found["rtn", bits] = measured(rtn.quantize(model, bits=bits, group_size=64))
        found["gptq", bits] = measured(gptq.quantize(model, calibration, bits=bits, group_size=64))
    return found


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_bundled_model_gptq_is_not_worse_than_rounding(table, bits):
    (loss, divergence), (rounded, rounded_divergence) = table["gptq", bits], table["rtn", bits]
    assert loss <= rounded + 1e-4
    assert divergence < 0.9 * rounded_divergence


def test_bundled_model_order_of_bits(table):
    for method in ("rtn", "gptq"):
        assert abs(table[method, 8][0] - table["exact"][0]) < 2e-4
        losses, divergences = zip(*(table[method, bits] for bits in (8, 4, 3, 2)), strict=True)
        assert all(a <= b + 2e-4 for a, b in zip(losses, losses[1:], strict=False))
        assert all(2 * a < b for a, b in zip(divergences, divergences[1:], strict=False))
    lost = {method: table[method, 2][0] - table["exact"][0] for method in ("rtn", "gptq")}
    assert 0 < lost["gptq"] < 0.8 * lost["rtn"]
