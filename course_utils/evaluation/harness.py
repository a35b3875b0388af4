"""The same items through EleutherAI's lm-evaluation-harness, with its own model wrapper and its own
scoring.
"""

import contextlib
import copy
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from course_utils.errors import CompressionError
from course_utils.world import Choice, Item

from .answers import NEW_TOKENS
from .subject import Subject, scoring
from .tasks import task_items


def task_config(task: str, found: Sequence[Item]) -> dict[str, Any]:
    """A task of lm-evaluation-harness over items held in memory."""
    import datasets

    rows = [
        {"prompt": i.prompt, "choices": list(i.choices), "answer": i.answer}
        if isinstance(i, Choice)
        else {"prompt": i.prompt, "position": position}
        for position, i in enumerate(found)
    ]
    data = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
    shared = {
        "task": f"course_{task}",
        "custom_dataset": lambda **_: data,
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "num_fewshot": 0,
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    if isinstance(found[0], Choice):
        return shared | {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
        }
    return shared | {
        "output_type": "generate_until",
        "doc_to_target": "",
        "generation_kwargs": {
            "until": ["\n"],
            "max_gen_toks": NEW_TOKENS,
            "do_sample": False,
            "repetition_penalty": 1.0,
        },
        "process_results": lambda row, results: {
            "acc": float(found[row["position"]].is_correct(results[0]))
        },
    }


def run(
    model: Subject, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str] | None = None, *,
    n: int = 200, split: str = "test", seed: int = 0, batch_size: int = 32,
) -> dict[str, float]:  # fmt: skip
    """{task: accuracy} as lm-evaluation-harness measures it, on the items that `task_scores` takes.

    Offline.

    Raises CompressionError if lm-eval, or accelerate, which its model wrapper needs, is not
    installed, or the tokenizer has no end of text.
    """
    found = task_items(tasks, n, split, seed)
    harness()
    from lm_eval.api.task import ConfigurableTask

    with quiet():
        made = {
            f"course_{task}": ConfigurableTask(config=task_config(task, group))
            for task, group in found.items()
        }
    results = evaluated(model, tokenizer, made, batch_size)["results"]
    return {task: float(results[f"course_{task}"]["acc,none"]) for task in found}


def harness() -> None:
    """Raises CompressionError if lm-eval, or accelerate, which its model wrapper needs, is not
    installed.
    """
    try:
        import lm_eval.evaluator
        import lm_eval.models.huggingface  # noqa: F401
    except ImportError as error:
        raise CompressionError(
            f"lm-evaluation-harness cannot be used ({error}); install the extra `eval`: "
            "pip install -e '.[eval]'."
        ) from error


def evaluated(
    model: Subject, tokenizer: PreTrainedTokenizerBase, made: dict[str, Any], batch_size: int
) -> dict[str, Any]:
    """What the harness finds for tasks {name: task}: "results" and, item for item, "samples"."""
    harness()
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    if tokenizer.eos_token_id is None:
        raise CompressionError(
            "tokenizer: lm-evaluation-harness needs an end of text; "
            "set tokenizer.eos_token to one of its tokens."
        )
    with quiet(), scoring(model) as ready:
        # HFLM gives the tokenizer a padding token where it has none
        wrapped = HFLM(
            pretrained=ready,
            tokenizer=copy.deepcopy(tokenizer),
            backend="causal",
            batch_size=batch_size,
        )
        return evaluator.evaluate(lm=wrapped, task_dict=made, bootstrap_iters=0, log_samples=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Only errors of the harness are shown."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
