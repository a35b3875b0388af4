import itertools
import math
import random

import pytest

from course_utils.world import (
    CHANCE,
    KINDS,
    Choice,
    World,
    default_world,
    documents,
    entropy_floor,
    items,
    lexicon,
    run_program,
    split_of,
)  # fmt: skip
from course_utils.world.documents import write
from course_utils.world.kinds import WRITERS, worked
from course_utils.world.minilang import OPERATIONS, REDUCTIONS, may_begin
from course_utils.world.tape import Tape


class EveryBranch(Tape):
    """Follows a given prefix of choices, then always the first option, noting how many options each
    had.
    """

    def __init__(self, prefix):
        super().__init__(random.Random(0))
        self.prefix, self.sizes = prefix, []

    def _take(self, n):
        i = self.prefix[len(self.log)] if len(self.log) < len(self.prefix) else 0
        self.log.append(i)
        self.sizes.append(n)
        return i

    def index(self, n):
        self.nats += math.log(n)
        return self._take(n)

    def weighted(self, weights):
        i = self._take(len(weights))
        self.nats -= math.log(weights[i])
        return i


def every_document(writer):
    """All (text, probability) pairs of a kind, by walking the tree of choices."""
    prefix = []
    while prefix is not None:
        tape = EveryBranch(prefix)
        text = writer(tape, default_world())
        yield text, math.exp(-tape.nats)
        choices = list(zip(tape.log, tape.sizes, strict=True))
        while choices and choices[-1][0] + 1 == choices[-1][1]:
            choices.pop()
        prefix = [i for i, _ in choices[:-1]] + [choices[-1][0] + 1] if choices else None


def test_arithmetic_probabilities_are_exact():
    """Walk a smaller world of names and fruits: every text once,
    and the probabilities sum to one.
    """
    default_world()  # built with all the names
    names, fruits = lexicon.FIRST_NAMES[:], lexicon.FRUITS[:]
    lexicon.FIRST_NAMES[2:], lexicon.FRUITS[2:] = [], []
    try:
        found = list(every_document(WRITERS["arithmetic"][1]))
    finally:
        lexicon.FIRST_NAMES[:], lexicon.FRUITS[:] = names, fruits
    assert len({text for text, _ in found}) == len(found)
    assert math.fsum(p for _, p in found) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_one_text_has_one_sequence_of_choices(kind):
    rng, seen = random.Random(1), {}
    for _ in range(20_000):
        document, tape = write(kind, rng, default_world())
        assert seen.setdefault(document.text, tape.log) == tape.log
        assert document.nats == pytest.approx(tape.nats)


def test_splits_share_no_document_and_seeds_repeat():
    texts = {
        split: {d.text for d in itertools.islice(documents(split), 4000)}
        for split in ("train", "validation", "test")
    }
    assert not texts["train"] & texts["validation"]
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & texts["test"]
    first = list(itertools.islice(documents("train", seed=3), 50))
    assert first == list(itertools.islice(documents("train", seed=3), 50))
    assert first != list(itertools.islice(documents("train", seed=4), 50))


def test_split_sizes():
    counts = {"train": 0, "validation": 0, "test": 0}
    for i in range(10_000):
        counts[split_of(f"text {i}")] += 1
    assert 0.78 < counts["train"] / 10_000 < 0.85 and min(counts.values()) > 800


def test_worked_arithmetic_is_true():
    for a, b in itertools.product(range(10, 100), repeat=2):
        assert worked(a, b, "+").endswith(f" {a + b}")
        for step in worked(a, b, "+").replace(". Answer", ";").split(";")[:2]:
            left, _, right = step.split(",")[0].partition("=")
            assert eval(left) == int(right)  # noqa: S307 - digits and + only
        if a >= b:
            assert worked(a, b, "-").endswith(f" {a - b}")


@pytest.mark.parametrize("task", CHANCE)
def test_items_are_distinct_answerable_and_of_their_split(task):
    found = items(task, n=100, split="validation", seed=5)
    assert len({i.prompt for i in found}) == 100
    for item in found:
        if isinstance(item, Choice):
            assert len(set(item.choices)) == len(item.choices)
            assert 1 / len(item.choices) == pytest.approx(CHANCE[task])
            assert all(c.startswith(" ") for c in item.choices)
        else:
            assert item.is_correct(item.target)
            assert split_of(item.prompt + item.target) == "validation"
            assert not item.is_correct("") and not item.is_correct(" nonsense")


