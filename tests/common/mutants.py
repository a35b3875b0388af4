"""Planted answers and automatic mutants of every exercise, run through the real check; the table is
docs/mutants.md.

    python tests/common/mutants.py                        # everything, on three seeds
    python tests/common/mutants.py scores.fisher          # one exercise
    python tests/common/mutants.py --write docs/mutants.md

A mutant is a right answer with one place changed (mutate.py). It is killed if the check rejects it
on every seed. One that survives needs a reason in tests/learn/survivors.yaml. Mutants run in a
process of their own, with a limit on memory and on time.
"""

import argparse
import functools
import importlib.util
import multiprocessing
import os
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import mutate
import torch
import yaml

from course_utils.learn.checks import checking, exercise

PLANTED = Path(__file__).parents[1] / "learn" / "planted"
SURVIVORS = PLANTED.with_name("survivors.yaml")
SEEDS = (1, 2, 3)
SECONDS = 2.5  # for one check of a mutant; of a right answer it takes less than half a second
MEMORY = 4 << 30  # above what the process has
STUCK = 120.0  # for a mutant that does not come back from a call outside Python
GOAL = 0.9
# what is changed is a planted answer: the specification has switches for named mistakes, is one
# call, or begins with what does not count
ANOTHER = {
    "codebooks.read_trellis": "by_deque",
    "coding.choose_coder": "by_table",
    "costs.exponent": "slope_of_sums",
    "costs.largest_part": "largest_by_sorting",
    "costs.training_operations": "operations_by_loop",
    "distillation.distillation_loss": "loss_in_two_lines",
    "distillation.fair_gain": "gain_by_masks",
    "distillation.train_student": "loop_by_hand",
    "distillation_losses.distance": "distance_by_pairs",
    "distillation_losses.enough_kept": "enough",
    "distillation_losses.kl": "kl_by_rows",
    "distillation_losses.logit_gradient": "gradient_by_entries",
    "distillation_losses.near_limit": "hot_by_loop",
    "distillation_losses.response": "response_by_rows",
    "frontiers.swap": "by_definition",
    "gptq.column_update": "update",
    "gptq.inverse_cholesky": "factor_by_elimination",
    "gptq.quantize_layer": "layer_in_blocks",
    "hardware.to_target": "by_recursion",
    "lab_distillation.distil": "loop",
    "lab_gptq.act_order": "by_columns",
    "lab_quantize.dequantize": "back_by_entries",
    "lab_quantizer.affine": "by_levels",
    "lab_wanda.input_norm": "running_norm",
    "lab_wanda.prune_layer": "layer_by_rows",
    "lab_wanda.prune_n_of_m": "pattern_by_rows",
    "llm_distillation.which": "by_loops",
    "memory.from_config": "config_by_formula",
    "numbers.bits_needed": "bits_by_doubling",
    "quantization_noise.predicted_kl": "by_norms",
    "quantization_noise.ste": "by_where",
    "quantization_noise.which_noise": "by_halves",
    "rate_distortion.water_filling": "by_sorting",
    "scales_at_work.best_in_budget": "by_sorting",
    "scaling.clip_errors": "clip_by_tokens",
    "tradeoff.seen_difference": "difference_by_statistics",
    "uniform.best_threshold": "by_loop",
}
HEAD = """# What the checks reject

Made by `python tests/common/mutants.py --write docs/mutants.md`; `make test` checks it.

- Wrong: planted answers (`tests/learn/planted`) that the check rejects, and whose mistake it names if it has one.
- Right: planted answers, written differently, that it accepts.
- Mutants: a right answer with one place changed (`tests/common/mutate.py`): an operator, a constant, a dimension, a flag,
  an argument left out, a statement deleted, `abs` or `clamp` or a limit of `min` and `max` removed, `min` for `max`, `floor` and
  `ceil` for `round`, a setting replaced by a constant, a loop that ends after its first turn, a sort without its tie-break,
  gradients that are detached or not recorded. Killed means rejected on each of three seeds.
  So many of the killed ones raise an error; the others give wrong values.
- Survivors: those that the check accepts. Each one is explained below.

| exercise | wrong rejected | right accepted | mutants killed | of these by an error | survivors explained |
|---|---|---|---|---|---|
"""  # noqa: E501


@functools.cache
def exercises() -> dict[str, exercise.Exercise]:
    return {name: e for topic in exercise.topics() for name, e in exercise.of_topic(topic).items()}


