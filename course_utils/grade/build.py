"""Make labs/ from solutions/, or say where the two differ."""

import os
import tempfile
from pathlib import Path

from course_utils.errors import CompressionError

from .release import answered, release

IGNORED = {".ipynb_checkpoints", "__pycache__", ".DS_Store"}


def wanted(root: Path) -> dict[Path, bytes]:
    """What labs/ should hold: path below labs/ → content.

    Raises CompressionError if a solution is wrong.
    """
    folders = sorted(
        f for f in (root / "solutions").glob("*") if f.is_dir() and f.name not in IGNORED
    )
    if not folders:
        raise CompressionError(
            f"{root / 'solutions'}: holds no solutions; labs are made in a checkout of the course."
        )
    out: dict[Path, bytes] = {}
    for folder in folders:
        if not (folder / f"{folder.name}.ipynb").is_file():
            raise CompressionError(f"{folder}: its notebook {folder.name}.ipynb is missing.")
        for path in files(folder):
            text = release(path).encode() if path.suffix == ".ipynb" else path.read_bytes()
            out[path.relative_to(root / "solutions")] = text
    return out


def files(folder: Path) -> list[Path]:
    """Every file below a folder, without caches and checkpoints."""
    return sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and not IGNORED & set(p.relative_to(folder).parts)
    )


def differences(root: Path) -> list[str]:
    """A sentence for each lab file that is stale, missing or extra; [] when labs/ is what `build`
    would write.
    """
    right = wanted(root)
    there = {p.relative_to(root / "labs") for p in files(root / "labs")}
    out = [f"labs/{p.as_posix()}: missing" for p in sorted(set(right) - there)]
    out += [
        f"labs/{p.as_posix()}: stale"
        for p in sorted(there & set(right))
        if (root / "labs" / p).read_bytes() != right[p]
    ]
    return out + [
        f"labs/{p.as_posix()}: extra, no solution makes it" for p in sorted(there - set(right))
    ]


def build(root: Path, *, force: bool = False) -> list[str]:
    """Write every lab that differs and return a sentence for each; files without a solution are
    left alone.

    Nothing is written if a solution is wrong. Raises CompressionError for a lab that holds answers,
    unless `force`.
    """
    right = wanted(root)
    changed = {p: content for p, content in right.items() if not same(root / "labs" / p, content)}
    for path in changed:
        lab = root / "labs" / path
        if not force and path.suffix == ".ipynb" and lab.exists() and (cells := answered(lab)):
            raise CompressionError(
                f"labs/{path.as_posix()}: holds answers in {', '.join(cells)}; "
                "copy it elsewhere, or build with --force."
            )
    for path, content in changed.items():
        write(root / "labs" / path, content)
    extra = [p for p in files(root / "labs") if p.relative_to(root / "labs") not in right]
    lines = [f"labs/{path.as_posix()}: written" for path in changed]
    lines += [
        f"labs/{p.relative_to(root / 'labs').as_posix()}: extra, delete it yourself" for p in extra
    ]
    return lines or [f"{len(right)} lab files are up to date"]


def same(path: Path, content: bytes) -> bool:
    """Whether a file holds this content."""
    return path.is_file() and path.read_bytes() == content


def write(path: Path, content: bytes) -> None:
    """Replace a file whole, so that an interrupted build leaves the former one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # a device or a pipe stays what it is
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_bytes(content)
        return
    replace(path, content, mode=0o644)


def replace(path: Path, content: bytes, *, mode: int, sync: bool = False) -> None:
    """Put a whole file in the place of `path`, in a folder that is there; killed, it leaves the
    former one.

    `sync`: it is on the disk then.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:60]}.unfinished-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
