"""Grade a whole class: jobs side by side, each result kept as soon as it is there, one writer to
the gradebook.

A course is a folder as nbgrader lays it out: submitted/<learner>/<lab>/ goes in; autograded/,
gradebook.db and grades/<lab>/<learner>.json (ours) come out. What was graded from the same bytes,
lab and seed is not graded again.
"""

import contextlib
import functools
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from course_utils.errors import CompressionError

from . import cluster, gradebook, judging, kinds, names, scratch, submission
from .build import write
from .lab import Lab
from .sandbox import Limits


def submissions(course: Path, lab: str) -> dict[str, Path]:
    """The folder of each learner who submitted the lab."""
    folder = course / "submitted"
    if not folder.is_dir():
        raise CompressionError(
            f"{folder}: is missing; put each notebook in submitted/<learner>/{lab}/ "
            "(nbgrader collect does)."
        )
    return {
        p.name: p / lab
        for p in sorted(folder.iterdir(), key=lambda p: os.fsencode(p.name))
        if _is_folder(p) and _is_folder(p / lab)
    }


def _is_folder(path: Path) -> bool:
    """Whether it is one, no link; one that may not be looked into counts, and its learner is told
    so.
    """
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False


def overlooked(course: Path, lab: str) -> list[str]:
    """What lies in submitted/ and is not graded, though somebody may have meant it to be."""
    found = []
    for place in sorted((course / "submitted").iterdir(), key=lambda p: os.fsencode(p.name)):
        name = names.shown(place.name)
        if place.is_symlink():
            found.append(f"submitted/{name}: is a link; links are not followed")
        elif place.suffix == ".ipynb":
            found.append(
                f"submitted/{name}: lies in no learner's folder; "
                f"put it in submitted/<learner>/{lab}/"
            )
        elif _is_folder(place):
            with contextlib.suppress(OSError):
                found += _overlooked_of(place, name, lab)
    return found


def _overlooked_of(place: Path, name: str, lab: str) -> Iterator[str]:
    for path in sorted(place.iterdir(), key=lambda p: os.fsencode(p.name)):
        shown = f"submitted/{name}/{names.shown(path.name)}"
        if path.name == lab and path.is_symlink():
            yield f"{shown}: is a link; links are not followed"
        elif path.name == lab and not _is_folder(path):
            yield f"{shown}: is no folder"
        elif path.name != lab and path.name.casefold() == lab.casefold():
            yield f"{shown}: is not called {lab}"
        elif path.suffix == ".ipynb":
            yield f"{shown}: lies beside the folder {lab}"


def run(
    root: Path, course: Path, lab: Lab, *, jobs: int = 1, seed: int | None = None,
    kind: str | None = None, again: bool = False, limits: Limits | None = None, book: bool = True,
    progress: bool = True, dask: str | None = None,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Grade what is new under course/submitted and return every learner's result.

    `kind` is a sandbox of `kinds.KINDS`, the best one there is if left out. With `dask`, the
    address of a scheduler or "local", its workers grade, each in its own sandbox.
    Raises CompressionError if there is no sandbox of this kind, if learners' code could read what
    is graded, or if the lab's own solution does not get full points.
    """
    limits = limits or Limits()
    if not dask:
        kind = kind or kinds.best()
        kinds.check_sandbox(kind, root / "solutions", course)
    todo, out = submissions(course, lab.name), course / "grades" / lab.name
    scratch.sweep()
    for folder in (out, course / "grades"):
        scratch.sweep_unfinished(folder)
    seed = _seed(out, seed, again)
    with tqdm(todo.items(), desc="reading", unit="submission", disable=not progress) as bar:
        parsed = {student: _read(path, lab) for student, path in bar}
    done = {} if again else dict(_kept(out, parsed, lab, seed))
    kept = list(done)
    waiting = {student: found for student, found in parsed.items() if student not in done}
    with contextlib.ExitStack() as stack:
        opened = functools.cache(lambda: stack.enter_context(gradebook.Book(course, lab)))

        def record(student: str) -> None:
            if not book or "fault" in done[student]:
                return
            if not names.is_text(student):
                notes = [
                    (
                        "the name of its folder is no UTF-8, so it is not in the gradebook; "
                        "rename the folder"
                    )
                ]
            else:
                with gradebook.said(course):
                    notes = opened().record(student, parsed[student], done[student])
            if new := [note for note in notes if note not in done[student]["notes"]]:
                done[student]["notes"] = [*done[student]["notes"], *new]
                _keep(out, student, done[student])

        if waiting:
            if dask:
                results = cluster.results(
                    dask, jobs, waiting, cluster.order(root, lab, limits, seed, kind)
                )
            else:
                assert kind
                results = judging.here(waiting, jobs, lab, limits, seed, kind)
            with tqdm(
                total=len(waiting), desc=lab.name, unit="submission", disable=not progress
            ) as bar:
                for student, result in results:
                    if "fault" in result:
                        result |= {
                            "cells": [],
                            "notes": [f"not graded: {result['fault']}"],
                            "score": None,
                            "points": lab.points,
                        }
                    result["student"] = (
                        names.shown(student) if not names.is_text(student) else student
                    )
                    _keep(out, student, result)
                    done[student] = result
                    record(student)  # while the next ones are graded
                    bar.update()
        with tqdm(
            kept, desc="as before", unit="submission", disable=not progress or not kept
        ) as known:
            for student in known:  # an earlier run may have been stopped before it came to these
                record(student)
    return {student: done[student] for student in parsed if student in done}


def _keep(out: Path, student: str, result: dict[str, Any]) -> None:
    write(out / f"{names.stem(student)}.json", json.dumps(result, indent=1).encode())


def _seed(out: Path, seed: int | None, again: bool) -> int:
    """The seed asked for, else that of the run that is going on, else a new one."""
    path = out / "seed"
    if seed is None and not again:
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text())
    seed = secrets.randbits(40) if seed is None else seed
    write(path, str(seed).encode())
    return seed


def _read(folder: Path, lab: Lab) -> submission.Submission:
    """The answers of one learner; a folder that cannot be read is a submission without answers and
    with a note.
    """
    try:
        path, notes = submission.find(folder, lab)
        found = submission.read(path, lab) if path else submission.Submission(digest="none")
    except Exception as error:  # whatever a file or a folder may be, the others are graded
        found, notes = (
            submission.Submission(digest="unreadable"),
            [f"could not be read ({type(error).__name__})"],
        )
    found.notes[:0] = notes
    return found


def _kept(
    out: Path, parsed: dict[str, submission.Submission], lab: Lab, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    for student, found in parsed.items():
        with contextlib.suppress(OSError, ValueError):
            result = json.loads((out / f"{names.stem(student)}.json").read_bytes())
            if "fault" not in result and (
                result.get("submission"),
                result.get("bundle"),
                result.get("seed"),
            ) == (
                found.digest,
                lab.digest,
                seed,
            ):
                yield student, result
