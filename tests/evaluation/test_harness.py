"""Our scores beside those of lm-evaluation-harness, item for item the same questions."""

import copy
import sys

import pytest

from course_utils.errors import CompressionError
from course_utils.evaluation import harness, task_scores
from course_utils.evaluation.answers import encode_pair
from course_utils.quantization import rtn
from course_utils.world import items

TASKS = ["facts", "sentiment", "stories", "addition"]


@pytest.mark.parametrize("bits", [None, 2])
def test_agrees_within_half_a_point(bundled, bits):
    """Two bits leave a model between right and wrong, where a difference would show."""
    model, tokenizer = bundled
    if bits:
        model = rtn.quantize(model, bits=bits, group_size=32)
    before = copy.deepcopy(tokenizer.special_tokens_map)
    theirs = harness.run(model, tokenizer, TASKS, n=100)
    ours = task_scores(model, tokenizer, tasks=TASKS, n=100)
    assert set(theirs) == set(TASKS)
    for task in TASKS:
        assert abs(theirs[task] - ours[task].accuracy) <= 0.005, task
    assert tokenizer.special_tokens_map == before


def test_programs_are_run_by_the_harness_too(bundled):
    model, tokenizer = bundled
    theirs = harness.run(model, tokenizer, ["programs"], n=40, split="validation", seed=2)
    assert (
        abs(
            theirs["programs"]
            - task_scores(model, tokenizer, tasks=["programs"], n=40, split="validation", seed=2)[
                "programs"
            ].accuracy
        )
        <= 0.005
    )


@pytest.fixture
def no_beginning(bare_tokenizer):
    """As Qwen's: an end of text, nothing put before a text."""
    chosen = copy.deepcopy(bare_tokenizer)
    chosen.eos_token = "~"
    return chosen


def test_other_architectures_and_tokenizers(make, no_beginning, bare_tokenizer):
    model = make("gpt2")
    theirs = harness.run(model, no_beginning, ["entailment", "facts"], n=60)
    for task, score in task_scores(
        model, no_beginning, tasks=["entailment", "facts"], n=60
    ).items():
        assert abs(theirs[task] - score.accuracy) <= 0.005
    with pytest.raises(CompressionError, match="set tokenizer.eos_token"):
        harness.run(model, bare_tokenizer, ["facts"], n=2)


def test_prompts_are_divided_as_the_harness_divides_them(bundled, no_beginning):
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = bundled
    for chosen in (tokenizer, no_beginning):
        wrapped = HFLM(pretrained=model, tokenizer=copy.deepcopy(chosen), backend="causal")
        pairs = [
            (i.prompt, c)
            for task in ("facts", "entailment")
            for i in items(task, n=10)
            for c in i.choices
        ]
        for pair in [*pairs, ("Ada is ", "four"), ("Count: 1", "23")]:
            assert tuple(wrapped._encode_pair(*pair)) == encode_pair(chosen, *pair)


@pytest.mark.parametrize("missing", ["lm_eval", "accelerate"])
def test_without_the_package_the_extra_is_named(bundled, monkeypatch, missing):
    for name in [n for n in sys.modules if n.split(".")[0] in ("lm_eval", "accelerate")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(CompressionError, match=r"extra `eval`"):
        harness.run(*bundled, ["facts"], n=2)


def test_bad_arguments(bundled):
    with pytest.raises(CompressionError, match="poems"):
        harness.run(*bundled, ["poems"], n=2)
