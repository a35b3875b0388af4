"""The bundled tokenizer and windows of tokens."""

import itertools
import math

import pytest
import torch

from course_utils.models.data import mean_loss, token_windows
from course_utils.models.tokenizer import SEPARATOR, train_tokenizer
from course_utils.world import documents


def test_each_digit_is_one_token(tokenizer):
    for number in ("7", "42", "1234567890", " 99", "a1b2"):
        tokens = tokenizer.tokenize(number, add_special_tokens=False)
        digits = [t for t in tokens if any(c.isdigit() for c in t)]
        assert len(digits) == sum(c.isdigit() for c in number) and all(
            sum(c.isdigit() for c in t) == 1 for t in digits
        )


@pytest.mark.parametrize(
    "text",
    ["Ada has 12 pears.\nSolution: 1 + 1", "  two  spaces ", "Zürich 量化 🙂\t", "a | b\n\n{}"],
)
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer(text)["input_ids"] == [tokenizer.convert_tokens_to_ids(SEPARATOR), *ids]


def test_documents_come_back(tokenizer):
    for document in itertools.islice(documents("test"), 200):
        assert (
            tokenizer.decode(tokenizer(document.text)["input_ids"], skip_special_tokens=True)
            == document.text
        )


def test_training_repeats_itself_and_keeps_to_the_size():
    texts = [d.text for d in itertools.islice(documents("train"), 300)]
    first, second = (train_tokenizer(texts, vocabulary=400) for _ in range(2))
    assert first.get_vocab() == second.get_vocab() and len(first) == 400
    assert first.decode(first("98 plums")["input_ids"], skip_special_tokens=True) == "98 plums"


def test_windows_are_the_documents_one_after_the_other(tokenizer):
    found = token_windows(tokenizer, "validation", 70, 100, seed=3)
    ids = []
    for document in documents("validation", seed=3):
        ids += tokenizer(document.text)["input_ids"]
        if len(ids) >= 7000:
            break
    assert found.shape == (70, 100) and found.flatten().tolist() == ids[:7000]


def test_mean_loss_is_a_mean_over_predictions(make, ids):
    model = make("gpt2")
    with torch.no_grad():
        log_p = model(ids).logits.double().log_softmax(-1)
    terms = [-float(log_p[i, t, ids[i, t + 1]]) for i in range(3) for t in range(19)]
    expected = math.fsum(terms) / len(terms)
    for batch in (1, 2, 3):
        assert mean_loss(model, ids, batch) == pytest.approx(expected, rel=1e-6)
    model.train()
    assert mean_loss(model, ids) == pytest.approx(expected, rel=1e-6) and model.training
