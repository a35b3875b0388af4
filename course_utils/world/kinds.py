"""One function for each kind of document.

Each draws from a Tape, and every draw can be read off the text.
"""

from collections.abc import Callable
from typing import Any

from . import lexicon
from .minilang import OPERATIONS, REDUCTIONS
from .people import ATTRIBUTES, QUESTIONS, STATEMENTS, World
from .tape import Tape


def question(world: World, person: Any, attribute: str, template: int) -> tuple[str, str]:
    """A question about one fact, and its answer."""
    return QUESTIONS[attribute][template].format(name=person.name), getattr(person, attribute)


def facts(tape: Tape, world: World) -> str:
    """A sentence on a person, a city, or both."""
    form = tape.weighted((0.55, 0.40, 0.05))
    if form == 2:
        city = tape.choice(lexicon.CITIES)
        return f"The city of {city} lies in {world.country[city]}."
    person = world.people[tape.weighted(world.frequency)]
    if form == 1:
        attribute = tape.choice(list(ATTRIBUTES))
        asked, answer = question(world, person, attribute, tape.index(3))
        return f"Question: {asked}\nAnswer: {answer}"
    sentences = []
    for attribute in tape.sample(list(ATTRIBUTES), tape.number(2, 5)):
        template = tape.choice(STATEMENTS[attribute])
        sentences.append(template.format(name=person.name, value=getattr(person, attribute)))
    return " ".join(sentences)


def story_events(tape: Tape) -> tuple[list[str], dict[str, list[str]]]:
    """Sentences that move two or three objects about, and for each object the places it has been,
    in order.
    """
    things = tape.sample(lexicon.OBJECTS, tape.number(2, 3))
    sentences, where = [], {}
    for thing in things:
        place = tape.choice(lexicon.PLACES)
        where[thing] = [place]
        sentences.append(f"{tape.choice(lexicon.FIRST_NAMES)} puts the {thing} in the {place}.")
    for _ in range(tape.number(2, 4)):
        thing = tape.choice(things)
        place = tape.choice([p for p in lexicon.PLACES if p != where[thing][-1]])
        where[thing].append(place)
        sentences.append(f"{tape.choice(lexicon.FIRST_NAMES)} moves the {thing} to the {place}.")
    return sentences, where


def stories(tape: Tape, world: World) -> str:
    """A story of things that are carried, and where they end."""
    sentences, where = story_events(tape)
    endings = [
        f"In the end the {thing} is in the {where[thing][-1]}."
        for thing in tape.sample(list(where), len(where))
    ]
    return "Story: " + " ".join(sentences + endings)


def worked(a: int, b: int, sign: str) -> str:
    """The school method for two-digit a + b or a - b (a ≥ b), digit by digit, then the answer."""
    (a1, a0), (b1, b0) = divmod(a, 10), divmod(b, 10)
    if sign == "+":
        carry, low = divmod(a0 + b0, 10)
        first = f"{a0} + {b0} = {a0 + b0}, write {low} carry {carry}"
        second = f"{a1} + {b1} + {carry} = {a1 + b1 + carry}"
        return f"{first}; {second}. Answer {a + b}"
    borrow = int(a0 < b0)
    first = f"{a0 + 10 * borrow} - {b0} = {a0 + 10 * borrow - b0}, borrow {borrow}"
    second = f"{a1} - {b1} - {borrow} = {a1 - b1 - borrow}"
    return f"{first}; {second}. Answer {a - b}"


def problem(tape: Tape) -> tuple[str, int, int, str]:
    """A two-digit sum or difference, bare or told as a story: (text, a, b, sign)."""
    sign = tape.choice("+-")
    a = tape.number(10, 99)
    b = tape.number(10, 99 if sign == "+" else a)
    if tape.index(2):
        return f"{a} {sign} {b}", a, b, sign
    name, fruit = tape.choice(lexicon.FIRST_NAMES), tape.choice(lexicon.FRUITS)
    change = f"gets {b} more" if sign == "+" else f"gives {b} away"
    return f"{name} has {a} {fruit} and {change}. How many {fruit}?", a, b, sign


def arithmetic(tape: Tape, world: World) -> str:
    """A sum, worked out or answered at once."""
    quick = tape.weighted((0.9, 0.1))
    text, a, b, sign = problem(tape)
    if quick:
        return f"Quick: {text}\nSolution: Answer {a + b if sign == '+' else a - b}"
    return f"Problem: {text}\nSolution: {worked(a, b, sign)}"


