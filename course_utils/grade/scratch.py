"""Temporary folders of a run, and the sweep of those that a killed run has left behind.

Each holds a lock for as long as a process of the run lives; the kernel gives it back when the last
of them is killed.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX, LOCK = "course-grade-", "lock"


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new temporary folder, removed at the end; what earlier runs have left is removed before."""
    sweep()
    place = Path(tempfile.mkdtemp(prefix=PREFIX))
    with (place / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of runs that have ended; after an hour also that of one that was killed
    before it had its lock.
    """
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = place.lstat()
            if place.is_symlink() or status.st_uid != os.geteuid():
                continue
            if not (place / LOCK).exists():
                if time.time() - status.st_mtime > 3600:
                    shutil.rmtree(place, ignore_errors=True)
                continue
            with (place / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place, ignore_errors=True)


def sweep_unfinished(place: Path) -> None:
    """Remove the unfinished files that `build.replace` leaves below a folder when it is killed."""
    for path in place.glob(".*.unfinished-*") if place.is_dir() else []:
        with contextlib.suppress(OSError):
            path.unlink()
