"""Start the process that forks workers; see `zygote` for what happens in it."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from course_utils.errors import CompressionError

from . import bubblewrap, scratch
from .sandbox import Limits

LONGEST = 107  # bytes of a socket's path on Linux


class Zygote:
    """The process that forks workers for one lab.

    A context manager; everything it started ends with it.
    """

    def __init__(
        self,
        prelude: Sequence[tuple[str, str]],
        limits: Limits,
        *,
        data: Path | None = None,
        kind: str = "namespaces",
    ) -> None:
        self.opened = contextlib.ExitStack()
        self.folder = self.opened.enter_context(scratch.folder())
        self.address = f"{self.folder}/zygote"
        if len(os.fsencode(self.address)) > LONGEST:
            self.opened.close()
            raise CompressionError(
                f"{tempfile.gettempdir()}: too long a path for a socket; "
                "set TMPDIR to a shorter one, such as /tmp."
            )
        (root := self.folder / "root").mkdir()
        (self.folder / "bench").mkdir()
        self.bench = self.folder / "bench"  # an empty folder for those who judge
        if data is not None:  # a copy, so that the solution beside it is nowhere near
            given = self.folder / "data"
            data = shutil.copytree(
                data, given, ignore=shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints")
            )
        fonts = shutil.copytree(_fonts(), self.folder / "fonts", ignore=_all_but_fonts)
        wall = (
            bubblewrap.command(root, read=[data] if data else [], change=[fonts])
            if kind == "bwrap"
            else []
        )
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self.address)
        listener.listen(64)
        orders = {
            "prelude": prelude,
            "limits": asdict(limits),
            "root": str(root),
            "data": data and str(data),
            "unsafe": kind == "none",
        }
        environment = {
            "HOME": str(root),
            "MPLCONFIGDIR": str(fonts),
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
        }
        environment |= {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "COURSE_STATIC": "1",
            "TQDM_DISABLE": "1",
        }
        environment |= {
            "TORCHDYNAMO_DISABLE": "1"
        }  # torch.compile leaves a function as it is: there is no compiler inside
        environment |= {"JOBLIB_MULTIPROCESSING": "0"}  # joblib works in one process then
        self.process = subprocess.Popen(
            [*wall, sys.executable, "-m", f"{__package__}.zygote", str(listener.fileno())],
            env=environment, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()], start_new_session=True,
        )  # fmt: skip
        listener.close()
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(orders).encode() + b"\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        while said and not said.startswith(b'{"'):  # a lab's own cells may print
            said = self.process.stdout.readline()
        if b"ready" not in said:
            self.close()
            raise CompressionError(
                "the cells before the first answer do not run: "
                f"{said.decode(errors='replace').strip()[:500]}"
            )

    def close(self) -> None:
        """End the process and all that it started."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.opened.close()

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fonts() -> str:
    """Matplotlib's cache, so that it is not made anew."""
    import matplotlib

    return matplotlib.get_cachedir()


def _all_but_fonts(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("fontlist")]
