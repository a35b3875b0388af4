"""The `course` command: the course itself (`course doctor`, `build`, `grade`, `submit`), and models
(`course compress`, …).
"""

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "matplotlib",
    "jupyterlab",
    "ipywidgets",
)
OPTIONAL = {
    "bitsandbytes": "peers",
    "nbval": "dev",
    "papermill": "dev",
    "nbgrader": "grade",
    "distributed": "cluster",
    "lm-eval": "eval",
    "triton": "gpu",
    "gptqmodel": "gptq",
    "onnx": "deploy",
    "onnxruntime": "deploy",
    "gguf": "deploy",
}

PASSED_ON = {
    "grade": (
        "grade the submissions of a lab (`course grade LAB`), or report on the class "
        "(`course grade report`)"
    ),
    "board": "the Pareto board of the challenge, lab 5.4 (`course board CLASS`)",
    "submit": "make the file to hand in from a lab's notebook (`course submit LAB`)",
}


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def remedy(extra: str) -> str:
    """The command that installs what is missing."""
    return (
        f'pip install -c constraints.txt -e ".[{extra}]"'
        if extra
        else "pip install -c constraints.txt -e ."
    )


def doctor() -> int:
    """Say what is installed and what can run, without the network;
    return 1 if a lesson cannot run.
    """
    python_ok = (3, 10) <= sys.version_info[:2] <= (3, 13)
    print(
        f"Python        {sys.version.split()[0]:<12} "
        f"{'ok' if python_ok else 'use Python 3.10 to 3.13'}"
    )
    missing = [name for name in CORE if installed(name) is None]
    for name in CORE:
        print(f"{name:<13} {installed(name) or 'missing: ' + remedy('')}")
    for name, extra in OPTIONAL.items():
        print(f"{name:<13} {installed(name) or 'not installed (optional): ' + remedy(extra)}")
    model_ok = not missing and bundled_model()
    ready = python_ok and model_ok
    lessons = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
    print(f"\nLessons on disk: {len(lessons)}")
    for lesson in lessons:
        print(f"  {'ready  ' if ready else 'blocked'} {lesson.relative_to(ROOT).as_posix()}")
    print(
        "\nEverything a lesson needs is here."
        if ready
        else "\nLessons are blocked; the lines above say what to do."
    )
    return 0 if ready else 1


def bundled_model() -> bool:
    """Load the bundled model and report it; the hub is not asked."""
    try:
        from course_utils import models

        model, _tokenizer = models.load("bundled")
    except Exception as error:
        print(
            f"bundled model does not load: {error}\n"
            "  remedy: git checkout -- course_utils/models/bundled"
        )
        return False
    print(f"bundled model {sum(p.numel() for p in model.parameters()):,} parameters, loads")
    return True


def main(arguments: list[str] | None = None) -> int:
    """The command `course`; returns its exit code."""
    parser = argparse.ArgumentParser(prog="course", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "doctor", help="what is installed, which lessons can run, and what to do about the rest"
    )
    build = commands.add_parser("build", help="make labs/ from solutions/")
    build.add_argument(
        "--check", action="store_true", help="change nothing; fail when a lab is stale"
    )
    for name, text in PASSED_ON.items():
        commands.add_parser(name, help=text, add_help=False)
    if (arguments if arguments is not None else sys.argv[1:])[:1] not in (
        [name] for name in ("doctor", "build", *PASSED_ON)
    ):
        from course_utils import command, options  # they load torch

        options.parsers(commands)
    chosen, rest = parser.parse_known_args(arguments)
    if chosen.command in PASSED_ON:
        from course_utils.grade.__main__ import main as grade

        if chosen.command in ("submit", "board"):
            return grade([chosen.command, *rest])
        return grade(rest if rest[:1] == ["report"] else ["run", *rest])
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if chosen.command == "doctor":
        return doctor()
    if hasattr(chosen, "work"):
        return command.run(chosen)
    import subprocess

    check = ["--check"] if chosen.check else []
    return subprocess.call([sys.executable, "-m", "course_utils.grade", "build", *check], cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
