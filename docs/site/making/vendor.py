"""Scripts of others, fetched at build time by `npm pack` and checked, so that a page asks nobody
for them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKED = {  # name and version, SHA-256 of the package
    "mathjax@3.2.2": "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
    "reveal.js@4.6.1": "4f4121ef2b8e7e9398bdecd7b3b6ce5e0ee3a2f5af221708eb6c4ce03bcae6be",
    "axe-core@4.10.3": "0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292",
}


def package(name: str, kept: Path) -> Path:
    """The folder with the files of a package of npm's registry; fetched once into `kept`.

    Stops the build where that fails.
    """
    folder = kept / name
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        sys.exit(
            f"The site needs {name} from npm's registry: install Node.js, or put the "
            f"package's files into {folder}."
        )
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept) as held:
        done = subprocess.run(
            [npm, "pack", "--silent", name],
            cwd=held,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(
                f"npm pack {name} failed; its reason stands above. Without a network, "
                f"put the package's files into {folder}."
            )
        archive = Path(held) / done.stdout.split()[-1]
        if hashlib.sha256(archive.read_bytes()).hexdigest() != PACKED[name]:
            sys.exit(
                f"{name} is not the package that was chosen: its SHA-256 differs from the one "
                f"in {Path(__file__).name}."
            )
        with tarfile.open(archive) as opened:
            opened.extractall(held, filter="data") if sys.version_info >= (
                3,
                12,
            ) else opened.extractall(held)
        try:
            os.replace(Path(held) / "package", folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder


def mathjax(static: Path, kept: Path) -> None:
    """MathJax with its fonts, as `_static/mathjax`."""
    files = package("mathjax@3.2.2", kept) / "es5"
    target = static / "mathjax"
    shutil.copytree(files / "output" / "chtml", target / "output" / "chtml", dirs_exist_ok=True)
    shutil.copy(files / "tex-mml-chtml.js", target)
