"""`python -m course_utils.grade build [--check]`."""

import argparse
import sys
from pathlib import Path

from course_utils.errors import CompressionError

from . import build

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course_utils.grade", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="make labs/ from solutions/")
    make.add_argument("--check", action="store_true", help="change nothing; fail when a lab is stale, missing or extra")
    make.add_argument("--force", action="store_true", help="overwrite labs that hold answers")
    make.add_argument("--root", type=Path, default=ROOT, help="the folder that holds solutions/ and labs/")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.check:
            return report(build.differences(chosen.root))
        for line in build.build(chosen.root, force=chosen.force):
            print(line)
    except CompressionError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def report(found: list[str]) -> int:
    """Print what is wrong with the labs; 1 if anything is."""
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print("Run: python -m course_utils.grade build", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
