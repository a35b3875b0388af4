"""check() says what is wrong with a function, and lives through anything that a function does."""

import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.learn import check
from course_utils.learn.checks import checking, exercise
from course_utils.learn.page import events

from .conftest import PAIR, ROWS, scaled_rows


def good(w):
    return 7 * w / w.abs().max(dim=1, keepdim=True).values


def run(function, name="toy.rows", **options):
    return check(name, function, show=False, **options)


def rejected(function, *words, name="toy.rows", mistake=None):
    verdict = run(function, name)
    assert (
        verdict.attempted and not verdict.passed and not verdict and verdict.mistake == mistake
    ), verdict
    assert verdict.message.startswith("Not yet."), verdict.message
    for word in words:
        assert word in verdict.message, verdict.message
    return verdict


def test_judge_neither_shows_nor_records_and_takes_another_limit(capsys):
    def slow(w):
        until = time.thread_time() + 0.2
        while time.thread_time() < until:
            sum(range(1000))
        return good(w)

    assert checking.judge("toy.rows", good, seed=4) == check("toy.rows", good, seed=4, show=False)
    assert len(list(events.events())) == 1, "that of the check"
    assert checking.judge("toy.rows", slow, seed=4, seconds=1e6)
    assert "0.1 seconds" in checking.judge("toy.rows", slow, seed=4, seconds=0.1).message
    assert capsys.readouterr().out == "" and len(list(events.events())) == 1
    with pytest.raises(CompressionError, match="does not exist"):
        checking.judge("toy.columns", good)


def test_a_right_answer_passes_and_says_so(capsys):
    verdict = check("toy.rows", good)
    assert verdict and verdict.attempted and verdict.mistake is None
    assert verdict.message.startswith("Right.")
    assert capsys.readouterr().out.startswith("Right. Scale each row")


@pytest.mark.parametrize("extra", [0.0, 0.9e-5, -0.9e-5])
def test_the_tolerance_is_relative_to_the_largest_magnitude(extra):
    assert run(lambda w: good(w) + 7 * extra)
    assert not run(lambda w: good(w) + 7 * 1.2e-5)


def test_named_mistakes_are_named():
    rejected(
        lambda w: 7 * w / w.abs().max(), "One scale for the whole tensor.", mistake="per_tensor"
    )
    rejected(
        lambda w: good(w) * (w.abs().amax(1, keepdim=True) / 7) ** 2,
        "multiplied",
        mistake="upside_down",
    )


def test_the_first_mistake_that_matches_every_trial_is_named():
    calls = []

    def once_per_tensor(w):
        calls.append(w)
        return 7 * w / w.abs().max() if len(calls) == 1 else 8 * w

    assert run(once_per_tensor).mistake == "small", "a mistake must explain all trials"
    same = {"b_second": ROWS.mistakes["per_tensor"], "a_first": ROWS.mistakes["per_tensor"]}
    exercise.register(exercise.Exercise(id="toy.pair", inputs=ROWS.inputs, spec=scaled_rows))

    both = exercise.Exercise(id="toy.rows", inputs=ROWS.inputs, spec=scaled_rows, mistakes=same)
    text = {
        "title": "t",
        "reread": "r",
        "mistakes": {"b_second": "b", "a_first": "a"},
        "properties": {},
    }
    assert checking._judge(both, text, lambda w: 7 * w / w.abs().max(), 0).mistake == "b_second"


def test_a_property_is_named():
    rejected(lambda w: good(w) * 2, "Something is larger than 7.", mistake="small")


def stub_raises(w):
    raise NotImplementedError


@pytest.mark.parametrize(
    "stub",
    [stub_raises, lambda w: None, lambda w: ..., None, ...],
    ids=["raises", "None", "dots", "no function", "ellipsis"],
)
def test_a_stub_is_not_attempted(stub):
    verdict = run(stub)
    assert (
        not verdict.attempted
        and not verdict.passed
        and verdict.message.startswith("Not attempted yet.")
    )
    assert not list(events.events()), "an untouched stub leaves no trace"


def raises_division(w):
    one = 1
    return w * (one / 0)


class Sour(Exception):
    def __str__(self):
        raise RuntimeError("no text either")


def raises_sour(w):
    raise Sour


def interrupts(w):
    raise KeyboardInterrupt


