"""`course board CLASS`: the Pareto board of the challenge, lab 5.4, from a class folder."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from course_utils.errors import CompressionError

LADDER = "challenge.json"
EXAMPLES = """examples:
  course board ../my-class                                       # board/board.html and board.csv in the class folder
  course board ../my-class --jobs 4 --pseudonyms --out public    # for showing: no name leaves the class folder
  course board ../my-class --entry mine.smol --name "instructor"  # the instructor's own entry; it stays on the board
  course board ../my-class --limit 3 --seeds seeds.txt           # fewer attempts; other hidden items, everything is scored anew

exit codes: 0 the board is written; 1 it is written, but some files could not be scored (--again tries them once more); 2 nothing
is written, the message says why; 130 stopped by Ctrl-C: what is scored is kept, start again.
Scores, hidden seeds and the key of the pseudonyms lie in CLASS/.board, for your account alone. Do not publish that folder.
"""  # noqa: E501


def add_board(commands: Any) -> None:
    """The options of `board`."""
    text = (
        "the Pareto board of the challenge (lab 5.4): scores what is new in a class folder, "
        "writes board.html and board.csv"
    )
    board = commands.add_parser(
        "board",
        help=text,
        description=text,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    board.add_argument(
        "course",
        type=Path,
        metavar="CLASS",
        help="the folder with submitted/<learner>/lab-5.4-challenge/",
    )
    board.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where the board is written (default: CLASS/board)",
    )
    board.add_argument(
        "--pseudonyms", action="store_true", help="a keyed hash in the place of each learner's name"
    )
    board.add_argument(
        "--entry",
        type=Path,
        metavar="FILE",
        help="score the instructor's own entry too, and keep it on the board",
    )
    board.add_argument(
        "--name", help="what the own entry is called on the board (default: instructor)"
    )
    board.add_argument(
        "--limit",
        type=int,
        default=5,
        metavar="N",
        help="files of each learner that are scored (default: 5)",
    )
    board.add_argument("--jobs", type=int, default=1, help="files at a time (default: 1)")
    board.add_argument(
        "--seeds",
        type=Path,
        metavar="FILE",
        help="whole numbers that draw the hidden items (default: drawn once, then kept)",
    )
    board.add_argument(
        "--seconds", type=float, default=300, help="the longest time for one file (default: 300)"
    )
    board.add_argument(
        "--again",
        action="store_true",
        help="score once more what could not be scored for time or memory",
    )


def command(chosen: argparse.Namespace) -> int:
    """Make the board and say what was found; 1 if some files could not be scored."""
    from . import board, board_page, names, report

    if chosen.limit < 1 or chosen.jobs < 1:
        raise CompressionError(
            f"--limit {chosen.limit} --jobs {chosen.jobs}: give numbers of at least 1."
        )
    if not 1 <= chosen.seconds <= 10**6:
        raise CompressionError(f"--seconds {chosen.seconds}: give a number from 1 to 1000000.")
    if chosen.name is not None and not chosen.entry:
        raise CompressionError("--name: names the file of --entry, which is missing.")
    if chosen.name is not None and not chosen.name.strip():
        raise CompressionError("--name: is empty; write a name, or leave it out.")
    course = chosen.course.resolve()
    if not course.is_dir():
        raise CompressionError(
            f"{chosen.course}: is no folder; give the class folder, which holds submitted/."
        )
    out = (chosen.out or course / "board").resolve()
    if out == course / ".board" or out.is_relative_to(course / "submitted"):
        raise CompressionError(
            f"--out {chosen.out}: is no place for a board; it would lie among names or submissions."
        )
    challenge = scorer()
    options = board.Options(
        challenge.score, challenge.SUFFIX, challenge.LARGEST, limit=chosen.limit, jobs=chosen.jobs,
        seconds=chosen.seconds, pseudonyms=chosen.pseudonyms, again=chosen.again,
    )  # fmt: skip
    own = (chosen.name or "instructor", chosen.entry) if chosen.entry else None
    try:
        made = board.make(course, options, baselines(), seeds=chosen.seeds, own=own)
    except KeyboardInterrupt:
        print("course board: stopped. What is scored is kept; start again.")
        return 130
    for line in [names.shown(line) for line in board.overlooked(course)][: report.SHOWN]:
        print(line)
    passed = sum(not entry.failed for entry in made.entries if entry.kind == "learner")
    print(
        f"{made.learners} learners; {passed} with an entry that passes every gate; "
        f"{len(made.refused)} files not on the board, with their reasons."
    )
    for path in board_page.write_all(out, made, chosen.limit):
        print(path)
    return 1 if made.faults else 0


def scorer() -> Any:
    """The module that scores a file: score(file, seeds), SUFFIX, LARGEST. It loads torch, so not
    before it is needed.
    """
    return importlib.import_module("course_utils.grade.challenge")


def baselines() -> list[Any]:
    """The committed ladder of the challenge (`benchmarks/challenge.py`) as entries of the board;
    none where there is no table.
    """
    from course_utils.evaluation.comparison import TABLES

    from . import board

    try:
        rows = json.loads(TABLES.joinpath("plain", LADDER).read_text(encoding="utf-8"))["rows"]
    except FileNotFoundError:
        return []
    return [
        board.entry_of(row["name"], board.checked({"valid": True, **row}, row["bytes"]), "baseline")
        for row in rows
    ]
