"""Lab 5.2 against answers that want to be paid for a worse choice, and its last exercise, which has
no check of its own.
"""

import functools

import pytest
import torch
from up_to_n import load

from course_utils.errors import CompressionError
from course_utils.grade import judge, lab, sandbox
from course_utils.grade.submission import Submission
from course_utils.grade.warm import Zygote
from course_utils.learn import budgets
from course_utils.learn.checks import checking, exercise, trials

LIMITS = sandbox.Limits(cell=20, call=6, total=90)
GREEDY = """
def chosen_by_steps(damages, sizes, times, most_bytes, most_time):
    return {name: min(options, key=options.get) for name, options in sizes.items()}
"""
ATTACKS = {
    "says what it costs": """
class Cheap(dict):
    cost = damage = 0.0
    def __eq__(self, other): return True
    def __getitem__(self, name): return max(dict.__getitem__(self, name), 4)
def allocate(damages, sizes, times, most_bytes, most_time):
    return Cheap(chosen_by_steps(damages, sizes, times, most_bytes, most_time))
""",
    "a patched milp": """
import scipy.optimize
from course_utils.learn import budgets
def worse(*_, **__):
    class found: x = None
    return found
scipy.optimize.milp = worse
budgets.milp_damage = lambda **_: float("inf")
def allocate(damages, sizes, times, most_bytes, most_time):
    scipy.optimize.milp = worse
    return chosen_by_steps(damages, sizes, times, most_bytes, most_time)
""",
    "changes the tables": """
def allocate(damages, sizes, times, most_bytes, most_time):
    chosen = chosen_by_steps(damages, sizes, times, most_bytes, most_time)
    for table in (damages, sizes, times):
        for name in table:
            table[name] = dict.fromkeys(table[name], 0.0)
    return chosen
""",
    "never comes back": """
def allocate(damages, sizes, times, most_bytes, most_time):
    while len(damages) > 100:
        pass
    return chosen_by_steps(damages, sizes, times, most_bytes, most_time)
""",
    "refuses everything": """
def allocate(damages, sizes, times, most_bytes, most_time):
    raise ValueError("budget")
""",
    "bits beside the table": """
def allocate(damages, sizes, times, most_bytes, most_time):
    return {name: 0.0 for name in damages}
""",
}


@functools.cache
def opened():
    return load("lab-5.2-mixed-precision")


@pytest.fixture(scope="module")
def grade():
    with Zygote(opened().prelude, LIMITS, data=opened().data) as zygote:
        yield lambda answers: judge.grade(
            opened(), Submission(answers=answers), zygote.address, LIMITS, seed=3, kind="namespaces"
        )


OWN_ERROR = """
class Infeasible(ValueError):
    def __init__(self, what):
        super().__init__(f"the budget of {what} is too small")

def allocate(damages, sizes, times, most_bytes, most_time):
    best = {(0, 0): (0, {})}
    for name in damages:
        grown = {}
        for (a, b), (harm, chosen) in best.items():
            for bits, d in damages[name].items():
                at = round(a + sizes[name][bits], 7), round(b + times[name][bits], 7)
                fits = at[0] <= most_bytes * (1 + 1e-9) and at[1] <= most_time * (1 + 1e-9)
                if fits and (at not in grown or harm + d < grown[at][0]):
                    grown[at] = harm + d, {**chosen, name: bits}
        best = grown
    if not best:
        raise Infeasible("bytes or time")
    return min(best.values(), key=lambda entry: entry[0])[1]
"""


def test_an_own_kind_of_value_error_refuses_as_well(grade):
    cells = {c["grade_id"]: c for c in grade({"allocate": OWN_ERROR})["cells"]}
    assert cells["allocate-test"]["score"] == cells["allocate-test"]["points"], cells[
        "allocate-test"
    ]["message"]


@pytest.mark.parametrize("name", ATTACKS)
def test_a_worse_choice_is_not_paid(grade, name):
    cells = {c["grade_id"]: c for c in grade({"allocate": GREEDY + ATTACKS[name]})["cells"]}
    assert cells["allocate-test"]["score"] == 0 and cells["allocate-test"]["message"]


