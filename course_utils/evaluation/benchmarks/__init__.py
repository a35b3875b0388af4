"""GLUE, SuperGLUE, HellaSwag, MMLU and HumanEval on a folder of files, asked and scored by
lm-evaluation-harness.

The tasks are the harness's own (prompts, choices, metrics). Only the items come from here, so that
nothing is downloaded and no code of a data set is run; and the programs of HumanEval run where the
caller says, in a sandbox.
"""

import importlib.metadata
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from course_utils.errors import CompressionError, CompressionWarning
from course_utils.models.walk import longest_context
from course_utils.theory.intervals import wilson

from ..answers import encode_pair
from ..harness import evaluated, harness, quiet
from ..subject import Subject, runnable
from . import items, programs, squad
from .programs import Execute
from .sources import GROUPS, SOURCES, Source, mmlu

SHARES = ("acc", "acc_norm", "em", "pass@1")  # means of 0 and 1, which have an interval
SEED = 1234  # of the examples before an item, as lm_eval's command line has it
NOTES = {
    "multirc": (
        "lm-eval counts 'no' as the answer where the label says right, so this "
        "is 100 % minus the accuracy"
    ),
}


@dataclass(frozen=True, repr=False)
class Benchmark:
    """Scores from 0 to 1 by metric (mcc: −1 to 1) over `n` items;
    `parts` are the subjects of MMLU.
    """

    task: str
    scores: dict[str, float]
    n: int
    protocol: str
    chance: float | None = None  # accuracy of guessing; None where it is not one number
    parts: dict[str, "Benchmark"] = field(default_factory=dict)

    def interval(self, metric: str) -> tuple[float, float] | None:
        """(low, high): Wilson's 95 % interval of a share; None for f1 and mcc, which are none."""
        share = metric in SHARES
        return wilson(round(self.scores[metric] * self.n), self.n) if share else None

    def plain(self) -> dict[str, Any]:
        """As plain numbers and texts, for JSON."""
        between = {metric: self.interval(metric) for metric in self.scores}
        found = {
            "scores": self.scores,
            "intervals": between,
            "n": self.n,
            "chance": self.chance,
            "protocol": self.protocol,
        }
        return (
            {**found, "parts": {name: part.plain() for name, part in self.parts.items()}}
            if self.parts
            else found
        )

    def __str__(self) -> str:
        said = []
        for metric, score in self.scores.items():
            between = self.interval(metric)
            said.append(
                f"{metric} {score:.1%} ({between[0]:.1%} to {between[1]:.1%})"
                if between
                else f"{metric} {score:.3f}"
            )
        guessing = [f"chance {self.chance:.0%}"] if self.chance is not None else []
        return f"{self.task}: {', '.join(said + guessing)}; {self.protocol}"

    __repr__ = __str__


@dataclass
class Asked:
    """A task, its items and its worked examples, and the files that they come from."""

    source: Source
    rows: list[dict[str, Any]]
    examples: list[dict[str, Any]]
    files: list[Path]