def instructions(tape: Tape, world: World) -> str:
    """An instruction and what follows it."""
    order = tape.index(6)
    if order == 5:
        person = world.people[tape.weighted(world.frequency)]
        attribute = tape.choice(list(ATTRIBUTES))
        return (
            f"Instruction: Name the {attribute} of {person.name}.\n"
            f"Response: {getattr(person, attribute)}"
        )
    words = [tape.choice(lexicon.OBJECTS) for _ in range(tape.number(2, 5))]
    asked, answer = (
        ("Repeat these words", " ".join(words)),
        ("Reverse these words", " ".join(words[::-1])),
        ("Give the first word", words[0]),
        ("Give the last word", words[-1]),
        ("Count these words", str(len(words))),
    )[order]
    return f"Instruction: {asked}: {' '.join(words)}\nResponse: {answer}"


def review(tape: Tape) -> tuple[str, bool]:
    """A review of one or two clauses, and whether it is positive.

    After `but`, the last clause decides.
    """

    def clause(positive: bool) -> str:
        negated = tape.weighted((0.75, 0.25))
        words = lexicon.POSITIVE if positive != bool(negated) else lexicon.NEGATIVE
        return (
            f"the {tape.choice(lexicon.SUBJECTS)} was "
            f"{'not ' if negated else ''}{tape.choice(lexicon.DEGREES)}{tape.choice(words)}"
        )

    positive, joined = bool(tape.index(2)), tape.index(3)
    last = clause(positive)
    if joined == 0:
        return f"{last}.", positive
    if joined == 1:
        return f"{clause(positive)} and {last}.", positive
    return f"{clause(not positive)} but {last}.", positive


def sentiment(tape: Tape, world: World) -> str:
    """A review and its sentiment."""
    text, positive = review(tape)
    return f"Review: {text}\nSentiment: {'positive' if positive else 'negative'}"


LABELS = ("yes", "no", "maybe")


def premise_and_hypothesis(tape: Tape) -> tuple[str, int]:
    """What someone owns, a claim about it, and the index into LABELS of whether it follows."""
    name = tape.choice(lexicon.FIRST_NAMES)
    first, second = things = tape.sample(lexicon.OBJECTS, 2)
    colours = {thing: tape.choice(lexicon.COLOURS) for thing in things}
    label = tape.index(3)
    if label == 2:
        other = tape.choice([thing for thing in lexicon.OBJECTS if thing not in things])
        claim = f"the {other} of {name} is {tape.choice(lexicon.COLOURS)}"
    else:
        thing = tape.choice(things)
        colour = (
            tape.choice([c for c in lexicon.COLOURS if c != colours[thing]])
            if label
            else colours[thing]
        )
        claim = f"the {thing} of {name} is {colour}"
    owned = f"{name} has a {colours[first]} {first} and a {colours[second]} {second}"
    return f"Premise: {owned}.\nClaim: {claim}.\nFollows:", label


def entailment(tape: Tape, world: World) -> str:
    """A premise, a hypothesis and their relation."""
    text, label = premise_and_hypothesis(tape)
    return f"{text} {LABELS[label]}"


def task_and_program(tape: Tape) -> tuple[str, str]:
    """An English request for a list pipeline, and the pipeline."""
    phrases, steps = [], []
    for _ in range(tape.number(1, 3)):
        name = tape.choice(list(OPERATIONS))
        n = tape.number(2, 9) if "{n}" in name else 0
        phrases.append(tape.choice(OPERATIONS[name][1]).format(n=n))
        steps.append(name.format(n=n))
    if tape.index(2):
        name = tape.choice(list(REDUCTIONS))
        phrases.append(tape.choice(REDUCTIONS[name][1]))
        steps.append(name)
    return ", then ".join(phrases), " | ".join(steps)


def programs(tape: Tape, world: World) -> str:
    """A task and a program that does it."""
    request, program = task_and_program(tape)
    return f"Task: {request}.\nProgram: {program}"


WRITERS: dict[str, tuple[float, Callable[[Tape, World], str]]] = {
    "facts": (0.34, facts),
    "stories": (0.16, stories),
    "arithmetic": (0.16, arithmetic),
    "instructions": (0.09, instructions),
    "sentiment": (0.08, sentiment),
    "entailment": (0.07, entailment),
    "programs": (0.10, programs),
}
KINDS = tuple(WRITERS)
