"""A place for code that nobody has read: namespaces of its own, almost no files, few system calls,
limits on everything.

Inside there is one process. It sees Python, the packages and `course_utils` (read only, without the
answers to the exercises), and an empty working folder in memory. It has no network, no /proc, no
other process, and cannot make one.
"""

import ctypes
import os
import resource
import secrets
import shutil
import signal
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import seccomp

PACKAGE = Path(__file__).resolve().parents[1]
WORK = "/tmp/work-of-learner"
HIDDEN = PACKAGE / "learn" / "exercises"  # the right answers
TEXTS = PACKAGE / "learn" / "text"  # the worked solutions are among them
SYSTEM = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NETWORK = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
DETACH, PIVOT_ROOT = 2, {"x86_64": 155, "aarch64": 41}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4


@dataclass(frozen=True)
class Limits:
    """Seconds on the wall clock, except `cpu`; sizes in bytes."""

    cell: float = 60.0  # one answer cell
    call: float = 60.0  # one call of the learner's function
    total: float = 600.0  # everything of one submission
    cpu: int = 600
    memory: int = 2 << 30  # above what the worker has when it starts
    tasks: int = 256  # threads
    folder: int = 256 << 20
    file: int = 128 << 20
    reply: int = 64 << 20
    files_open: int = 128


def libc() -> ctypes.CDLL:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def visible() -> list[Path]:
    """The folders and files that the inside can read."""
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    python += [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    found: list[Path] = []
    for path in [*map(Path, SYSTEM), *map(Path, python), PACKAGE]:
        if path.exists() and not any(path == f or f in path.parents for f in found):
            found.append(path)
    return found


def taken_away() -> dict[Path, list[Path]]:
    """Folders with answers to the exercises, each with the files in it that stay."""
    return {HIDDEN: [HIDDEN / "__init__.py"], TEXTS: sorted(TEXTS.glob("*/*.yaml"))}


def refused(root: Path) -> str:
    """Why the sandbox cannot be entered here, '' if it can: a child tries.

    `root` is an empty folder.
    """
    reader, writer = os.pipe()
    again = os.dup(writer)
    child = os.fork()
    if child == 0:
        try:
            enter(Limits(), root, writer, [again])
            os.write(again, b"\ninside")
        except BaseException as error:
            os.write(again, f"\n{error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.close(again)
    with os.fdopen(reader, "rb") as file:  # until nobody can write any more
        said = file.read().decode(errors="replace").partition("\n")[2]
    os.waitpid(child, 0)
    return "" if said == "inside" else said or "it ended at once"


def _namespaces() -> int:
    flags = NEW_MOUNTS | NEW_UTS | NEW_IPC | NEW_PIDS | NEW_NETWORK
    return flags if os.geteuid() == 0 else flags | NEW_USER


def _done(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"sandbox: {what}: {os.strerror(error)}")


def enter(
    limits: Limits, root: Path, report: int, keep: Sequence[int], data: Path | None = None, *,
    hide: bool = True,
    show: Sequence[Path] | None = None,
) -> None:  # fmt: skip
    """Call in a new child with one thread: returns inside the sandbox, in process 1 of its own.

    The child itself stays outside, writes the process id of the inside to the descriptor `report`,
    waits, and ends with the same status. `root` is an empty folder to build on; of the open files
    only `keep` survive; the folder `data` is copied into the working folder; `hide` takes away the
    answers to the exercises. With `show`, only these paths are seen, in the place of Python and the
    packages, and programs among them may be started. Raises OSError when a step is refused; nothing
    has been run then.
    """
    c = libc()
    user, group = os.geteuid(), os.getegid()
    # owns nothing, and says nothing of other workers
    alone = 2_000_000 + secrets.randbits(28) if user == 0 else user
    most = address_space(limits)
    os.setsid()
    c.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _done(c.unshare(_namespaces()), "unshare")
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    inside = os.fork()
    if inside:
        os.write(report, str(inside).encode())
        os.closerange(0, 65536)
        code = os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1])
        os._exit(code if code >= 0 else 128 - code)
    os.close(report)
    # a signal to its own group would reach the process outside, where both are of one account
    os.setsid()
    _build_root(c, root, limits, alone if user == 0 else 0, data, hide, show)
    if user == 0:
        os.setgroups([])
        os.setresgid(alone, alone, alone)
        os.setresuid(alone, alone, alone)
    _drop_capabilities(c)
    c.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    c.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    set_limits(limits, most)
    _close_all_but(keep)
    seccomp.install(c, programs=show is not None)


