"""An outer wall where bubblewrap is installed: the process that forks the workers sees almost no
files and no network.

bubblewrap starts programs, and a Python that has loaded torch and a lab takes seconds to start. So
one bubblewrap holds the zygote with all workers of a run, and each worker is still shut off from
the others by `sandbox.enter` inside it.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import sandbox, scratch

WAIT = 120  # seconds for the trial
# what `sandbox.enter` needs when the grader is root; an ordinary user's worker has them in a user
# namespace of its own
ROOT_NEEDS = ("SYS_ADMIN", "SETUID", "SETGID", "CHOWN", "FOWNER", "DAC_OVERRIDE", "KILL")


def command(root: Path, *, read: Sequence[Path] = (), change: Sequence[Path] = ()) -> list[str]:
    """What stands before a command of this Python that shall see, besides Python and
    `course_utils`, only these paths.

    `root` becomes an empty folder, and the current one.
    """
    words = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]
    words += ["--die-with-parent", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    if os.geteuid() == 0:
        words += [word for name in ROOT_NEEDS for word in ("--cap-add", f"CAP_{name}")]
    for path in [*sandbox.visible(), Path(sys.base_prefix), Path(sys.prefix), *read]:
        linked = path.is_symlink() and not os.readlink(path).startswith("/")
        words += (
            ["--symlink", os.readlink(path), str(path)]
            if linked
            else ["--ro-bind", str(path), str(path)]
        )
    for folder, stay in sandbox.taken_away().items():
        words += [
            "--tmpfs",
            str(folder),
            *(word for path in stay for word in ("--ro-bind", str(path), str(path))),
        ]
    for path in change:
        words += ["--bind", str(path), str(path)]
    return [*words, "--dir", str(root), "--chdir", str(root)]


@functools.cache
def problem() -> str:
    """Why bubblewrap cannot be used here, '' when it can: a worker's sandbox is entered inside of
    it.
    """
    if shutil.which("bwrap") is None:
        return "bubblewrap (the command bwrap) is not installed."
    with scratch.folder() as folder:
        words = [*command(folder), sys.executable, "-m", __name__, str(folder)]
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, timeout=WAIT
            )
            said, why = done.stdout.strip(), done.stderr.strip()
        except (OSError, subprocess.TimeoutExpired) as error:
            said, why = "", str(error)
    return "" if said == "inside" else f"bubblewrap does not work here: {(said or why)[-500:]}"


if __name__ == "__main__":  # inside: a worker's sandbox is tried
    print(sandbox.refused(Path(sys.argv[1])) or "inside")
