"""A lab as the grader sees it, from its solution: what is run before, the answer cells, the tests
with their points.
"""

import ast
import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from course_utils.errors import CompressionError

from . import release
from .cells import plain


@dataclass(frozen=True)
class Cell:
    """An answer cell or a test cell.

    `points` is None where nothing is counted; `manual` is graded by a person.
    """

    grade_id: str
    cell_id: str
    source: str  # of the solution
    released: str  # what the learner was given
    points: float | None
    code: bool
    names: tuple[str, ...] = ()  # what an answer cell defines
    # the answers that a test is about: those since the test before, else the last one
    of: tuple[str, ...] = ()

    @property
    def manual(self) -> bool:
        """Whether a person grades this cell."""
        return self.points is not None and self.released != "" and not self.code


@dataclass(frozen=True)
class Lab:
    """A lab as the grader reads it: what is trusted, what learners answer, and what tests it."""

    name: str
    prelude: tuple[tuple[str, str], ...]  # (cell, source): trusted, run on both sides
    answers: tuple[Cell, ...]
    tests: tuple[Cell, ...]
    released: str  # the notebook that learners get
    digest: str
    folder: Path

    @property
    def points(self) -> float:
        """The most that can be reached."""
        return sum(c.points or 0 for c in (*self.answers, *self.tests))

    @functools.cached_property
    def namespace(self) -> dict[str, Any]:
        """What the tests see besides the learner's functions: the lab's own cells, run here."""
        namespace: dict[str, Any] = {
            "__name__": "__main__",
            "display": lambda *_objects, **_settings: None,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            for cell, source in self.prelude:
                try:
                    exec(compile(plain(source), f"[{cell}]", "exec"), namespace)
                except Exception as error:
                    raise CompressionError(
                        f"{self.name}: its cell {cell!r} does not run ({type(error).__name__}: "
                        f"{error})."
                    ) from error
        return namespace

    @functools.cached_property
    def reference(self) -> dict[str, Any]:
        """The functions of the solution, run here."""
        namespace = dict(self.namespace)
        for answer in self.answers:
            if answer.code:
                exec(compile(plain(answer.source), f"[{answer.grade_id}]", "exec"), namespace)
        return {
            name: namespace[name]
            for answer in self.answers
            for name in answer.names
            if callable(namespace.get(name))
        }

    @functools.cached_property
    def texts(self) -> frozenset[str]:
        """The cells that are not a learner's: as they were released, and those of the solution."""
        own = [
            text for cell in (*self.answers, *self.tests) for text in (cell.source, cell.released)
        ]
        given = ["".join(cell["source"]) for cell in json.loads(self.released)["cells"]]
        return frozenset(
            text.strip() for text in (*own, *given, *(source for _, source in self.prelude), "")
        )

    @property
    def compiles(self) -> bool:
        """Whether its tests compile what a learner wrote: they use `course_utils.learn.native`."""
        return any("native" in used(test.source) for test in self.tests)

    @property
    def data(self) -> Path | None:
        """The lab's folder if it holds more than notebooks."""
        return (
            self.folder
            if any(p.suffix != ".ipynb" for p in self.folder.rglob("*") if p.is_file())
            else None
        )


def load(root: Path, name: str) -> Lab:
    """The lab `solutions/name`.

    Raises CompressionError if there is none, or if it cannot be graded.
    """
    path = root / "solutions" / name / f"{name}.ipynb"
    if not path.is_file():
        known = ", ".join(sorted(p.name for p in (root / "solutions").glob("*") if p.is_dir()))
        raise CompressionError(
            f"lab {name!r}: {path} is missing; labs here are: {known or 'none'}."
        )
    text = release.release(path)
    solution, released = (
        release.read(path),
        {c.id: c for c in nbformat.reads(text, as_version=4).cells},
    )
    answers: list[Cell] = []
    tests: list[Cell] = []
    before, later = [], []
    fresh: list[str] = []
    for cell in solution.cells:
        meta, code = cell.metadata.get("nbgrader") or {}, cell.cell_type == "code"
        given = released[cell.id].source
        points = float(meta["points"]) if meta.get("grade") else None
        if meta.get("solution"):
            names = tuple(defined(cell.source)) if code else ()
            answers.append(Cell(meta["grade_id"], cell.id, cell.source, given, points, code, names))
            fresh += [meta["grade_id"]] if code else []
        elif meta.get("grade") and code:
            about = tuple(fresh) or (tests[-1].of if tests else ())
            tests.append(
                Cell(meta["grade_id"], cell.id, cell.source, given, points, True, of=about)
            )
            fresh = []
        elif code and not any(a.code for a in answers):
            fast = "\nfast = True" if "parameters" in cell.metadata.get("tags", []) else ""
            before.append((cell.id, cell.source + fast))
        elif code:
            later += imports(cell.source)
    if later:
        before.append(("imports of later cells", "\n".join(later)))
    owned: dict[str, str] = {}
    for answer in answers:
        for defined_name in answer.names:
            if owned.setdefault(defined_name, answer.grade_id) != answer.grade_id:
                raise CompressionError(
                    f"{name}: {defined_name} is defined in {owned[defined_name]} and in "
                    f"{answer.grade_id}; rename one."
                )
    digest = hashlib.sha256(path.read_bytes() + text.encode()).hexdigest()
    return Lab(name, tuple(before), tuple(answers), tuple(tests), text, digest, path.parent)


def defined(source: str) -> Iterator[str]:
    """Names that a cell defines at its top: functions, classes, variables."""
    for node in ast.parse(plain(source)).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))


def imports(source: str) -> list[str]:
    """The import statements of a cell."""
    return [
        ast.unparse(n)
        for n in ast.parse(plain(source)).body
        if isinstance(n, (ast.Import, ast.ImportFrom))
    ]


def used(source: str) -> set[str]:
    """Every name that code mentions."""
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def run_test(source: str, namespace: dict[str, Any], points: float) -> float:
    """Run a test cell.

    Its points; or, as in nbgrader, the number between 0 and the points that its last line gives.
    """
    tree = ast.parse(plain(source))
    last = tree.body[-1] if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    if last is not None:
        tree.body.pop()
    exec(compile(tree, "<test>", "exec"), namespace)
    if last is None:
        return points
    value = eval(compile(ast.Expression(last.value), "<test>", "eval"), namespace)
    return float(value) if type(value) in (int, float) and 0 <= value <= points else points


def seeded(check: Callable[..., Any], seed: int, verdicts: list[Any]) -> Callable[..., Any]:
    """`check` with seeds of this run in the place of those that are written in the notebook."""

    def checked(
        name: str, function: Callable[..., Any], *, seed: int | None = seed, show: bool = False
    ) -> Any:
        mixed = int.from_bytes(hashlib.sha256(f"{run}/{name}/{seed}".encode()).digest()[:6], "big")
        verdicts.append(verdict := check(name, function, seed=mixed, show=False))
        return verdict

    run = seed
    return checked
