"""Who lives in the world and what is true of them."""

import functools
import random
from dataclasses import dataclass

from . import lexicon

ATTRIBUTES = {
    "city": lexicon.CITIES,
    "job": lexicon.JOBS,
    "pet": lexicon.PETS,
    "food": lexicon.FOODS,
    "colour": lexicon.COLOURS,
}
STATEMENTS = {
    "city": (
        "{name} lives in {value}.",
        "The home of {name} is {value}.",
        "{name} has a house in {value}.",
    ),
    "job": (
        "{name} works as a {value}.",
        "The job of {name} is {value}.",
        "{name} is a {value} by trade.",
    ),
    "pet": (
        "{name} has a {value} as a pet.",
        "The pet of {name} is a {value}.",
        "{name} keeps a {value}.",
    ),
    "food": (
        "{name} likes to eat {value}.",
        "The favourite food of {name} is {value}.",
        "{name} orders {value}.",
    ),
    "colour": (
        "{name} paints everything {value}.",
        "The favourite colour of {name} is {value}.",
        "{name} wears {value}.",
    ),
}
QUESTIONS = {
    "city": (
        "Where does {name} live?",
        "What is the home of {name}?",
        "In which city is the house of {name}?",
    ),
    "job": (
        "What does {name} work as?",
        "What is the job of {name}?",
        "Which trade does {name} have?",
    ),
    "pet": (
        "Which pet does {name} have?",
        "What is the pet of {name}?",
        "Which animal does {name} keep?",
    ),
    "food": (
        "What does {name} like to eat?",
        "What is the favourite food of {name}?",
        "What does {name} order?",
    ),
    "colour": (
        "What colour does {name} paint with?",
        "What is the favourite colour of {name}?",
        "What colour does {name} wear?",
    ),
}


@dataclass(frozen=True)
class Person:
    """Somebody of the world, with what is to be known of them."""

    name: str
    city: str
    job: str
    pet: str
    food: str
    colour: str


class World:
    """`n_people` people with one value for each attribute, drawn uniformly from `seed`.

    `frequency[i]` is how often person i is talked about: proportional to (i + 10)^-0.6, so that
    some facts are seen far more often in training than others. `country[city]` says where each city
    lies.
    """

    def __init__(self, seed: int = 0, n_people: int = 300) -> None:
        if not 1 <= n_people <= len(lexicon.FIRST_NAMES) * len(lexicon.LAST_NAMES):
            raise ValueError(
                f"n_people={n_people}: choose between 1 and 1600, the number of distinct names."
            )
        rng = random.Random(f"world-{seed}")
        names = rng.sample(
            [f"{a} {b}" for a in lexicon.FIRST_NAMES for b in lexicon.LAST_NAMES], n_people
        )
        self.seed = seed
        self.people = [
            Person(name, **{k: rng.choice(v) for k, v in ATTRIBUTES.items()}) for name in names
        ]
        weights = [(i + 10) ** -0.6 for i in range(n_people)]
        self.frequency = [w / sum(weights) for w in weights]
        self.country = {city: rng.choice(lexicon.COUNTRIES) for city in lexicon.CITIES}

    def facts(self) -> list[tuple[Person, str]]:
        """Every (person, attribute) pair: one fact each."""
        return [(person, attribute) for person in self.people for attribute in ATTRIBUTES]


@functools.cache
def default_world() -> World:
    """The world the bundled model was trained on."""
    return World(seed=0)
