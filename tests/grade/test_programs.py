"""Programs that a language model wrote: what counts as an end, and what they cannot do."""

import pytest

from course_utils.errors import CompressionError
from course_utils.grade import kinds, programs

TASK = (
    "def add(x):\n"
    "    return x + 1\n\ndef check(candidate):\n    assert candidate(1) == {}\n\ncheck(add)"
)
PROGRAMS = {
    "right": (TASK.format(2), True),
    "wrong": (TASK.format(3), False),
    "prints": ("print('{\"result\": false}', flush=True)", True),
    "uses its folder": ("open('a', 'w').write('x')\nassert open('a').read() == 'x'", True),
    "dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\nassert A(1).x == 1",
        True,
    ),
    "no syntax": ("def f(", False),
    "exit": ("raise SystemExit(0)", False),
    "end of the process": ("import os\nos._exit(0)", False),
    "endless": ("while True: pass", False),
    "another process": ("import os\nos.fork()", False),
    "a shell": ("import subprocess\nsubprocess.run(['ls'])", False),
    "network": ("import socket\nsocket.create_connection(('127.0.0.1', 80))", False),
    "memory": ("x = bytearray(1 << 30)", False),
    "reads outside": ("open('/etc/passwd').read()", False),
    "asks": ("input()", False),
}


def test_each_program_by_itself(tmp_path):
    assert kinds.missing("namespaces") == ""
    target = tmp_path / "written"
    tmp_path.chmod(0o777)
    sources = [source for source, _ in PROGRAMS.values()] + [
        f"open({str(target)!r}, 'w').write('x')"
    ]
    found = programs.run(sources, seconds=1, progress=False)
    assert dict(zip(PROGRAMS, found, strict=False)) == {
        name: ends for name, (_, ends) in PROGRAMS.items()
    }
    assert found[-1] is False and not target.exists()


def test_without_a_sandbox_nothing_runs(monkeypatch):
    monkeypatch.setattr(kinds, "missing", lambda kind: "this machine refuses it.")
    with pytest.raises(
        CompressionError, match="in a sandbox only, and there is none here: this machine refuses"
    ):
        programs.run(["x = 1"])


def test_a_sandbox_that_fails_is_no_wrong_program(monkeypatch):
    monkeypatch.setattr(programs, "ENVIRONMENT", {**programs.ENVIRONMENT, "PYTHONHOME": "/nowhere"})
    with pytest.raises(CompressionError, match="does not work here"):
        programs.run(["x = 1"], progress=False)