def test_exceptions_become_messages_with_type_text_and_line():
    line = raises_division.__code__.co_firstlineno + 2
    rejected(
        raises_division,
        "ZeroDivisionError",
        "division by zero",
        f"line {line} ",
        "return w * (one / 0)",
    )
    rejected(lambda w: sys.exit(7), "SystemExit", "7")
    rejected(interrupts, "KeyboardInterrupt")
    rejected(raises_sour, "Sour")
    rejected(lambda w: w @ w, "RuntimeError", "shapes cannot be multiplied")


def test_an_error_after_the_first_trial_is_a_wrong_answer():
    calls = []

    def later(w):
        calls.append(1)
        if len(calls) > 1:
            raise NotImplementedError("the rest")
        return good(w)

    rejected(later, "NotImplementedError", "the rest")


@pytest.mark.parametrize("catching", [False, True])
def test_an_infinite_loop_is_stopped(catching):
    def loop(w):
        while True:
            try:
                sum(range(100))
            except BaseException:
                if not catching:
                    raise

    before, began = signal.getsignal(signal.SIGALRM), time.monotonic()
    rejected(loop, "1 seconds")
    assert time.monotonic() - began < 20
    assert signal.getsignal(signal.SIGALRM) is before


def test_only_the_work_of_the_function_counts_unless_it_waits_long():
    def waits(seconds):
        def answer(w):
            time.sleep(seconds)
            return good(w)

        return checking.judge("toy.rows", answer, seed=4, seconds=0.5)

    assert waits(0.7 / exercise.find("toy.rows").trials), "waiting is no work"
    assert "did not come back" in waits(60).message