def test_facts_are_true_and_answers_uniform():
    world = default_world()
    by_name = {p.name: p for p in world.people}
    positions = [0] * 4
    for item in items("facts", n=300):
        positions[item.answer] += 1
        name = next(n for n in by_name if n in item.prompt)
        person = by_name[name]
        assert item.choices[item.answer].strip() in (
            person.city,
            person.job,
            person.pet,
            person.food,
            person.colour,
        )
    assert min(positions) > 45


def test_story_answer_is_the_last_place():
    for item in items("stories", n=200):
        thing = item.prompt.split("In the end the ")[1].split()[0]
        mentions = [
            s for s in item.prompt.split(". ") if f"the {thing} " in s and " the end " not in s
        ]
        assert mentions[-1].endswith(item.choices[item.answer].strip())


def test_programs_run_as_their_english_says():
    v = [5, -2, 8, 3, 8]
    assert run_program("even | add 3 | sum", v) == (-2 + 3) + (8 + 3) + (8 + 3)
    assert run_program("above 3 | sort | take 2", v) == [5, 8]
    assert run_program("below 5 | reverse", v) == [3, -2]
    assert run_program("odd | mul 2 | max", v) == 10
    assert run_program("square | drop 3 | min", v) == 9
    assert run_program("sub 5 | count", v) == 5
    assert run_program("above 9 | max", v) == 0
    assert (
        len(OPERATIONS) * 2 == len({p for _, ps in OPERATIONS.values() for p in ps})
        and len(REDUCTIONS) == 4
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [("sum | sort", "reduction must be the last"), ("explode", "unknown operation"),
     ("", "unknown operation"),
     ("add x", "unknown operation"), ("add 99999", "unknown operation"),
     ("mul 9999 | square | square", "grew beyond"),
     ("__import__('os')", "unknown operation"), ("sum 3", "unknown operation")],
)  # fmt: skip
def test_malformed_programs_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        run_program(source, [9, 7])


def test_bad_arguments_name_the_choices():
    with pytest.raises(ValueError, match="train, validation, test"):
        documents("dev")
    with pytest.raises(ValueError, match="facts"):
        documents("train", kinds=["poems"])
    with pytest.raises(ValueError, match="stories"):
        items("poems")
    with pytest.raises(ValueError, match="ask for fewer"):
        items("facts", n=100_000)
    with pytest.raises(ValueError, match="1600"):
        World(n_people=0)


def test_entropy_floor_of_questions_matches_a_hand_count():
    """A bare sum: two forms of quick/worked, sign, two ways to ask, 90 × 90 operands."""
    floor = entropy_floor(kinds=["arithmetic"], n=4000)["arithmetic"]
    quick = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    operands = (
        math.log(90) + 0.5 * math.log(90) + 0.5 * sum(math.log(a - 9) for a in range(10, 100)) / 90
    )
    expected = quick + 2 * math.log(2) + operands + 0.5 * math.log(40 * 8)
    assert floor == pytest.approx(expected, abs=0.2)


def test_a_text_that_begins_no_program_is_known():
    """Against the interpreter: every beginning of what it takes is taken; what is not taken cannot
    be mended by going on.
    """
    rng = random.Random(0)

    def runs(text):
        try:
            return run_program(text, []) is not None
        except ValueError:
            return False

    def program():
        parts = [
            rng.choice(list(OPERATIONS)).replace("{n}", str(rng.randint(0, 9999)))
            for _ in range(rng.randint(1, 4))
        ]
        parts += rng.sample(list(REDUCTIONS), rng.randint(0, 1))
        return rng.choice([" | ", "|", "  |\t"]).join(parts)

    taken = refused = 0
    for _ in range(4000):
        text = list(program())
        for _ in range(rng.randint(0, 2)):
            text[rng.randrange(len(text))] = rng.choice("abdeimnorstuvwx |0123{}\u3000٣")
        text = "".join(text)
        if runs(text):
            assert all(may_begin(text[:i]) for i in range(len(text) + 1))
            taken += 1
        elif not may_begin(text):
            assert not runs(text + program()) and not runs(f"{text} | {program()}")
            refused += 1
    assert taken > 1000 and refused > 1000
    for text in ("sum | ", "First", "keep ", "add 12345", "add 3 4", "even even", "|", "ad "):
        assert not may_begin(text)
    for text in ("", " ", "a", "add", "add ", "add 3 ", "add 3 |", "s", "cou"):
        assert may_begin(text)
