"""Programs that a language model wrote: each runs in the sandbox of grading, in a small process
that holds nothing else.

`run(programs)` starts one Python without torch, behind bubblewrap where grading uses it. For each
program that Python forks a confined process (no network, no files but Python's, limits on time and
memory; see `sandbox`).
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from course_utils.errors import CompressionError

from . import bubblewrap, confined, kinds, scratch
from .sandbox import Limits

SECONDS = 3  # of processor time for a program, as HumanEval allows
PATIENCE = 5  # times as long on the wall clock, for a busy machine
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def run(programs: Sequence[str], *, seconds: int = SECONDS, progress: bool = True) -> list[bool]:
    """For each program: did it run to its end without an exception, within `seconds` of processor
    time?

    What a program does stays in its own process. One that set out to could still report its own
    success, as with any harness whose tests run beside the code. Raises CompressionError if this
    machine has no sandbox: nothing was run then.
    """
    kind = kinds.best()
    if why := kinds.missing(kind):
        raise CompressionError(
            f"programs that a model wrote run in a sandbox only, and there is none here: {why}"
        )
    with scratch.folder() as place:
        (root := place / "root").mkdir()
        wall = bubblewrap.command(root) if kind == "bwrap" else []
        process = subprocess.Popen(
            [*wall, sys.executable, "-m", __name__], env={**ENVIRONMENT, "HOME": str(root)},
            cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin and process.stdout
        try:
            with process.stdin as orders:
                json.dump(
                    {"root": str(root), "seconds": seconds, "programs": ["", *programs]}, orders
                )
            lines = tqdm(
                process.stdout,
                total=len(programs) + 1,
                desc="programs",
                unit="program",
                disable=not (progress and programs),
            )
            found = [json.loads(line) for line in lines]
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    # the empty program first: does the sandbox work?
    if len(found) != len(programs) + 1 or found[0] is not True:
        raise CompressionError(
            "the sandbox for programs does not work here: "
            f"{found[0] if found else 'it ended at once'}"
        )
    return [one is True for one in found[1:]]


def outcome(program: str, root: Path, seconds: int) -> bool | str:
    """True, or why the program did not reach its end."""

    def work() -> bool:
        exec(compile(program, "<program>", "exec"), {})
        return True

    try:
        limits = Limits(cpu=seconds)
        return confined.call(work, limits, root, keep=(), seconds=PATIENCE * seconds) is True
    except confined.Died as died:
        return str(died)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    for one in given["programs"]:
        print(json.dumps(outcome(one, Path(given["root"]), given["seconds"])), flush=True)