def run(
    model: Subject, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str] | str,
    data: str | Path, *, shots: int = 0, n: int | None = None, batch_size: int = 8,
    execute: Execute | None = None,
) -> dict[str, Benchmark]:  # fmt: skip
    """{task: scores} of the tasks on the files in the folder `data`.

    tasks: names of lm-evaluation-harness ("hellaswag", "rte", "sglue_rte", …), "humaneval", and
    "glue", "super_glue" and "mmlu" for all of theirs that are in the folder. shots: solved items
    before each, from the training file (MMLU: its dev file). n: the first n items of each task
    (MMLU: of each subject), None for all. execute: runs programs and says of each whether it came
    to its end, such as `course_utils.grade.programs.run` (it is also asked about none, first, so
    that it can say that there is no sandbox); without it "humaneval" is refused.

    Raises CompressionError for an unknown task, for a file that is missing, unreadable or not what
    it should be, before the model is asked anything; if the harness is not installed; and if the
    model's log-probabilities are not numbers.
    """
    network = runnable(model)
    for name, value, least in (("shots", shots, 0), ("n", n, 1), ("batch_size", batch_size, 1)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise CompressionError(f"{name}={value}: expected a whole number, at least {least}.")
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise CompressionError(
            f"data {str(data)!r}: no such folder; name one with the files of the tasks. "
            "Nothing is downloaded."
        )
    chosen = [tasks] if isinstance(tasks, str) else list(tasks)
    subjects = mmlu_subjects()
    asked = gathered(chosen, subjects, folder, shots, n)
    if "humaneval" in asked and (execute is None or shots):
        why = (
            "is asked without solved items; leave shots at 0"
            if shots
            else "runs code that a model wrote; give execute=, which runs it in a sandbox"
        )
        raise CompressionError(f"humaneval {why}.")
    if "humaneval" in asked and execute:
        execute([])  # says so now, and not after hours of writing, if there is no sandbox
    made = {
        task: programs.config(one.rows, execute, longest_context(network))
        for task, one in asked.items()
        if execute and task == "humaneval"
    }
    own = {task: configured(one, shots) for task, one in asked.items() if task not in made}
    with quiet(), squad.importable():
        ready = loaded(own, made)
    found = evaluated(model, tokenizer, ready, batch_size)
    every = {task: told(task, one, shots, found, network, tokenizer) for task, one in asked.items()}
    return together(chosen, subjects, every)


def gathered(
    chosen: list[str], subjects: list[str], folder: Path, shots: int, n: int | None
) -> dict[str, Asked]:
    """The items of each single task.

    Of a group only what is in the folder, with a warning that names the rest.
    """
    known = {**SOURCES, **{f"mmlu_{subject}": mmlu(subject) for subject in subjects}}
    groups = {**GROUPS, "mmlu": tuple(f"mmlu_{subject}" for subject in subjects)}
    if unknown := [name for name in chosen if name not in known and name not in groups] or (
        [""] if not chosen else []
    ):
        raise CompressionError(
            f"tasks: {unknown[0]!r} is not known; "
            f"known are {', '.join([*groups, *SOURCES, 'mmlu_<subject>'])}."
        )
    asked: dict[str, Asked] = {}
    for name in chosen:
        absent: dict[str, items.Absent] = {}
        for task in groups.get(name, (name,)):
            source = known[task]
            try:
                rows, paths = items.read(task, source, folder, source.split)
            except items.Absent as error:
                if name == task:
                    raise
                absent[task] = error
                continue
            examples = (
                items.read(task, source, folder, source.shots)[0]
                if shots and task != "humaneval"
                else []
            )
            # MMLU's are the first; of others the harness draws one to spare
            drawn = shots + (source.shots != "dev")
            if shots and len(examples) < drawn and task != "humaneval":
                raise CompressionError(
                    f"{task}: shots={shots} needs {drawn} solved items; "
                    f"its {source.shots} file has {len(examples)}. Ask for fewer."
                )
            asked[task] = Asked(source, rows[:n], examples, paths)
        if absent:
            first = next(iter(absent.values()))
            if len(absent) == len(groups[name]):
                raise CompressionError(str(first))
            rest = (
                ", ".join(absent)
                if len(absent) < 9
                else f"{len(absent)} of its {len(groups[name])} parts"
            )
            warnings.warn(
                f"{name}: not in {folder}, so left out: {rest}.", CompressionWarning, stacklevel=3
            )
    return asked


def tasks_folder() -> Path:
    """Where lm-evaluation-harness keeps its tasks."""
    harness()
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


def mmlu_subjects() -> list[str]:
    """The 57, as the harness names them."""
    return sorted(
        path.stem.removeprefix("mmlu_")
        for path in (tasks_folder() / "mmlu" / "default").glob("mmlu_*.yaml")
    )


def configured(one: Asked, shots: int) -> dict[str, Any]:
    """What stands in the place of the harness's own settings: the data, and no split that is not
    there.
    """
    import datasets

    parts = {one.source.split: one.rows, **({one.source.shots: one.examples} if shots else {})}
    data = datasets.DatasetDict(
        {split: datasets.Dataset.from_list(rows) for split, rows in parts.items()}
    )
    training = one.source.shots if shots else None
    from_dev = (
        {"fewshot_split": training} if one.source.shots == "dev" else {"training_split": training}
    )
    return {"custom_dataset": lambda **_: data, "num_fewshot": shots, **from_dev}


def loaded(own: dict[str, dict[str, Any]], made: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """{task: the harness's object}: its own tasks with our items, and those that are made here."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

    folder = tasks_folder()
    homes = sorted(
        {mmlu("").home if task.startswith("mmlu_") else SOURCES[task].home for task in own}
    )
    manager = TaskManager(include_defaults=False, include_path=[folder / home for home in homes])
    if not hasattr(manager, "load"):
        raise CompressionError(
            f"lm-eval {importlib.metadata.version('lm-eval')} is too old; pip install -U lm-eval."
        )
    group = {
        "group": "course",
        "task": [{"task": task, **settings} for task, settings in own.items()],
    }
    found = dict(manager.load([group])["tasks"]) if own else {}
    found |= {task: ConfigurableTask(config=settings) for task, settings in made.items()}
    for task in found.values():
        task.set_fewshot_seed(SEED)
    return found


def told(
    task: str,
    one: Asked,
    shots: int,
    found: dict[str, Any],
    network: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> Benchmark:
    """The scores of a task, and how they came about.

    Raises CompressionError if a log-probability is not a number.
    """
    results, samples = found["results"][task], found["samples"][task]
    scores = {
        key.split(",")[0]: float(value)
        for key, value in results.items()
        if "," in key and "_stderr" not in key
    }
    protocol = [
        f"n={len(one.rows)}",
        f"{one.source.split} split",
        f"{shots} examples",
        f"lm-eval {importlib.metadata.version('lm-eval')}",
    ]
    chance = None
    longest = longest_context(network)
    cut = 0
    if task == "humaneval":
        protocol += [f"greedy, at most {programs.new_tokens(longest)} tokens, {programs.HOW}"]
        room = math.inf if longest is None else longest - programs.new_tokens(longest)
        cut = sum(len(tokenizer(row["prompt"])["input_ids"]) > room for row in one.rows)
    else:
        if broken := sum(
            any(math.isnan(float(r[0][0])) for r in sample["resps"]) for sample in samples
        ):
            raise CompressionError(
                f"{task}: the model's log-probabilities of {broken} of {len(samples)} items are "
                "not numbers; it is broken."
            )
        if "acc" in scores:
            chance = sum(1 / len(sample["arguments"]) for sample in samples) / len(samples)
        cut = sum(
            any(too_long(tokenizer, pair, longest) for pair in sample["arguments"])
            for sample in samples
        )
    if cut:
        protocol.append(
            f"{cut} of {len(samples)} items cut on the left to the model's {longest} tokens"
        )
    protocol += [NOTES[task]] if task in NOTES else []
    return Benchmark(
        task,
        scores,
        len(one.rows),
        ", ".join([*protocol, "from " + " ".join(path.name for path in one.files)]),
        chance,
    )


def too_long(tokenizer: PreTrainedTokenizerBase, pair: Sequence[str], longest: int | None) -> bool:
    """Whether a context with its continuation has more than `longest` tokens."""
    context, continuation = pair[:2]
    if longest is None or len((context + continuation).encode()) <= longest // 2:
        return False
    return sum(map(len, encode_pair(tokenizer, context, continuation))) > longest + 1


def together(
    chosen: list[str], subjects: list[str], every: dict[str, Benchmark]
) -> dict[str, Benchmark]:
    """As asked for: the subjects of MMLU under "mmlu", with the accuracy over all their items."""
    out: dict[str, Benchmark] = {}
    for name in chosen:
        if name != "mmlu":
            out |= {task: every[task] for task in GROUPS.get(name, (name,)) if task in every}
            continue
        parts = {
            subject: every[f"mmlu_{subject}"] for subject in subjects if f"mmlu_{subject}" in every
        }
        n = sum(part.n for part in parts.values())
        right = sum(round(part.scores["acc"] * part.n) for part in parts.values())
        first = next(iter(parts.values()))
        protocol = first.protocol.replace(
            f"n={first.n}", f"n={n}, {len(parts)} of {len(subjects)} subjects"
        ).split(", from ")[0]
        out[name] = Benchmark(name, {"acc": right / n}, n, protocol, 1 / 4, parts)
    return out
