"""Compile a kernel that was given as text, and the programs of this package."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from course_utils.kernels import build

HERE = Path(__file__).parent
LARGEST = 200_000  # characters of a source
SECONDS = 40  # for a compilation, on the wall clock
LINES, WIDTH = 14, 200  # of what the compiler says
STANDARD = ["-std=c++17", "-O3", "-ffast-math", "-fopenmp-simd", "-fPIC", "-shared"]
# the first that the compiler takes
NATIVE: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])
# a command and its folder: exit status, what was said
Run = Callable[[Sequence[str], Path], "tuple[int, str]"]


def here(command: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a compiler as the account that asks, without walls."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return -1, ""
    return done.returncode, done.stderr[: 1 << 16].decode(errors="replace")


def commands(compiler: str) -> list[list[str]]:
    """Ways to compile kernel.cpp into kernel.so in the current folder, best first."""
    whole = ["-Wl,-z,defs"] if sys.platform == "linux" else []
    return [
        [compiler, *STANDARD, *native, *whole, "kernel.cpp", "-o", "kernel.so"] for native in NATIVE
    ]


def kernel(compiler: str, source: str, folder: Path, run: Run = here) -> str:
    """Compile the source into folder/kernel.so: '' or what the compiler said, shortened.

    Raises TimeoutError.
    """
    (folder / "kernel.cpp").write_text(source, encoding="utf-8", errors="replace")
    said = ""
    for command in commands(compiler):
        code, said = run(command, folder)
        if code == 0 and (folder / "kernel.so").is_file():
            return ""
        if code < 0:
            raise TimeoutError
        if not re.search(r"native|unsupported|unrecognized command", said):
            break
    return readable(said)


def readable(said: str) -> str:
    """The first lines that say what is wrong."""
    lines = [
        line.rstrip()[:WIDTH]
        for line in said.splitlines()
        if line.strip() and "cc1plus" not in line
    ]
    first = next((i for i, line in enumerate(lines) if "error" in line), 0)
    return "\n".join(lines[first : first + LINES]) or "the compiler ended without a word"


def program(name: str, compiler: str) -> Path:
    """Runner or plain.so of this package, compiled once for this machine and kept beside the
    course's kernels.
    """
    source = HERE / f"{name.partition('.')[0]}.cpp"
    flags = [*STANDARD, *NATIVE[0]] if name.endswith(".so") else ["-std=c++17", "-O2"]
    libraries = ["-ldl"] if sys.platform == "linux" and not name.endswith(".so") else []
    known = (
        source.read_bytes()
        + f"{sys.platform} {platform.machine()} {compiler} {flags}".encode()
        + _processor()
    )
    place = build.folder()
    place.mkdir(parents=True, exist_ok=True)
    target = place / f"{hashlib.sha256(known).hexdigest()[:16]}-{name}"
    with build.alone(place / "lock"):
        if not target.is_file():
            with tempfile.TemporaryDirectory(dir=place, prefix=".build-") as work:
                for native in NATIVE if name.endswith(".so") else ([],):
                    words = [f for f in flags if f not in NATIVE[0]] + native
                    done, said = here(
                        [compiler, *words, str(source), "-o", f"{work}/{name}", *libraries],
                        Path(work),
                    )
                    if done == 0:
                        os.replace(f"{work}/{name}", target)
                        return target
            raise build.BuildError(f"{compiler} could not compile {source.name}: {readable(said)}")
    return target


def _processor() -> bytes:
    """What `native` means here: a folder may be shared between machines."""
    with contextlib.suppress(OSError):
        return b"".join(
            sorted(set(re.findall(rb"(?:flags|Features).*", Path("/proc/cpuinfo").read_bytes())))
        )
    return platform.processor().encode()
