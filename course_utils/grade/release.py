"""A solution notebook as its learners get it: nbgrader's preprocessors, after checks that name the
cell.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from course_utils.errors import CompressionError

REGIONS = ("SOLUTION", "HIDDEN TESTS", "MARK SCHEME")


def release(path: Path) -> str:
    """The text of the lab made from the solution at `path`; the same for the same input, byte for
    byte.

    Raises CompressionError if nbgrader is missing, or if the notebook's markers or metadata are
    wrong.
    """
    notebook = read(path)
    for problem in problems(notebook):
        raise CompressionError(f"{path.parent.name}/{path.name}: {problem}")
    resources: dict[str, Any] = {}
    for preprocessor in preprocessors():
        try:
            notebook, resources = preprocessor.preprocess(notebook, resources)
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise CompressionError(
                f"{path.parent.name}/{path.name}: nbgrader refuses it: {reason}"
            ) from error
    # what an editor or a run leaves behind is not part of a lab
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": kernel, "language_info": {"name": "python"}}
    )
    for cell in notebook.cells:
        for key in ("execution", "collapsed", "scrolled", "papermill"):
            cell.metadata.pop(key, None)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def read(path: Path) -> NotebookNode:
    """The notebook at `path`, with the cell ids that format 4.5 has."""
    try:
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        nbformat.validate(notebook)
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CompressionError(
            f"{path}: not a readable notebook ({reason}); open it in JupyterLab and save it again."
        ) from error
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        raise CompressionError(
            f"{path}: its format is older than 4.5, so its cells have no ids; "
            "save it in JupyterLab 4."
        )
    return notebook


def preprocessors() -> list[Any]:
    """Nbgrader's own steps of generate_assignment, in its order, without those that need a
    gradebook.
    """
    try:
        from nbgrader import preprocessors as steps
    except ImportError as error:
        raise CompressionError(
            'nbgrader is not installed; add the extra `grade`: pip install -e ".[grade]".'
        ) from error
    chosen = (
        steps.LockCells, steps.ClearSolutions, steps.ClearOutput, steps.CheckCellMetadata,
        steps.ClearHiddenTests, steps.ClearMarkScheme, steps.ComputeChecksums,
        steps.CheckCellMetadata,
    )  # fmt: skip
    quiet = logging.getLogger("course_utils.grade.nbgrader")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    return [step(log=quiet) for step in chosen]


def problems(notebook: NotebookNode) -> Iterator[str]:
    """What nbgrader would pass over or report without naming the cell."""
    seen: dict[str, str] = {}
    for cell in notebook.cells:
        meta = cell.metadata.get("nbgrader")
        regions, problem = marked(cell.source)
        if problem:
            yield f"cell {cell.id!r}: {problem}."
        if regions and not meta:
            yield (
                f"cell {cell.id!r}: has {' and '.join(sorted(regions))} markers "
                "but no nbgrader metadata."
            )
        if not meta:
            continue
        yield from (f"cell {cell.id!r}: {text}" for text in of_metadata(meta, regions))
        name = meta.get("grade_id")
        if name in seen:
            yield (
                f"cell {cell.id!r}: its grade_id {name!r} is used by cell {seen[name]!r} too; "
                "each needs its own."
            )
        seen[name] = cell.id


def of_metadata(meta: dict[str, Any], regions: set[str]) -> Iterator[str]:
    """What is wrong with nbgrader's metadata of a cell, sentence by sentence."""
    if meta.get("schema_version") != 3:
        yield (
            f"its nbgrader metadata has schema_version {meta.get('schema_version')!r}; "
            "the course uses 3."
        )
    if not meta.get("grade_id"):
        yield "its nbgrader metadata has no grade_id."
    if meta.get("grade") and not isinstance(meta.get("points"), int | float):
        yield "it is graded but has no points."
    solution, test = (
        bool(meta.get("solution")),
        bool(meta.get("grade")) and not meta.get("solution"),
    )
    if "SOLUTION" in regions and not solution:
        yield "has SOLUTION markers, but its nbgrader metadata does not say solution: true."
    if solution and "SOLUTION" not in regions:
        yield "is a solution cell without ### BEGIN SOLUTION and ### END SOLUTION."
    if "HIDDEN TESTS" in regions and not test:
        yield "has HIDDEN TESTS markers, but is not a test cell (grade: true, solution: false)."


def marked(source: str) -> tuple[set[str], str]:
    """The kinds of region in a cell, and what is wrong with its markers ('' if nothing)."""
    found: set[str] = set()
    inside = ""
    for number, line in enumerate(source.split("\n"), 1):
        for kind in REGIONS:
            if f"BEGIN {kind}" in line:
                if inside:
                    return found, f"line {number} begins {kind} before END {inside}"
                inside = kind
                found.add(kind)
            elif f"END {kind}" in line:
                if inside != kind:
                    return found, f"line {number} says END {kind} without its BEGIN {kind}"
                inside = ""
    return found, f"BEGIN {inside} has no END {inside}" if inside else ""


def answered(path: Path) -> list[str]:
    """Ids of the answer cells that differ from how they were released; [] if the file cannot be
    read.
    """
    from nbgrader import utils

    try:
        cells = read(path).cells
        answers = [cell for cell in cells if utils.is_solution(cell)]
        return [
            c.id
            for c in answers
            if c.metadata.nbgrader.get("checksum") != utils.compute_checksum(c)
        ]
    except (CompressionError, KeyError, TypeError, ValueError, AttributeError):
        return []
