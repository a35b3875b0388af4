"""The files of the challenge in a class folder: which learner, which file, in which order.

No link is followed.
"""

import contextlib
import hashlib
import os
import re
import stat
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

from course_utils.challenge import file as container

from . import written

DATE = re.compile(r"(\d{4})-(\d\d?)-(\d\d?)(?:[ T_](\d\d?)[:.h-]?(\d\d)(?:[:.m-]?(\d\d))?)?")
LISTED = 1000  # names of a folder that are looked at
TAKEN = 200  # files of a learner


@dataclass
class Handed:
    """What a learner handed in: files as SHA-256 → path, in the order of their dates, and what
    could not be taken, and why.
    """

    files: dict[str, Path] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


class Refused(Exception):
    """A file that is not read; the message says why."""


def of(folder: Path, suffix: str, largest: int) -> Handed:
    """The files with this ending in a learner's folder of the lab, and in the folders in it (one
    for each dated resubmission).
    """
    out = Handed()
    try:
        found = sorted(_candidates(folder, suffix))
    except OSError as error:
        out.refused.append(f"the folder cannot be read ({error.strerror or type(error).__name__})")
        return out
    if not found:
        out.refused.append(f"no file whose name ends with {suffix}")
    if len(found) > TAKEN:
        out.refused.append(f"{len(found)} files; the first {TAKEN} were looked at")
    for _, _, path in found[:TAKEN]:
        try:
            out.files.setdefault(hashlib.sha256(content(path, largest)).hexdigest(), path)
        except Refused as error:
            out.refused.append(str(error))
    return out


def content(path: Path, largest: int) -> bytes:
    """A file's bytes.

    Raises Refused for what is no plain file, is empty, cannot be read or is larger than `largest`
    bytes.
    """
    try:
        data = container.plain(path, largest)
    except OSError as error:
        link = path.is_symlink()
        raise Refused(
            "it is a link; links are not followed"
            if link
            else f"it cannot be read ({error.strerror})"
        ) from None
    if data is None:
        raise Refused("it is no plain file")
    if not data:
        raise Refused("the file is empty")
    if len(data) > largest:
        raise Refused(f"the file is larger than {largest:,} bytes")
    return data


def _candidates(folder: Path, suffix: str) -> list[tuple[float, str, Path]]:
    """(time, name, path): the date in the name of the file or of its folder, else nbgrader's
    timestamp.txt, else the file's own.
    """
    out = []
    with os.scandir(folder) as listed:
        places = [Path(entry.path) for entry in islice(listed, LISTED)]
    for place in places:
        if place.name.lower().endswith(suffix) and not _is_folder(place):
            out.append((_time(place, folder), place.name, place))
        elif _is_folder(place) and not place.name.startswith("."):
            with contextlib.suppress(OSError), os.scandir(place) as inside:
                files = [
                    Path(e.path) for e in islice(inside, LISTED) if e.name.lower().endswith(suffix)
                ]
                out += [(_time(path, place), f"{place.name}/{path.name}", path) for path in files]
    return out


def _is_folder(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def _time(path: Path, folder: Path) -> float:
    said = [path.name, folder.name]
    with contextlib.suppress(Refused):
        said.append(content(folder / "timestamp.txt", 100).decode(errors="replace"))
    for text in said:
        if found := DATE.search(text):
            with contextlib.suppress(ValueError, OverflowError):
                year, month, day, hour, minute, second = (int(n or 0) for n in found.groups())
                said_at = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
                return said_at.timestamp()
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def shown_reason(reason: str, learners: list[str], hide: bool) -> str:
    """A reason in one line.

    With `hide`, what it quotes and every learner's name in it are taken out: a file may hold names.
    """
    if hide:
        reason = re.sub(r"(['\"“‘`])(?:.*)(['\"”’`])", "[…]", reason)
        for learner in sorted(learners, key=len, reverse=True):
            if len(learner) > 1:
                reason = re.sub(
                    rf"(?<!\w){re.escape(learner)}(?!\w)", "[…]", reason, flags=re.IGNORECASE
                )
    return written.line(reason, 300)
