"""Which sandbox is in force: bubblewrap around namespaces, namespaces, or nothing at all."""

import os
import sys
from pathlib import Path

from course_utils.errors import CompressionError

from . import bubblewrap, sandbox, scratch, seccomp

KINDS = ("bwrap", "namespaces", "none")


def check_private(*paths: Path) -> None:
    """Raises CompressionError if the sandbox could read one of the paths."""
    for path in paths:
        for folder in sandbox.visible():
            if folder.resolve() in [path.resolve(), *path.resolve().parents]:
                raise CompressionError(
                    f"{path}: lies in {folder}, which learners' code can read; "
                    "move it somewhere else."
                )


def best() -> str:
    """The kind of sandbox to use if none is asked for."""
    return "namespaces" if sys.platform != "linux" or bubblewrap.problem() else "bwrap"


def missing(kind: str) -> str:
    """Why there is no sandbox of this kind here, with the remedy; '' when there is one.

    Inside bubblewrap, too, each worker has namespaces of its own; and those who judge have them
    without it.
    """
    if sys.platform != "linux":
        return (
            f"grading needs the namespaces of Linux, and this is {sys.platform}. "
            "Grade in a Linux container, a virtual machine or WSL 2 (docs/instructor.md)."
        )
    if kind == "none":
        return ""
    if kind == "bwrap" and (why := bubblewrap.problem()):
        return f"{why} Without it: --sandbox namespaces."
    with scratch.folder() as folder:
        (folder / "root").mkdir()
        why = sandbox.refused(folder / "root")
    return why and (
        f"this machine refuses a step of it ({why}). Allow new namespaces with `sudo sysctl "
        "kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0`, "
        "start the container with --security-opt seccomp=unconfined, or grade as "
        "root (docs/instructor.md)."
    )


def describe(kind: str) -> str:
    """What is in force, in a few words."""
    if kind == "none":
        return "none, learners can do here what you can do"
    wall = "bubblewrap around " if kind == "bwrap" else ""
    who = "a user id of its own" if os.geteuid() == 0 else "a user namespace"
    calls = "seccomp" if seccomp.supported() else "no seccomp on this machine"
    return (
        f"{wall}namespaces (mount, process, network, IPC, host name), {who}, no capabilities, "
        f"{calls}, resource limits"
    )


def check_sandbox(kind: str, *private: Path) -> None:
    """Raises CompressionError if there is no such sandbox here, or if learners' code could read one
    of the paths.
    """
    if why := missing(kind):
        unprotected = (
            " To run it unprotected all the same: --unsafe-no-sandbox."
            if sys.platform == "linux"
            else ""
        )
        raise CompressionError(f"no sandbox: {why}{unprotected}")
    if kind != "none":
        check_private(*private)