@functools.cache
def planted(topic: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"planted_{topic}", next(PLANTED.glob(f"*/{topic}.py"))
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def explained() -> dict[str, dict[str, str]]:
    """survivors.yaml: exercise → mutant → why it may survive."""
    return yaml.safe_load(SURVIVORS.read_text(encoding="utf-8"))


def mutants(name: str) -> dict[str, Any]:
    """The mutants of an exercise; under "" what they are made from, rebuilt in the same way."""
    if name in ANOTHER:
        made = mutate.mutants(
            getattr(planted(name.partition(".")[0]), ANOTHER[name]), ("planted_",)
        )
    else:
        made = mutate.mutants(
            exercises()[name].spec,
            ("course_utils.learn.exercises.", "course_utils.evaluation.advisor"),
        )
    whole, asked = made[""], exercises()[name].gradients
    for argument in asked:
        made[f"{argument} → {argument}.detach()"] = lambda argument=argument, **given: whole(
            **{**given, argument: given[argument].detach()}
        )
    return {**made, "all of it under no_grad": torch.no_grad()(whole)} if asked else made


def outcome(name: str, mutant: Any, every_seed: bool) -> str:
    """`value` or `error` if the check rejects it on all seeds, `survived` if on none, else
    `sometimes`.

    Without `every_seed`, one that is rejected on the first seed is not tried on the others.
    """
    raised: list[BaseException] = []

    def watched(**arguments: Any) -> Any:
        try:
            return mutant(**arguments)
        except BaseException as error:
            raised.append(error)
            raise

    passed = []
    for seed in SEEDS:
        passed.append(checking.judge(name, watched, seed=seed, seconds=SECONDS).passed)
        if len(passed) == 1:
            rejected = "error" if raised else "value"
        if not passed[0] and not every_seed:
            return rejected
    return "survived" if all(passed) else "sometimes" if any(passed) else rejected


def outcomes(name: str, every_seed: bool = True) -> dict[str, str]:
    """The outcome of each mutant.

    One that ends its process, or is stuck in it, counts as an error.
    """
    left, found = list(mutants(name)), {}
    while left:
        receive, send = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(
            target=_work, args=(name, left, every_seed, send)
        )
        child.start()
        send.close()
        try:
            while left and receive.poll(STUCK):
                found[left[0]] = receive.recv()
                left.pop(0)
        except EOFError:
            pass
        if left:
            child.kill()
            found[left.pop(0)] = "error"
        child.join()
    assert found.pop("") == "survived", f"{name}: what the mutants are made from does not pass"
    return found


def _work(name: str, keys: list[str], every_seed: bool, send: Any) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    found = mutants(name)
    for key in keys:
        send.send(outcome(name, found[key], every_seed))
    os._exit(0)


def survivors(found: dict[str, str]) -> dict[str, str]:
    return {key: what for key, what in found.items() if what in ("survived", "sometimes")}


def counts(name: str, found: dict[str, str], judge_planted: bool = True) -> list[int]:
    """Wrong rejected, wrong, right accepted, right, mutants killed, mutants, killed by an error,
    survivors explained.

    Without `judge_planted`, planted answers count as judged rightly: tests/learn/test_exercises.py
    says so.
    """
    answers = planted(name.partition(".")[0])
    wrong, right = (len(table[name]) for table in (answers.WRONG, answers.RIGHT))
    if judge_planted:

        def verdicts(function: Any) -> list[Any]:
            return [checking.judge(name, function, seed=seed) for seed in SEEDS]

        wrong = sum(
            all(not v.passed and v.mistake == m for v in verdicts(f))
            for f, m in answers.WRONG[name]
        )
        right = sum(all(v.passed for v in verdicts(f)) for f in answers.RIGHT[name])
    survived = set(survivors(found))
    return [
        wrong, len(answers.WRONG[name]), right, len(answers.RIGHT[name]),
        len(found) - len(survived), len(found), sum(what == "error" for what in found.values()),
        len(survived & set(explained().get(name, {}))),
    ]  # fmt: skip


def row(name: str, n: Iterable[int]) -> str:
    return "| {} | {}/{} | {}/{} | {}/{} | {} | {} |".format(name, *n)


def document(table: dict[str, list[int]]) -> str:
    lines = [row(name, n) for name, n in table.items()]
    lines.append(row(f"**all {len(table)}**", map(sum, zip(*table.values(), strict=True))))
    reasons = [
        f"\n{name}\n\n" + "\n".join(f"- `{key}`: {why}" for key, why in all_.items())
        for name, all_ in explained().items()
    ]
    return HEAD + "\n".join(lines) + "\n\n## Survivors\n" + "\n".join(reasons) + "\n"


def rows(text: str) -> dict[str, list[int]]:
    """The numbers of a document that has been made before."""
    lines = (
        line.removeprefix("| ").split(" | ", 1)
        for line in text.splitlines()
        if line.startswith("| ")
    )
    return {
        name: [int(n) for n in rest.replace("/", " ").replace("|", " ").split()]
        for name, rest in lines
        if name in exercises()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "names", nargs="*", help="exercises; all if none is given; the rows of others stay"
    )
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    # a process that is forked after others have worked in threads can wait for them for ever
    torch.set_num_threads(1)
    table, reasons, bad = {}, explained(), 0
    for name in options.names or exercises():
        found = outcomes(name)
        table[name] = counts(name, found)
        print(row(name, table[name]), flush=True)
        strange = {
            k: w
            for k, w in survivors(found).items()
            if w != "survived" or k not in reasons.get(name, {})
        }
        gone = reasons.get(name, {}).keys() - survivors(found).keys()
        for key, what in [
            *strange.items(),
            *((key, "explained, but does not survive") for key in gone),
        ]:
            print(f"    {what}: {key}", flush=True)
            bad += 1
    print(document(table).partition("\n| **all")[2].partition("\n")[0].join(["| **all", ""]))
    if options.write:
        old = rows(options.write.read_text(encoding="utf-8")) if options.names else {}
        whole = {
            name: table.get(name) or old[name]
            for name in exercises()
            if name in table or name in old
        }
        options.write.write_text(document(whole), encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
