"""Compile the C++ products once for this machine, and load them.

No torch header is included, so this takes seconds, and the library stays good when torch or Python
is updated. It is kept in `folder()` under a name made from the sources and the flags.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).with_name("cpp")
FLAGS = ["-O3", "-std=c++17", "-shared", "-fPIC"]
COMPILERS = ("c++", "g++", "clang++")
SLOWER = "Packed layers run through torch instead: same results, fewer tokens per second."


class BuildError(Exception):
    """The message says what is missing or what the compiler said."""


def folder() -> Path:
    """COURSE_KERNELS_CACHE, or course-kernels in the user's cache folder."""
    if chosen := os.environ.get("COURSE_KERNELS_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "course-kernels"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled products; None where they cannot be had (after one warning) or COURSE_KERNELS is
    "torch".
    """
    if os.environ.get("COURSE_KERNELS") == "torch":
        return None
    try:
        return ctypes.CDLL(str(build()))
    except (BuildError, OSError, RuntimeError) as error:  # RuntimeError: no home folder is known
        warnings.warn(
            f"The compiled kernels are not available: {error} {SLOWER}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def build() -> Path:
    """The compiled library, from the cache or new. Raises BuildError."""
    files = sorted(f for f in SOURCES.iterdir() if f.suffix in (".cpp", ".h"))
    content = [f.read_bytes() for f in files] + [
        f"{sys.platform} {platform.machine()} {FLAGS}".encode()
    ]
    name = hashlib.sha256(b"\0".join(content)).hexdigest()[:16]
    place = folder()
    target = place / f"kernels-{name}.so"
    if not target.is_file():
        compiler = find_compiler()
        place.mkdir(parents=True, exist_ok=True)
        with alone(place / "lock"):
            if not target.is_file():  # else another process was faster
                compile_to(target, compiler, [f for f in files if f.suffix == ".cpp"])
    return target


def find_compiler() -> str:
    """The C++ compiler: CXX, or the first that is installed. Raises BuildError with the remedy."""
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    found = next(filter(None, map(shutil.which, wanted)), None)
    if found is None:
        raise BuildError(
            f"no C++ compiler was found ({', '.join(wanted)}); install g++ or clang++, or set CXX."
        )
    return found


def compile_to(target: Path, compiler: str, sources: list[Path]) -> None:
    """Compile beside the target and move there when done, so that nobody sees half a library."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as work:
        output = Path(work) / target.name
        # some compilers come without OpenMP; then one thread works
        for threads in (["-fopenmp"], []):
            command = [compiler, *FLAGS, *threads, *map(str, sources), "-o", str(output)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if done.returncode == 0:
                os.replace(output, target)
                return
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    raise BuildError(f"{compiler} could not compile them ({last}).")


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it, however that ends."""
    try:
        import fcntl
    except (
        ImportError
    ):  # not on Windows: two may compile at once, and the later one replaces the earlier one's file
        yield
        return
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
