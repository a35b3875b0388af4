"""Compile a kernel, ask it, time it: one order in, one plain answer out.

An order is {"source": text, "seed": number, "beside": text or None}; with `beside`, the source of
another kernel that is timed with it, the speed is measured. The answer is {"why": {...}} where
something is wrong (reasons: the texts of `kernels`), else {"speed": {...} or None}.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from course_utils.kernels import build

from . import compiling, trials
from .process import Fell, Launch, Plain


def answer(
    order: Mapping[str, Any], launch: Launch = Plain, run: compiling.Run = compiling.here,
    alone: Callable[[], Any] = contextlib.nullcontext
) -> dict[str, Any]:  # fmt: skip
    """What is found; nothing that the source does is raised here.

    `alone()` is a context in which nobody else measures.
    """
    if sys.platform == "win32":
        return {
            "why": {"reason": "no_compiler", "said": "the runner of kernels needs Linux or macOS."}
        }
    source, seed = order["source"], int(order["seed"])
    try:
        compiler = build.find_compiler()
        runner, plain = (compiling.program(name, compiler) for name in ("runner", "plain.so"))
    except (build.BuildError, OSError) as error:
        return {"why": {"reason": "no_compiler", "said": str(error)}}
    with tempfile.TemporaryDirectory(prefix="kernel-") as place:
        try:
            library = _compiled(compiler, source, Path(place, "kernel"), run)
            trials.right(runner, library, seed, launch)
            if order.get("beside") is None:
                return {"speed": None}
            ours = _compiled(compiler, order["beside"], Path(place, "ours"), run)
            with alone():
                return {
                    "speed": trials.ratio(
                        runner, library, {"plain": plain, "ours": ours}, seed, launch
                    )
                }
        except Fell as fell:
            return {"why": fell.why}


def _compiled(compiler: str, source: str, folder: Path, run: compiling.Run) -> Path:
    folder.mkdir()
    try:
        said = compiling.kernel(compiler, source, folder, run)
    except TimeoutError:
        raise Fell("compiler_late", seconds=compiling.SECONDS) from None
    if said:
        raise Fell("not_compiled", said=said)
    return folder / "kernel.so"
