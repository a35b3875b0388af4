"""The bundled world: documents with known probability and questions with known answers, all from a
seed.
"""

from .documents import SPLITS, Document, documents, split_of
from .entropy import entropy_floor
from .kinds import KINDS
from .minilang import run_program
from .people import ATTRIBUTES, Person, World, default_world
from .tasks import CHANCE, CHOICE_TASKS, GENERATIVE_TASKS, Choice, Generate, Item, items

__all__ = [
    "ATTRIBUTES", "CHANCE", "CHOICE_TASKS", "Choice", "Document", "GENERATIVE_TASKS", "Generate",
    "Item", "KINDS", "Person", "SPLITS", "World", "default_world", "documents", "entropy_floor",
    "items", "run_program", "split_of",
]  # fmt: skip
