"""The notebooks of the course, and how tests run one."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
START = [ROOT / "notebooks/start.ipynb"]
SOLUTIONS = sorted((ROOT / "solutions").glob("*/*.ipynb"))
LABS = sorted((ROOT / "labs").glob("*/*.ipynb"))
MEMORY_LIMIT = 4 * 2**30  # bytes
PAPERMILL = ["papermill", "--start-timeout", "300"]  # a busy machine


def name(path: Path) -> str:
    return path.stem


def run(command: list[str], home: Path, log: Path) -> None:
    """Run a command on its own progress file; fail with its last lines, or when one of its kernels
    took too much memory.
    """
    (peaks := home / "peaks").touch()
    environment = {
        **os.environ,
        "COURSE_HOME": str(home),
        "COURSE_TEST_PEAKS": str(peaks),
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as out:
        code = subprocess.call(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
    assert code == 0, log.read_text(errors="replace")[-4000:]
    with peaks.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until each kernel has written its peak
        kilobytes = [int(line) for line in file]
    assert kilobytes or "COURSE_TEST_COPIES" not in os.environ, (
        "no kernel has told its peak of memory"
    )
    peak = max(kilobytes, default=0) * 1024
    assert peak < MEMORY_LIMIT, f"{peak / 2**30:.1f} GiB in one kernel"


def check_lesson(path: Path, folder: Path) -> None:
    options = ["--nbval-lax", "-o", "addopts=", "--nbval-cell-timeout=600"]
    options += ["--nbval-kernel-startup-timeout=300"]
    options += [f"-pno:{plugin}" for plugin in ("cacheprovider", "xdist", "hypothesispytest")]
    run(["pytest", *options, str(path)], folder, folder / "log")
