"""A file of the challenge is decoded in a process of its own, with limits on time, memory and
output; plain numbers come back.

Nothing of the file is run. The process has numpy and the reader, no torch, no model and no tests;
on Linux it can start no other process and open no socket. `course_utils.challenge.codecs` says what
a file may ask for; this is what stands behind it.
"""

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.challenge import file, layout
from course_utils.errors import CompressionError

from . import sandbox, seccomp
from .sandbox import Limits

SECONDS = 60.0
LIMITS = Limits(cpu=60, memory=1 << 30, tasks=64, file=1 << 20, files_open=64)
ROOT = str(Path(__file__).resolve().parents[2])
CODE = (
    f"import sys; sys.path.insert(0, {ROOT!r}); from course_utils.grade import decoding; "
    "decoding.main()"
)
HEAD = 1 << 14  # bytes of the first line that comes back


def decoded(
    content: bytes, seconds: float = SECONDS
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `challenge.file.read(content)` returns, from another process.

    Raises CompressionError with the reason for a file that is refused.
    """
    alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as given:
        given.write(content)
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", CODE], stdin=given, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, close_fds=True,
            env={**{k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH",
                "SYSTEMROOT")}, **alone},
        )  # fmt: skip
        try:
            return _answer(process, time.monotonic() + seconds, seconds)
        finally:
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()


def _answer(
    process: subprocess.Popen, until: float, seconds: float
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    assert process.stdout
    out, said, most = process.stdout.fileno(), bytearray(), HEAD + 4 * layout.PARAMETERS
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([out], [], [], left)[0]:
            raise CompressionError(f"decoding took longer than {seconds:g} seconds.")
        part = os.read(out, 1 << 20)
        said += part
        if len(said) > most:
            raise CompressionError("decoding gave more numbers than a model may have.")
        if not part:
            break
    head, _, numbers = bytes(said).partition(b"\n")
    try:
        found = json.loads(head[:HEAD])
        config = None if "problem" in found else found["config"]
    except (ValueError, KeyError, TypeError):
        raise CompressionError(
            "decoding ended without an answer: it needs more memory or time than a file may take."
        ) from None
    if "problem" in found:
        raise CompressionError(found["problem"])
    config, tensors, at = layout.check_config(config), {}, 0
    if len(numbers) != 4 * sum(map(math.prod, layout.shapes(config).values())):
        raise CompressionError("decoding gave other numbers than the model has.")
    for name, shape in layout.shapes(config).items():
        count = math.prod(shape)
        tensors[name] = np.frombuffer(numbers, "<f4", count, 4 * at).reshape(shape).copy()
        at += count
    return config, tensors


def main() -> None:
    """The process itself: a file on standard input, a line of JSON and the numbers on standard
    output.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):
        most = sandbox.address_space(LIMITS) if Path("/proc/self/statm").exists() else None
        sandbox.set_limits(LIMITS, most)
        if sys.platform == "linux":
            c = sandbox.libc()
            c.prctl(sandbox.PR_SET_DUMPABLE, 0, 0, 0, 0)
            seccomp.install(c)
    out = sys.stdout.buffer
    try:
        config, tensors = file.read(sys.stdin.buffer.read(layout.LARGEST + 1))
    except CompressionError as error:
        out.write(json.dumps({"problem": str(error)[:500]}).encode())
    except MemoryError:
        out.write(
            json.dumps({"problem": "decoding needs more memory than a file may take."}).encode()
        )
    else:
        out.write(json.dumps({"config": config}).encode() + b"\n")
        for name in layout.shapes(config):
            out.write(tensors[name].astype("<f4").tobytes())
    out.flush()
