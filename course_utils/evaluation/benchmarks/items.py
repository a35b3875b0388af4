"""The items of a task from a folder, in the hub's columns, checked."""

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from course_utils.errors import CompressionError, CompressionWarning

from . import files
from .files import Row
from .sources import Source, number


class Absent(CompressionError):
    """No file of a task is in the folder."""


def read(task: str, source: Source, data: Path, split: str) -> tuple[list[Row], list[Path]]:
    """The items of one split and the files that they are from.

    Raises Absent if there is no such file, CompressionError if one is incomplete, unreadable, or
    lacks what the task asks.
    """
    roots = [folder for root in source.roots for folder in sorted(data.glob(root))]
    folders = [folder / inner for folder in (*roots, data) for inner in source.inner]
    hub = [pattern.format(split=split) for pattern in source.hub]
    published = source.original.get(split, ())
    if paths := files.find(folders, published):
        return checked(task, source, paths, source.convert), paths
    if paths := files.find(folders, hub):
        return checked(task, source, paths, iter), paths
    examples = [
        Path(source.roots[0], inner, pattern)
        for inner, pattern in [(source.inner[0], p) for p in published[:1]]
        + [(source.inner[-1], hub[0])]
    ]
    packed = sorted(
        path.name
        for path in data.iterdir()
        if path.name.endswith((".tar", ".zip", ".tar.gz", ".tgz"))
    )
    unpack = f" Unpack {packed[0]} first." if packed else ""
    raise Absent(
        f"{task}: no file of its {split} split in {data}. Expected there: "
        f"{examples[0].as_posix()} (as published) or {examples[-1].as_posix()} (as on the hub). "
        f"Nothing is downloaded.{unpack}"
    )


def checked(task: str, source: Source, paths: list[Path], convert: Callable[..., Any]) -> list[Row]:
    """The rows of all files, each with the columns that the task needs.

    Raises CompressionError that names file, row and column.
    """
    found: list[Row] = []
    for path in paths:
        rows = files.rows(
            path, source.header if convert is not iter and path.suffix in (".csv", ".tsv") else None
        )
        if source.only and source.only[0] in rows[0]:
            rows = [row for row in rows if row[source.only[0]] == source.only[1]]
        wanted = functools.partial(complete, task, source, path)
        found += wanted(converted(path, rows, convert))
    if not found:
        raise CompressionError(f"{paths[0]}: holds no items of {task}; copy it again.")
    return found


def converted(path: Path, rows: list[Row], convert: Callable[..., Any]) -> Iterator[Row]:
    """Rows as on the hub, from rows as published."""
    try:
        yield from convert(rows)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CompressionError(
            f"{path}: not in the form in which it was published ({missing}; "
            f"it has {', '.join(map(str, rows[0]))}); copy it again."
        ) from error


def complete(task: str, source: Source, path: Path, rows: Iterable[Row]) -> list[Row]:
    """The columns that the task asks for.

    Rows of a table that end too early are left out, as the hub's scripts do, and counted.
    """
    kept, short, every = [], 0, list(rows)
    for position, row in enumerate(every, 1):
        missing = [name for name in source.columns if row.get(name) is None]
        if (
            missing
            and path.suffix == ".tsv"
            and len(missing) < len(source.columns)
            and any(not set(missing) & set(other) for other in every)
        ):
            short += 1
            continue
        if missing:
            has = ", ".join(sorted(map(str, row))) or "none of them"
            raise CompressionError(
                f"{path}, item {position}: no {', '.join(map(repr, missing))}. "
                f"{task} needs {', '.join(source.columns)}; found: {has}."
            )
        new = {
            name: number(row[name]) if name in source.numbers else row[name]
            for name in source.columns
        }
        for name, check in source.columns.items():
            if expected := check(new[name], new):
                raise CompressionError(
                    f"{path}, item {position}: {name} is {str(row[name])[:60]!r}; "
                    f"expected {expected}."
                )
        kept.append(new)
    if short:
        warnings.warn(
            f"{path}: {short} of {len(every)} rows end before their last column and are left out.",
            CompressionWarning,
            stacklevel=2,
        )
    return kept
