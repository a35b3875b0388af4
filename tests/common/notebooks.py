"""The notebooks of the course, and how tests run one."""

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


def name(path: Path) -> str:
    return path.stem


def run(command: list[str], home: Path, log: Path) -> None:
    """Run a command on its own progress file; fail with its last lines, or when it took too much memory."""
    environment = {**os.environ, "COURSE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, log.read_text(errors="replace")[-4000:]
    unit = 1 if sys.platform == "darwin" else 1024
    assert usage.ru_maxrss * unit < MEMORY_LIMIT, f"{usage.ru_maxrss * unit / 2**30:.1f} GiB in one process"


def check_lesson(path: Path, folder: Path) -> None:
    options = ["--nbval-lax", "-o", "addopts=", "--nbval-cell-timeout=300"]
    options += [f"-pno:{plugin}" for plugin in ("cacheprovider", "xdist", "hypothesispytest")]
    run(["pytest", *options, str(path)], folder, folder / "log")
