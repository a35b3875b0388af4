"""Rows of the files that benchmarks are published in: JSON lines, tables with commas or tabs,
Parquet.

Nothing is unpickled.
"""

import csv
import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from course_utils.errors import CompressionError

Row = dict[str, Any]
LFS = "version https://git-lfs"


def find(folders: Sequence[Path], patterns: Sequence[str]) -> list[Path]:
    """The files of the first pattern that matches in the first folder where one does; several are
    the parts of one table.

    Raises CompressionError if parts such as `-00001-of-00003` are missing.
    """
    for folder in folders:
        for pattern in patterns:
            found = sorted(path for path in folder.glob(pattern) if path.is_file())
            if found:
                parts = [re.search(r"-(\d+)-of-(\d+)\.", path.name) for path in found]
                if parts[0] and {int(p[1]) for p in parts if p} != set(range(int(parts[0][2]))):
                    raise CompressionError(
                        f"{folder}: {len(found)} of {int(parts[0][2])} parts of {pattern} are "
                        "there; copy the others too."
                    )
                return found
    return []


def rows(path: Path, header: Sequence[str] | None = None) -> list[Row]:
    """All rows of a .jsonl, .jsonl.gz, .csv, .tsv or .parquet file.

    `header`: the columns of a table that does not name them.

    Raises CompressionError if the file cannot be read, or holds no rows.
    """
    try:
        if path.suffix == ".parquet":
            found = parquet(path)
        else:
            with opened(path) as file:
                found = list(
                    lines(file, path) if ".jsonl" in path.name else table(file, path, header)
                )
    except UnicodeDecodeError as error:
        raise CompressionError(
            f"{path}: not UTF-8 ({error.reason}, byte {error.start}); {copy_again(path)}"
        ) from error
    except (OSError, EOFError, csv.Error) as error:
        raise CompressionError(f"{path}: not readable ({error}); {copy_again(path)}") from error
    if not found:
        raise CompressionError(f"{path}: holds no items; {copy_again(path)}")
    return found


def opened(path: Path) -> IO[str]:
    """A text file, also a compressed one."""
    return (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8-sig", newline="")
    )  # type: ignore[return-value]


def copy_again(path: Path) -> str:
    """What to do about a file that cannot be read."""
    with path.open("rb") as file:
        pointer = file.read(len(LFS)) == LFS.encode()
    return (
        "this is a pointer of Git LFS, not the data: run `git lfs pull` there."
        if pointer
        else "copy it again."
    )


def lines(file: IO[str], path: Path) -> Iterator[Row]:
    """The rows of a file with a JSON object in each line.

    Raises CompressionError with the number of a bad line.
    """
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if line.startswith(LFS):
                raise CompressionError(f"{path}: {copy_again(path)}") from error
            raise CompressionError(
                f"{path}, line {number}: not JSON ({error}); each line holds one item."
            ) from error
        if not isinstance(row, dict):
            raise CompressionError(
                f"{path}, line {number}: expected an item in braces, got {type(row).__name__}."
            )
        yield row


def table(file: IO[str], path: Path, header: Sequence[str] | None) -> Iterator[Row]:
    """Quotes mean nothing in GLUE's .tsv files, and enclose a field in .csv files."""
    tabs = path.suffix == ".tsv"
    reader = csv.reader(
        file, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    )
    names = header or next(reader, [])
    if names and names[0].startswith(LFS):
        raise CompressionError(f"{path}: {copy_again(path)}")
    for cells in reader:
        if cells:
            if header and len(cells) != len(header):
                raise CompressionError(
                    f"{path}, line {reader.line_num}: {len(cells)} columns; "
                    f"expected {len(header)} without a line of names: {', '.join(header)}."
                )
            yield dict(zip(names, cells, strict=False))


def parquet(path: Path) -> list[Row]:
    """The rows of a Parquet file.

    Raises CompressionError if pyarrow is missing or the file is damaged.
    """
    try:
        import pyarrow
        from pyarrow import parquet as reader
    except ImportError as error:
        raise CompressionError(
            f"{path}: reading Parquet needs pyarrow ({error}); install the extra `eval`."
        ) from error
    try:
        return reader.ParquetFile(path).read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise CompressionError(
            f"{path}: not a Parquet file ({error}); {copy_again(path)}"
        ) from error