def test_the_optimum_is_that_of_milp_and_edges_are_drawn():
    """The specification against scipy on every kind of draw; both refuse the same ones."""
    item, refused = exercise.find("lab_budget.allocate"), 0
    for seed in range(24):
        given = trials.draw(item, seed)
        best = budgets.milp_damage(**given)
        if best == float("inf"):
            refused += 1
            with pytest.raises(ValueError, match="budget"):
                item.spec(**given)
        else:
            assert abs(budgets.total(given["damages"], item.spec(**given)) - best) <= 1e-6 * max(
                best, 1e-12
            )
    assert refused == 4


def test_a_refusal_is_an_answer_only_where_there_is_none_and_by_its_word():
    item = exercise.find("lab_budget.allocate")

    def refusing(how):
        def answer(**given):
            try:
                return item.spec(**given)
            except ValueError:
                return how()

        return answer

    def raises(error):
        raise error

    assert checking.judge(
        item.id, refusing(lambda: raises(CompressionError("budget=3: raise it"))), seed=1
    )
    for how in (
        lambda: None,
        dict,
        lambda: raises(ValueError("no")),
        lambda: raises(KeyError("budget")),
        lambda: raises(AssertionError("budget")),
    ):
        verdict = checking.judge(item.id, refusing(how), seed=1)
        assert verdict.attempted and not verdict, verdict.message
    assert (
        "must contain the word “budget”"
        in checking.judge(item.id, refusing(lambda: raises(ValueError("no"))), seed=1).message
    )


def worth(**functions):
    (test,) = [t for t in opened().tests if t.grade_id == "my-bits-test"]
    return lab.run_test(
        test.source, {**opened().namespace, **opened().reference, **functions}, test.points
    )


def over_bytes(run, next_tokens, errors, sizes, times, most_bytes, most_time):
    return dict.fromkeys(errors, 4)


def over_time(run, next_tokens, errors, sizes, times, most_bytes, most_time):
    return dict.fromkeys(errors, 2)


def test_text(run, next_tokens, errors, *_):
    return dict.fromkeys(errors, int(run({}, "test").shape[0] > 0) + 2)


test_text.__test__ = False


def too_many_runs(run, next_tokens, errors, *_):
    run.__self__.runs = budgets.RUNS
    run({})


def few_layers(run, next_tokens, errors, sizes, times, most_bytes, most_time):
    return dict.fromkeys(list(errors)[:20], 3)


def five_bits(run, next_tokens, errors, sizes, times, most_bytes, most_time):
    return {**dict.fromkeys(errors, 3), next(iter(errors)): 5}


def false_tables(run, next_tokens, errors, sizes, times, most_bytes, most_time):
    for table in (sizes, times):
        for name in table:
            table[name] = dict.fromkeys(table[name], 0.0)
    return dict.fromkeys(errors, 4)


RULES = [
    (over_bytes, "bytes: .*the budget is exceeded"),
    (over_time, "microseconds: .*the budget is exceeded"), (test_text, "only the calibration text"),
    (too_many_runs, "400 runs are allowed"), (few_layers, "all 35 of them need bits"),
    (five_bits, "a dict"), (false_tables, "the budget is exceeded"),
]  # fmt: skip


def test_bits_that_break_a_rule_are_told_which_and_poor_ones_get_the_rules_points():
    for choose, said in RULES:
        with pytest.raises(CompressionError, match=said):
            worth(my_bits=choose)
    allocate = opened().reference["allocate"]
    assert worth(my_bits=lambda run, tokens, errors, *limits: allocate(errors, *limits)) == 3, (
        "weight errors"
    )


def test_a_run_rounds_what_it_is_told_and_leaves_the_model_alone():
    space = opened().namespace
    target = budgets.Target(
        space["network"], space["tokenizer"], "bundled", seed=1, windows=2, context=16
    )
    plain = target.run({})
    assert plain.shape[:2] == (2, 16) and torch.allclose(
        plain.exp().sum(-1), torch.ones(2, 16), atol=1e-4
    )
    late, early = list(target.shapes)[-1], list(target.shapes)[0]
    one = target.run({late: 2})
    both = target.run({early: 3, late: 2})
    assert not torch.equal(one, plain) and not torch.equal(one, both)
    assert torch.equal(target.run({late: 2}), one) and torch.equal(target.run({}), plain)
    made = budgets.hqq.quantize(
        space["network"], bits=2, fit_scale=True, unbiased=True, ignore=[f"^(?!{late}$)"]
    )
    torch.testing.assert_close(
        budgets.by_window.predictions(made.model, target.ids), one, rtol=0, atol=1e-4
    )
