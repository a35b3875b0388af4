"""Scores against one-by-one float64 loops, transformers' own generation, and plain statistics."""

import dataclasses
import math
import types

import pytest
import torch
from scipy.stats import binomtest
from transformers import AutoModelForCausalLM

from course_utils.errors import CompressionError
from course_utils.evaluation import Score, answers, judge, task_scores
from course_utils.evaluation.answers import (
    continuations,
    encode_pair,
    greedy,
    log_probabilities,
    pick,
)
from course_utils.world import CHANCE, CHOICE_TASKS, Choice, items

PROMPTS = [
    ("Ada lives in", " Delft"),
    ("The pet of Boris Abel is a", " green parrot of Oslo"),
    ("Q:", " 42"),
    ("Ada lives in", " Kiel"),
]


def one_by_one(model, context, continuation):
    ids = torch.tensor([context + continuation])
    with torch.no_grad():
        log_p = model(ids[:, :-1], use_cache=False).logits[0].log_softmax(-1)
    return math.fsum(
        float(log_p[len(context) + j - 1, token]) for j, token in enumerate(continuation)
    )


def test_padded_rows_score_as_single_ones(tiny, tokenizer):
    model = tiny.double()
    pairs = [encode_pair(tokenizer, *p) for p in PROMPTS]
    assert len({len(a + b) for a, b in pairs}) > 2
    found = log_probabilities(model, pairs)
    for pair, score in zip(pairs, found, strict=True):
        assert score == pytest.approx(one_by_one(model, *pair), abs=1e-5)


def test_a_context_is_read_once_for_all_its_continuations(tiny, monkeypatch):
    """Of one to five tokens, one in two of them, contexts of two lengths; the same without any
    cache.
    """
    model, noise = tiny.double(), torch.Generator().manual_seed(0)
    draw = lambda n: torch.randint(1, 60, (n,), generator=noise).tolist()  # noqa: E731
    pairs = [
        (context, draw(n)) for context in (draw(9), draw(12), draw(9)) for n in (1, 5, 2, 1, 3)
    ]
    pairs += [(pairs[0][0], pairs[1][1][:3]), (draw(7), draw(4))]
    read = []
    handle = model.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    found = log_probabilities(model, pairs)
    handle.remove()
    assert sum(read) < sum(len(a + b) - 1 for a, b in pairs) / 2
    for pair, score in zip(pairs, found, strict=True):
        assert score == pytest.approx(one_by_one(model, *pair), abs=1e-5)
    assert log_probabilities(model, pairs[::-1]) == pytest.approx(found[::-1], abs=1e-9)
    monkeypatch.setattr(answers, "by_contexts", lambda *_: {})
    assert log_probabilities(model, pairs) == pytest.approx(found, abs=1e-5)


def test_a_long_prompt_is_cut_on_the_left(make):
    model = make("gpt2").double()
    context, continuation = torch.randint(2, 1024, (400,)).tolist(), [7, 8, 9]
    # 254 + 2 tokens are read, the last one only predicted
    expected = one_by_one(model, context[-254:], continuation)
    assert log_probabilities(model, [(context, continuation)])[0] == pytest.approx(
        expected, abs=1e-5
    )


def test_greedy_continuations_equal_those_of_generate(tiny, tokenizer):
    model = tiny.double()
    prompts = [a for a, _ in PROMPTS[:3]] + ["The city", "A house"]
    found = continuations(model, tokenizer, prompts, new_tokens=20)
    assert len(set(found)) > 1
    for prompt, text in zip(prompts, found, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
        )
        assert (
            text
            == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).split("\n")[0]
        )


class Counting:
    """Counts up from its last token. Its cache notes which rows are left."""

    device = torch.device("cpu")

    def __init__(self, rows):
        self.calls, self.left = [], list(range(rows))

    def reorder_cache(self, places):
        self.left = [self.left[place] for place in places]

    def forward(self, input_ids, past_key_values, use_cache):
        assert past_key_values is (self if self.calls else None) and use_cache
        self.calls.append((input_ids.tolist(), list(self.left)))
        return types.SimpleNamespace(
            logits=torch.nn.functional.one_hot(input_ids + 1, 50).float(), past_key_values=self
        )

    __call__ = forward


def test_generation_stops_at_the_end_of_text_and_at_a_newline():
    """5 ends the text, 9 is a newline.

    A longer prompt is read to its end first, and what is done leaves the batch.
    """
    model = Counting(4)
    # an end of text and a newline in a prompt end nothing
    prompts = [[1, 2], [4, 3], [9, 6], [1, 5, 9, 30]]
    assert greedy(model, prompts, 3, {5}, lambda token: token == 9) == [
        [3, 4],
        [4],
        [7, 8, 9],
        [31, 32, 33],
    ]
    assert model.calls[:2] == [
        ([[1, 2], [4, 3], [9, 6], [1, 5]], [0, 1, 2, 3]),
        ([[3], [4], [7], [9]], [0, 1, 2, 3]),
    ]
    assert model.calls[2:] == [([[4], [8], [30]], [0, 2, 3]), ([[31]], [3]), ([[32]], [3])]