def test_someone_elses_alarm_goes_on():
    """pytest-timeout has one: a test that hangs after a check would hang for ever."""
    before = signal.setitimer(signal.ITIMER_REAL, 500, 7)
    try:
        run(good)
        left, interval = signal.getitimer(signal.ITIMER_REAL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
    assert 0 < left <= 500 and interval == 7


def test_a_check_in_another_thread_works_without_the_clock():
    answers = []
    thread = threading.Thread(target=lambda: answers.append(run(good)))
    thread.start()
    thread.join()
    assert answers and answers[0].passed


@pytest.mark.parametrize("value", [5, "text", [good]])
def test_what_is_not_a_function(value):
    rejected(value, "without parentheses")


def test_a_signature_that_does_not_fit():
    rejected(lambda weight: weight, "(weight)", "could not be called")
    rejected(lambda: 1, "could not be called")
    assert run(lambda w, factor=7: factor * w / w.abs().amax(1, keepdim=True)), (
        "extra arguments may have defaults"
    )


def test_changing_the_input_is_told_but_does_not_fail():
    def in_place(w):
        w /= w.abs().max(dim=1, keepdim=True).values / 7
        return w

    verdict = run(in_place)
    assert verdict and "in place" in verdict.message and "`w`" in verdict.message
    assert "in place" not in run(good).message

    def wrong_in_place(w):
        return w.zero_()

    rejected(wrong_in_place, "in place")


def test_a_specification_that_changes_its_inputs_does_not_mislead():
    def careless(w):
        w *= 2
        return w

    exercise.register(exercise.Exercise(id="toy.pair", inputs=ROWS.inputs, spec=careless))
    assert run(lambda w: w + w, "toy.pair") and not run(lambda w: 4 * w, "toy.pair")


def test_a_returned_buffer_that_is_used_again_is_compared_as_it_was():
    buffer = torch.zeros(3, 4, dtype=torch.float64)

    def reuse(w):
        return buffer.copy_(good(w))

    assert run(reuse)


def test_each_wrong_kind_has_its_own_sentence():
    rejected(lambda w: good(w).T, "Shape", "(3, 4)", "(4, 3)")
    rejected(lambda w: good(w).round().int(), "Kind of numbers", "torch.int32", "floating-point")
    rejected(lambda w: good(w).bool(), "Kind of numbers", "truth values")
    rejected(lambda w: {"w": good(w)}, "Type", "a dictionary", "a tensor of shape (3, 4)")
    rejected(lambda w: [good(w)[0], good(w)[1, :2]], "Type", "a list of 2 values")
    assert (
        run(lambda w: good(w).numpy())
        and run(lambda w: good(w).tolist())
        and run(lambda w: list(good(w)))
    )
    rejected(lambda w: "7", "Type", "a text")
    rejected(lambda w: 7.0, "Type", "a number")
    rejected(lambda w: good(w).where(w != w[1, 2], torch.nan), "`result[1, 2]` is NaN", "1 of 12")
    rejected(
        lambda w: good(w).where(w != w[2, 3], torch.inf),
        "`result[2, 3]`",
        "got inf",
        mistake="small",
    )


def test_the_first_different_element_and_both_numbers():
    verdict = run(lambda w: good(w) + torch.eye(3, 4) * 0.5, seed=3)
    right = scaled_rows(ROWS.inputs(torch.Generator().manual_seed(3))["w"])[0, 0].item()
    assert (
        f"`result[0, 0]`: expected {right:.6g}, got {right + 0.5:.6g}. 3 of 12" in verdict.message
    ), verdict.message


def test_the_inputs_of_the_failing_trial_are_shown():
    verdict = run(lambda w: good(w) + torch.eye(3, 4) * 0.5, seed=3)
    w = ROWS.inputs(torch.Generator().manual_seed(3))["w"]
    assert f"w = [[{w[0, 0]:.6g}, " in verdict.message
    calls = []

    def third_time_wrong(w):
        calls.append(w)
        return good(w) * (1 + (len(calls) == 3))

    said = run(third_time_wrong, seed=3).message
    assert f"w = [[{ROWS.inputs(torch.Generator().manual_seed(5))['w'][0, 0]:.6g}, " in said, (
        "those of the trial that failed"
    )
    assert (
        "w = [[" in run(raises_division).message
        and "n = " in run(lambda x, n: (x, [1, "a", n > 3]), "toy.pair").message
    )
    large = exercise.Exercise(
        id="toy.pair",
        inputs=lambda rng: {"w": torch.randn(30, 40, generator=rng)},
        spec=lambda w: w,
    )
    exercise.register(large)
    assert "tensor of shape (30, 40): " in run(lambda w: w + 1, "toy.pair").message
    assert len(run(lambda w: w + 1, "toy.pair").message) < 1500


def test_none_is_an_answer_beside_others_and_where_it_is_right():
    answers = iter([None, 1.0, 2.0])
    exercise.register(
        exercise.Exercise(
            id="toy.pair", inputs=PAIR.inputs, spec=lambda x, n: None if n % 2 else float(n)
        )
    )
    assert run(lambda x, n: None if n % 2 else n, "toy.pair", seed=1)
    verdict = run(lambda x, n: next(answers), "toy.pair", seed=1)
    assert verdict.attempted and not verdict.passed
    assert not run(lambda x, n: None, "toy.pair", seed=1).attempted
    exercise.register(exercise.Exercise(id="toy.pair", inputs=PAIR.inputs, spec=lambda x, n: None))
    assert run(lambda x, n: None, "toy.pair"), "where None is right it is right"


def softplus(x, n):
    return (1 + x.exp()).log().sum()


LOSS = exercise.Exercise(
    id="toy.pair",
    inputs=lambda rng: {
        "x": torch.randn(5, generator=rng, dtype=torch.float64).requires_grad_(True),
        "n": 1,
    },
    spec=softplus,
    mistakes={
        "half": lambda x, n: softplus(x.detach() / 2 + x / 2, n),
        "small": lambda x, n: softplus(x, n) / 2,
    },
    gradients=("x",),
)


def test_gradients_are_compared_where_a_loss_is_trained(monkeypatch):
    exercise.register(LOSS)
    text = {
        "title": "t",
        "reread": "r",
        "mistakes": {"half": "Only half of it.", "small": "s"},
        "properties": {},
    }
    monkeypatch.setattr(checking.texts, "exercise", lambda *a, **k: text)
    assert run(lambda x, n: torch.nn.functional.softplus(x).sum(), "toy.pair")
    assert run(lambda x, n: torch.nn.functional.softplus(x.float()).sum(), "toy.pair")
    rejected(
        lambda x, n: softplus(x.detach(), n), "gradient of x", "The value is right", name="toy.pair"
    )
    rejected(lambda x, n: float(softplus(x, n)), "gradient of x", name="toy.pair")
    rejected(
        lambda x, n: softplus(x / 2 + x.detach() / 2, n),
        "Only half",
        name="toy.pair",
        mistake="half",
    )
    rejected(
        lambda x, n: softplus(x, n) + 0 * (x - x).abs().sqrt().sum(), "is NaN", name="toy.pair"
    )
    rejected(torch.no_grad()(lambda x, n: softplus(x, n)), "gradient of x", name="toy.pair")
    with torch.no_grad():
        assert run(lambda x, n: softplus(x, n), "toy.pair"), (
            "where a check is called does not matter"
        )


def test_constants_and_remembered_answers_fail():
    remembered = scaled_rows(ROWS.inputs(torch.Generator().manual_seed(0))["w"])
    assert not run(lambda w: remembered, seed=0)
    assert not run(lambda w: remembered)


def test_inputs_are_fresh_unless_a_seed_is_given():
    seen = []

    def spy(w):
        seen.append(w.clone())
        return good(w)

    for options in ({}, {}, {"seed": 1}, {"seed": 1}):
        assert run(spy, **options)
    first, second, third, fourth = (torch.stack(seen[i : i + 3]) for i in range(0, 12, 3))
    assert not torch.equal(first, second) and torch.equal(third, fourth)
    assert not torch.equal(first[0], first[1])
    torch.manual_seed(0)
    run(spy)
    torch.manual_seed(0)
    run(spy)
    assert not torch.equal(seen[-1], seen[-4]), "the learner's seed does not choose the inputs"


class Agreeable:
    """Equal to everything, and any comparison with it is true."""

    shape, dtype, layout = torch.Size([3, 4]), torch.float64, torch.strided

    def __eq__(self, other):
        return True

    __hash__ = None

    def __abs__(self):
        return self

    __le__ = __lt__ = __ge__ = __gt__ = __eq__

    def __getattr__(self, name):
        return lambda *arguments, **keywords: self


class AgreeableTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), keywords=None):
        return True


