"""`python -m course_utils.grade`: labs from solutions, files to hand in, scores, a report on the
class, a board.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from course_utils.errors import CompressionError

from . import board_command, build

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m course_utils.grade", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="make labs/ from solutions/")
    make.add_argument(
        "--check",
        action="store_true",
        help="change nothing; fail when a lab is stale, missing or extra",
    )
    make.add_argument("--force", action="store_true", help="overwrite labs that hold answers")
    make.add_argument(
        "--root", type=Path, default=ROOT, help="the folder that holds solutions/ and labs/"
    )
    add_run(commands)
    add_report(commands)
    add_submit(commands)
    board_command.add_board(commands)
    chosen = parser.parse_args(arguments)
    # names of any kind can be printed on a terminal of any kind
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        if chosen.command == "run":
            return grade(chosen)
        if chosen.command == "submit":
            from .submit import find, submit

            notebook = chosen.notebook or find(chosen.lab)
            for line in submit(
                notebook, chosen.out or Path(f"{chosen.lab}-submission.ipynb"), chosen.lab
            ):
                print(line)
            return 0
        if chosen.command == "board":
            return board_command.command(chosen)
        if chosen.command == "report":
            from . import classroom

            for path in classroom.write_report(chosen.course.resolve()):
                print(path)
            return 0
        if chosen.check:
            return stale(build.differences(chosen.root))
        for line in build.build(chosen.root, force=chosen.force):
            print(line)
    except CompressionError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:  # no space, no permission, a folder in the place of a file
        print(
            (
                f"{error.filename2 or error.filename or chosen.command}: "
                f"{error.strerror or error}. What is done is kept; start again."
            ),
            file=sys.stderr,
        )
        return 2
    return 0


def add_run(commands: Any) -> None:
    """The options of `run`; `course grade` has the same."""
    run = commands.add_parser("run", help="grade the submissions of a lab")
    run.add_argument("lab", help="for example lab-3.1-gptq")
    run.add_argument(
        "--course",
        type=Path,
        default=Path(),
        help="the folder with submitted/ and gradebook.db (default: this one)",
    )
    run.add_argument("--root", type=Path, default=ROOT, help="the folder that holds solutions/")
    run.add_argument("--jobs", type=int, default=1, help="submissions at a time")
    run.add_argument("--seed", type=int, help="repeat the hidden inputs of an earlier run")
    run.add_argument("--again", action="store_true", help="grade also what was graded before")
    run.add_argument(
        "--seconds", type=float, default=600, help="the longest time for one submission"
    )
    text = "bubblewrap around namespaces, namespaces, or nothing (default: the first that works)"
    run.add_argument("--sandbox", choices=("bwrap", "namespaces", "none"), help=text)
    text = "run learners' code as yourself, unprotected; the same as --sandbox none"
    run.add_argument(
        "--unsafe-no-sandbox", dest="sandbox", action="store_const", const="none", help=text
    )
    text = (
        "grade on Dask's workers: of the scheduler at ADDRESS, or of --jobs "
        "processes of this machine"
    )
    run.add_argument("--dask", nargs="?", const="local", metavar="ADDRESS", help=text)


def add_report(commands: Any) -> None:
    """The options of `report`."""
    text = (
        "the whole class: the weighted parts of the assessment, hardest "
        "exercises, commonest mistakes"
    )
    report = commands.add_parser("report", help=text)
    report.add_argument(
        "--course",
        type=Path,
        default=Path(),
        help="the folder with gradebook.db and grades/ (default: this one)",
    )


def add_submit(commands: Any) -> None:
    """The options of `submit`."""
    hand_in = commands.add_parser("submit", help="make the file to hand in from a lab's notebook")
    hand_in.add_argument("lab", help="for example lab-3.1-gptq")
    hand_in.add_argument(
        "--notebook",
        type=Path,
        help="default: LAB.ipynb in labs/LAB, in this folder, or in the course's labs/LAB",
    )
    hand_in.add_argument("--out", type=Path, help="default: LAB-submission.ipynb")


def grade(chosen: argparse.Namespace) -> int:
    """Grade and print one line a learner; 1 if some could not be graded."""
    from . import kinds, lab, report, run, sandbox

    if chosen.jobs < 1:
        raise CompressionError(f"--jobs {chosen.jobs}: give a number of at least 1.")
    if not 1 <= chosen.seconds <= 10**6:  # also what is no number
        raise CompressionError(f"--seconds {chosen.seconds}: give a number from 1 to 1000000.")
    if Path(chosen.lab).name != chosen.lab:
        raise CompressionError(f"{chosen.lab}: give the lab's name alone, {Path(chosen.lab).name}.")
    kind = chosen.sandbox
    if not chosen.dask:
        kind = kind or kinds.best()
        print(f"Sandbox: {kinds.describe(kind)}.")
    opened = lab.load(chosen.root, chosen.lab)
    results = run.run(
        chosen.root, chosen.course.resolve(), opened, jobs=chosen.jobs, seed=chosen.seed, kind=kind,
        again=chosen.again, limits=sandbox.Limits(total=chosen.seconds), dask=chosen.dask,
    )  # fmt: skip
    missed = run.overlooked(chosen.course.resolve(), opened.name)
    for line in [*missed[: report.SHOWN], *report.summary(results)]:
        print(line)
    for path in report.write_all(chosen.course, opened, results, missed):
        print(path)
    if not results:
        raise CompressionError(
            f"nobody has handed in {opened.name}: there is no submitted/<learner>/{opened.name}/."
        )
    return 1 if any("fault" in result for result in results.values()) else 0


def stale(found: list[str]) -> int:
    """Print what is wrong with the labs; 1 if anything is."""
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print("Run: python -m course_utils.grade build", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
