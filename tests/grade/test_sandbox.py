"""The sandbox from inside: what is refused, what is seen, as root and as an ordinary user."""

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils.grade import sandbox, seccomp

ROOT = Path(__file__).resolve().parents[2]
INSIDE = """
import json, os, sys, tempfile
from pathlib import Path
from course_utils.grade import sandbox
reader, writer = os.pipe()
root = Path(tempfile.mkdtemp())
limits = sandbox.Limits(memory=256 << 20, file=1 << 20, folder=4 << 20, files_open=32)
if os.fork() == 0:
    try:
        sandbox.enter(limits, root, writer, [0, 1, 2], Path(sys.argv[1]))
        def tried(function):
            try:
                return repr(function())
            except BaseException as error:
                return type(error).__name__
        import ctypes, socket, threading
        libc = ctypes.CDLL(None, use_errno=True)
        def many_files():
            kept = [open("/dev/null") for _ in range(100)]
        def fill():
            for n in range(9):
                open(f"f{n}", "wb").write(bytes(1 << 20))
        def too_large():
            open("g", "wb").write(bytes(2 << 20))
        def thread():
            (t := threading.Thread(target=list)).start()
            t.join()
        print(json.dumps({
            "pid": os.getpid(), "cwd": os.getcwd(), "work": sorted(os.listdir(".")),
            "root": sorted(os.listdir("/")),
            "package": sorted(os.listdir(
                Path(sandbox.__file__).parents[1] / "learn" / "exercises")),
            "checkout": tried(lambda: sorted(os.listdir(Path(sandbox.__file__).parents[2]))),
            "data": open("data.txt").read(),
            "write": tried(lambda: open("mine", "w").write("1")),
            "outside": tried(lambda: open("/usr/lib/x", "w")),
            "package_write": tried(lambda: open(sandbox.__file__, "a")),
            "fork": tried(os.fork), "thread": tried(thread),
            "exec": tried(lambda: os.execv("/bin/sh", ["sh"])), "socket": tried(socket.socket),
            "memfd": tried(lambda: os.memfd_create("x")), "kill": tried(lambda: os.kill(-1, 9)),
            "group": os.getpgrp(), "killpg": tried(lambda: os.killpg(0, 9)),
            "ptrace": libc.ptrace(16, 1, 0, 0), "unshare": libc.unshare(0x10000000),
            "mount": libc.mount(b"x", b"/tmp", b"tmpfs", 0, b""),
            "memory": tried(lambda: bytearray(1 << 30)), "files": tried(many_files),
            "large": tried(too_large), "fill": tried(fill),
            "proc": os.path.exists("/proc"), "host": os.uname().nodename,
        }), flush=True)
    except BaseException as error:
        print(json.dumps({"failed": repr(error)}), flush=True)
    os._exit(0)
os.wait()
"""
AS_USER = [
    "unshare",
    "-U",
    "--map-user=1000",
    "--map-group=1000",
    "setpriv",
    "--inh-caps=-all",
    "--bounding-set=-all",
]
WALL = """
import os, sys
from pathlib import Path
from course_utils.grade import bubblewrap
words = bubblewrap.command(Path("/tmp/empty"), read=[Path(sys.argv[2])])
os.execv(words[0], [*words, sys.executable, "-c", *sys.argv[1:]])
"""
no_bubblewrap = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed"
)


@pytest.mark.parametrize(
    "wall", [[], pytest.param(["-c", WALL], marks=no_bubblewrap)], ids=["namespaces", "bubblewrap"]
)
@pytest.mark.parametrize(
    "before",
    [[], AS_USER] if os.geteuid() == 0 else [[]],
    ids=["root", "user"][: 2 if os.geteuid() == 0 else 1],
)
def test_the_inside(tmp_path, before, wall):
    (tmp_path / "data.txt").write_text("of the lab")
    (tmp_path / "lab.ipynb").write_text("hidden")
    done = subprocess.run(
        [*before, sys.executable, *(wall or ["-c"]), INSIDE, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert "failed" not in found, found
    assert (
        found["pid"] == 1
        and found["cwd"] == sandbox.WORK
        and found["work"] == ["data.txt"]
        and found["data"] == "of the lab"
    )
    assert found["package"] == ["__init__.py"], "the right answers are not there"
    assert "solutions" not in found["checkout"] and "tests" not in found["checkout"]
    assert (
        not {"home", "bin", "sbin", "var", "proc", "sys", "mnt"} & set(found["root"])
        and not found["proc"]
    )
    assert found["host"] == "sandbox" and found["write"] == "1" and found["thread"] == "None"
    assert {found[name] for name in ("fork", "exec", "socket", "memfd")} == {"PermissionError"}
    assert {found[name] for name in ("outside", "large", "fill", "files")} == {"OSError"}
    assert found["package_write"] in ("OSError", "PermissionError")
    assert found["kill"] == "ProcessLookupError" and found["memory"] == "MemoryError"
    assert found["group"] == 1 and found["killpg"] == "None", (
        "the process outside is in another group, and lives"
    )
    assert found["ptrace"] == found["unshare"] == found["mount"] == -1


def run_filter(code, machine, number, argument=0):
    """What a filter answers: an interpreter of the few instructions that it may hold."""
    data = struct.pack("<iIQQ", number, seccomp.AUDIT_ARCH[machine], 0, argument)
    lines, place, held = list(struct.iter_unpack("HBBI", code)), 0, 0
    while True:
        kind, true, false, k = lines[place]
        place += 1
        if kind == seccomp.RETURN:
            return k
        if kind == seccomp.LOAD:
            held = struct.unpack_from("<I", data, k)[0]
            continue
        holds = {
            seccomp.JUMP_EQUAL: held == k,
            seccomp.JUMP_AT_LEAST: held >= k,
            seccomp.JUMP_ANY_BIT: bool(held & k),
        }[kind]
        place += true if holds else false


@pytest.mark.parametrize(("column", "machine"), enumerate(seccomp.AUDIT_ARCH))
def test_the_filter_refuses_what_it_names_and_lets_the_rest_through(column, machine):
    code = seccomp.program(machine)
    named = {pair[column] for pair in seccomp.REFUSED.values()} - {None}
    other = {seccomp.CLONE[column], seccomp.CLONE3[column]}
    for number in range(460):
        answer = run_filter(code, machine, number)
        assert (answer == seccomp.ALLOW) == (number not in named | other), number
    assert run_filter(code, machine, seccomp.CLONE[column], 0x10000 | 0x100) == seccomp.ALLOW, (
        "a thread"
    )
    assert run_filter(code, machine, seccomp.CLONE[column], 17) != seccomp.ALLOW, "a process"
    assert run_filter(code, machine, seccomp.CLONE3[column]) != seccomp.ALLOW
    assert run_filter(code, machine, seccomp.X32 | 57) != seccomp.ALLOW


def test_the_numbers_are_those_of_this_kernel():
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if platform.machine() != "x86_64" or not header.is_file():
        pytest.skip("the kernel's headers for x86-64 are not installed")
    numbers = dict(
        line.split()[1:3]
        for line in header.read_text().splitlines()
        if line.startswith("#define __NR_")
    )
    assert {name: str(pair[0]) for name, pair in seccomp.REFUSED.items()} == {
        name: numbers[f"__NR_{name}"] for name in seccomp.REFUSED
    }
