"""HumanEval: the model goes on with a function's head; what it wrote is run with the item's tests.

The prompt, the ends of a continuation and its length are those of the harness's own task, which
cannot be used: it takes its scoring from the hub, and runs the programs unprotected.
"""

from collections.abc import Callable, Sequence
from typing import Any

from .files import Row

Execute = Callable[[Sequence[str]], list[bool]]
ENDS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
NEW_TOKENS = 1024
HOW = "programs run in the sandbox of grading"


def new_tokens(longest: int | None) -> int:
    """Most tokens of a continuation: half of the context where that is shorter."""
    return NEW_TOKENS if longest is None else min(NEW_TOKENS, longest // 2)


def program(row: Row, continuation: str) -> str:
    """HumanEval's program for one answer: prompt, answer, tests, and the call that runs them."""
    return f"{row['prompt']}{continuation}\n{row['test']}\ncheck({row['entry_point']})"


def config(rows: Sequence[Row], execute: Execute, longest: int | None) -> dict[str, Any]:
    """The task for the harness; pass@1 is the share of programs that come to their end."""
    import datasets

    data = datasets.DatasetDict({"test": datasets.Dataset.from_list(list(rows))})

    def passed(written: Sequence[str]) -> float:
        found = execute(list(written))
        return sum(found) / len(found)

    return {
        "task": "humaneval", "custom_dataset": lambda **_: data, "test_split": "test",
        "output_type": "generate_until", "doc_to_text": "{{prompt}}", "doc_to_target": "",
        "num_fewshot": 0,
        "generation_kwargs": {"until": list(ENDS), "max_gen_toks": new_tokens(longest),
                              "do_sample": False},
        "process_results": lambda row, results: {"pass@1": program(row, results[0])},
        "metric_list": [{"metric": "pass@1", "aggregation": passed, "higher_is_better": True}],
    }  # fmt: skip