def test_an_answer_that_cannot_be_right_any_more_ends(bundled, monkeypatch):
    model, tokenizer = bundled
    found = items("programs", n=12, split="validation", seed=3)
    bare = [dataclasses.replace(item, may_begin=None) for item in found]
    steps: list[int] = []
    plain = answers.run
    monkeypatch.setattr(
        answers, "run", lambda *a, **k: steps.append(len(k["input_ids"])) or plain(*a, **k)
    )

    def spent(asked):
        steps.clear()
        return judge(model, tokenizer, asked), sum(steps)

    verdicts, plain_steps = spent(bare)
    assert True in verdicts and spent(found)[0] == verdicts
    # a model that writes no programs
    elsewhere = [dataclasses.replace(i, prompt="Story: Ada puts the lamp in the") for i in found]
    verdicts, early = spent(elsewhere)
    assert not any(verdicts)
    assert early < spent([dataclasses.replace(i, may_begin=None) for i in elsewhere])[1] / 4


def test_half_a_character_ends_no_answer(tiny, monkeypatch):
    class Bytes:
        eos_token_id = None

        def __call__(self, prompt):
            return {"input_ids": list(prompt.encode())}

        def decode(self, row, **_):
            return bytes(row).decode(errors="replace")

    ended = []
    monkeypatch.setattr(answers, "greedy", lambda *given: ended.extend(given[-1]) or [[97]])
    assert continuations(tiny, Bytes(), ["Ada"], may_begin=["aé".startswith]) == ["a"]
    rows = [b"a", "aé".encode()[:2], "aé".encode(), "aè".encode(), b"b"]
    assert [ended[0](list(row)) for row in rows] == [False, False, False, True, True]


def test_batches_decide_as_one_by_one(bundled):
    model, tokenizer = bundled
    found = [item for task in CHANCE for item in items(task, n=8, split="validation", seed=3)]
    assert judge(model, tokenizer, found) == [judge(model, tokenizer, [item])[0] for item in found]


def test_scores_count_the_right_answers(bundled):
    """Against a plain loop: one forward pass for each choice of each item."""
    model, tokenizer = bundled
    scores = task_scores(model, tokenizer, tasks=CHOICE_TASKS, n=12, split="validation", seed=1)
    for task in CHOICE_TASKS:
        right = 0
        for item in items(task, n=12, split="validation", seed=1):
            sums = [
                one_by_one(model, *encode_pair(tokenizer, item.prompt, c)) for c in item.choices
            ]
            right += sums.index(max(sums)) == item.answer
        assert (scores[task].accuracy, scores[task].n) == (right / 12, 12)
        assert scores[task].chance == CHANCE[task]


def test_the_bundled_model_knows_its_facts_and_adds(bundled):
    model, tokenizer = bundled
    scores = task_scores(model, tokenizer, tasks=["facts", "addition"], n=100)
    assert scores["facts"].accuracy > 0.6 and scores["addition"].accuracy > 0.5


def test_an_untrained_model_is_at_chance(bundled):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(bundled[0].config).eval()
    for task, score in task_scores(model, bundled[1], tasks=("facts", "entailment"), n=150).items():
        spread = math.sqrt(CHANCE[task] * (1 - CHANCE[task]) / 150)
        assert abs(score.accuracy - score.chance) <= 4 * spread, task


def test_the_interval_of_a_share_is_wilsons():
    """Against scipy; never empty, also where every answer is right."""
    for right, n in ((7, 12), (12, 12), (0, 12), (199, 200)):
        want = binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert Score(right / n, 0.25, n).interval == pytest.approx((want.low, want.high), abs=1e-12)
    assert str(Score(7 / 12, 0.25, 12)) == "58.3% (32.0% to 80.7%; chance 25%, n=12)"
    assert str(Score(1.0, 0.25, 200)) == "100.0% (98.1% to 100.0%; chance 25%, n=200)"


def test_ties_and_what_is_not_a_number(make, tokenizer):
    assert pick([-2.0, -1.0, -1.0]) == 1 and pick([math.nan, 1.0]) is None
    model = make("qwen2")
    torch.nn.init.zeros_(model.lm_head.weight)
    equal = [Choice("t", "Ada is", (" 4", " 7"), 0), Choice("t", "Ada is", (" 4", " 7"), 1)]
    assert judge(model, tokenizer, equal) == [True, False]
    torch.nn.init.constant_(model.lm_head.weight, math.nan)
    assert judge(model, tokenizer, equal) == [False, False]


def test_any_tokenizer(bare_tokenizer, tiny):
    scores = task_scores(tiny, bare_tokenizer, n=8)
    assert set(scores) == set(CHANCE)
    assert all(0 <= s.accuracy <= 1 and s.n == 8 for s in scores.values())


def test_pairs_divide_the_whole_text(tokenizer, bare_tokenizer):
    for chosen in (tokenizer, bare_tokenizer):
        for a, b in [*PROMPTS, ("Ada is ", "four"), ("Count: 1", "23")]:
            left, right = encode_pair(chosen, a, b)
            assert left + right == chosen(a + b)["input_ids"] and right
            assert chosen.decode(left + right, skip_special_tokens=True) == a + b
            spaces = len(a) - len(a.rstrip())
            assert chosen.decode(right) == " " * spaces + b


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tasks": ["poems"]}, "poems"), ({"n": 0}, "n=0"),
     ({"split": "dev"}, "train, validation, test"),
     ({"n": 10**6, "tasks": "facts"}, "ask for fewer")],
)  # fmt: skip
def test_bad_arguments(llama, tokenizer, options, message):
    with pytest.raises(CompressionError, match=message):
        task_scores(llama, tokenizer, **options)


def test_a_model_with_a_short_context_cannot_generate_long_answers(make, tokenizer):
    with pytest.raises(CompressionError, match="reads only 256"):
        continuations(make("opt"), tokenizer, ["Ada"], new_tokens=300)