class AgreeableFloat(float):
    def __eq__(self, other):
        return True

    __hash__ = None

    def __sub__(self, other):
        return 0.0


class AgreeableList(list):
    def __len__(self):
        return 3

    def __iter__(self):
        return iter(())


def test_an_object_with_its_own_equality_is_a_wrong_type():
    rejected(lambda w: Agreeable(), "Type", "an object of type Agreeable")
    rejected(lambda w: torch.zeros(3, 4).as_subclass(AgreeableTensor), "Type")
    rejected(lambda x, n: (AgreeableFloat(1.0), [n * 2, "odd", True]), "Type", name="toy.pair")
    rejected(lambda x, n: (x.sum(), AgreeableList()), name="toy.pair")
    rejected(lambda x, n: AgreeableList([1, 2]), name="toy.pair")


def test_tuples_lists_numbers_and_texts():
    def right(x, n):
        return [float(x.double().sum()), (2 * n, ("even", "odd")[n % 2], bool(n > 3))]

    assert run(right, "toy.pair"), run(right, "toy.pair").message
    rejected(
        lambda x, n: (x.sum(), [n * 2, "neither", n > 3]),
        "result[1][1]",
        "'neither'",
        name="toy.pair",
    )
    rejected(lambda x, n: (x.sum(), [n * 2 + 1, "odd", n > 3]), "result[1][0]", name="toy.pair")
    rejected(lambda x, n: (x.sum(), [n * 2]), "Length of result[1]", "3", name="toy.pair")
    rejected(
        lambda x, n: (x.sum(), [n * 2, ("even", "odd")[n % 2], 1]), "result[1][2]", name="toy.pair"
    )
    rejected(lambda x, n: x.sum(), "a tuple of 2 values", name="toy.pair")


def test_what_the_learner_prints_is_shown(capsys):
    def loud(w):
        print("I am here")
        return good(w)

    assert run(loud)
    assert capsys.readouterr().out.count("I am here") == 3


def test_results_are_recorded():
    run(good)
    run(lambda w: 7 * w / w.abs().max())
    kept = [(e["id"], e["passed"], e["mistake"]) for e in events.events()]
    assert kept == [("toy.rows", True, None), ("toy.rows", False, "per_tensor")]


def test_unknown_ids_are_told_with_the_closest():
    with pytest.raises(CompressionError, match=r"'toy\.row' does not exist.*toy\.rows"):
        run(good, "toy.row")
    with pytest.raises(CompressionError, match="topic.name"):
        run(good, "rows")
    with pytest.raises(CompressionError, match="topics with exercises.*start"):
        run(good, "nowhere.at_all")


def test_missing_texts_are_told(toy):
    exercise.register(exercise.Exercise(id="toy.other", inputs=ROWS.inputs, spec=scaled_rows))
    with pytest.raises(CompressionError, match="'toy.other' has no texts"):
        run(good, "toy.other")


def test_importing_the_package_does_not_load_what_it_may_not_need():
    code = (
        "import sys, course_utils.learn; print([m for m in ('torch', 'matplotlib', "
        "'ipywidgets') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"