def address_space(limits: Limits) -> int:
    """Bytes: what this process has now, and what the limits add."""
    return (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        + limits.memory
    )


def set_limits(limits: Limits, most: int | None = None) -> None:
    """`most` is the limit on the address space, None where there is none."""
    wanted = {
        "CPU": limits.cpu, "AS": most, "NPROC": limits.tasks, "FSIZE": limits.file,
        "NOFILE": limits.files_open, "CORE": 0, "MSGQUEUE": 0, "MEMLOCK": 0,
    }  # fmt: skip
    for name, value in wanted.items():
        if value is not None and hasattr(resource, f"RLIMIT_{name}"):
            which = getattr(resource, f"RLIMIT_{name}")
            _, most = resource.getrlimit(which)
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(which, (value, value))


def _close_all_but(keep: Sequence[int]) -> None:
    before = -1
    for descriptor in [*sorted(keep), 65536]:
        if descriptor > before + 1:  # an empty range would close everything
            os.closerange(before + 1, descriptor)
        before = descriptor


def _drop_capabilities(c: ctypes.CDLL) -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    _done(c.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def _build_root(
    c: ctypes.CDLL, root: Path, limits: Limits, owner: int, data: Path | None, hide: bool,
    show: Sequence[Path] | None
) -> None:  # fmt: skip
    def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
        encoded = [text.encode() if text is not None else None for text in (source, target, kind)]
        _done(c.mount(*encoded, ctypes.c_ulong(flags), options.encode()), f"mount {target}")

    def seal(target: str) -> None:
        kept = os.statvfs(target).f_flag & (NO_SUID | NO_DEVICES | NO_EXEC | 1024 | 2048 | 4096)
        atime = (kept & 1024) | (kept & 2048) | (1 << 21 if kept & 4096 else 0)
        mount("none", target, None, BIND | REMOUNT | READ_ONLY | NO_SUID | (kept & 14) | atime)

    def place(path: Path) -> None:
        target = f"{root}{path}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if path.is_symlink():
            os.symlink(os.readlink(path), target)
            if not os.readlink(path).startswith("/") or os.path.exists(
                f"{root}{os.readlink(path)}"
            ):
                return
            os.unlink(target)
        os.mkdir(target) if path.is_dir() else Path(target).touch()
        mount(os.path.realpath(path), target, None, BIND | (RECURSIVE if path.is_dir() else 0))
        seal(target)

    mount("none", "/", None, RECURSIVE | PRIVATE)
    mount("none", str(root), "tmpfs", NO_SUID, "size=4m,mode=755")
    os.mkdir(f"{root}/tmp")  # first: Python itself may lie below /tmp
    mount(
        "none",
        f"{root}/tmp",
        "tmpfs",
        NO_SUID | NO_DEVICES,
        f"size={limits.folder},nr_inodes=4096,mode=700,uid={owner}",
    )
    for path in visible() if show is None else show:
        place(path)
    for device in DEVICES if show is None else DEVICES[:1]:
        # sealed too: one can write into it, and leave no mark on it for another worker
        place(Path(device))
    if hide:
        for folder, stay in taken_away().items():
            mask = f"{root}{folder}"
            if not os.path.isdir(mask):  # not shown at all
                continue
            mount("none", mask, "tmpfs", NO_SUID, "size=1m,mode=755")
            for path in stay:
                target = Path(f"{root}{path}")
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(path.read_bytes())
            seal(mask)
    os.symlink("/tmp", f"{root}/dev/shm")
    if data is not None:
        shutil.copytree(data, f"{root}{WORK}", ignore=shutil.ignore_patterns("*.ipynb"))
    os.makedirs(f"{root}{WORK}", exist_ok=True)
    for path in [Path(f"{root}{WORK}"), *Path(f"{root}{WORK}").rglob("*")]:
        os.chown(path, owner, -1)
    seal(str(root))
    c.sethostname(b"sandbox", 7)
    os.chdir(root)
    _done(c.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _done(c.umount2(b".", DETACH), "leave the old root")
    os.chdir(WORK)
