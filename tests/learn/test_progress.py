"""Progress survives crashes, damage, parallel writers and places where nothing can be written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils.learn import ask, check, hint
from course_utils.learn.page import catalogue, events, progress


def lines():
    return events.path().read_bytes().splitlines()


def test_events_of_all_three_kinds_are_summed_up():
    check("toy.rows", lambda w: w, show=False)
    check("toy.rows", lambda w: w / (w.abs().amax(1, keepdim=True) / 7), show=False)
    ask("toy.choice").answer("A")
    ask("toy.choice").answer("B")
    ask("toy.ordering").answer(["FP32", "FP16", "INT8", "INT4"])
    for _ in range(5):
        hint("toy.rows")
    done = events.summary()
    assert (
        done.passed == {"toy.rows"}
        and done.right == {"toy.choice"}
        and done.hints == {"toy.rows": 3}
    )
    assert done.tried == {"toy.rows", "toy.choice", "toy.ordering"} and len(lines()) == 10


def test_what_was_passed_once_stays_passed():
    events.record("check", "toy.rows", passed=True)
    events.record("check", "toy.rows", passed=False)
    assert events.summary().passed == {"toy.rows"}


DAMAGE = [
    b"\xff\xfe\x00 not text",
    b"not json",
    b"[]",
    b"17",
    b'{"kind": "check"}',
    b'{"kind": "check", "id": 4, "passed": true}',
    b'{"kind": "other", "id": "toy.rows", "passed": true}',
    b'{"kind": "check", "id": "toy.pair", "passed": "yes"}',
    b'{"kind": "hint", "id": "toy.pair", "rung": "x"}',
    b"[" * 100_000,
    b'{"kind": "check", "id": "toy.rows", "pas',
]


def test_damaged_lines_are_passed_over_and_kept():
    events.record("check", "toy.rows", passed=True)
    with events.path().open("ab") as file:
        file.write(b"\n".join(DAMAGE))  # the last line is torn, as after a crash
    events.record("question", "toy.choice", passed=True)
    done = events.summary()
    assert done.passed == {"toy.rows"} and done.right == {"toy.choice"}
    assert lines()[1:-1] == DAMAGE, "damage is not thrown away"
    progress.show()


def write_and_read(capsys):
    """Do something twice; it is remembered, and said once."""
    for name in ("toy.choice", "toy.ordering"):
        events.record("question", name, passed=True)
    assert events.summary().right == {"toy.choice", "toy.ordering"}
    assert capsys.readouterr().out.count("cannot be written") == 1
    assert check("toy.rows", lambda w: w, show=True).attempted
    progress.show()


def test_a_home_that_is_a_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "file" / "below"))
    write_and_read(capsys)


def test_a_progress_file_that_is_a_folder(capsys):
    events.path().mkdir(parents=True)
    write_and_read(capsys)


def test_a_read_only_disk(capsys, monkeypatch):
    events.record("check", "toy.rows", passed=True)

    def refuse(*_arguments):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(events.os, "open", refuse)
    write_and_read(capsys)
    assert events.summary().passed == {"toy.rows"}, "what could be read is still there"


def test_a_full_disk(capsys, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(events.os, "write", full)
    write_and_read(capsys)


WRITER = """
import sys
from course_utils.learn.page import events, progress
for i in range(300):
    events.record("check", f"toy.w{sys.argv[1]}_{i}", passed=True, filler="x" * 500)
"""


def test_several_processes_write_at_once():
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(i)]) for i in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    whole = [json.loads(line) for line in lines() if line]  # a blank line is harmless
    assert len(whole) == 1200
    assert events.summary().passed == {f"toy.w{i}_{j}" for i in range(4) for j in range(300)}


def test_a_killed_writer_leaves_what_it_wrote():
    code = WRITER.replace(
        'filler="x" * 500)', 'filler="x" * 500)\n    if i == 7: os.kill(os.getpid(), 9)'
    ).replace("import sys", "import os, sys")
    assert subprocess.run([sys.executable, "-c", code, "9"], check=False).returncode == -9
    assert len(events.summary().passed) == 8


def test_the_folder_when_none_is_chosen(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_HOME")
    assert events.home() == Path(__file__).resolve().parents[2] / ".course"
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert events.home() == tmp_path / "me" / ".course"


@pytest.mark.parametrize("home", ["~/course-home", "relative"])
def test_a_chosen_folder_is_made(monkeypatch, tmp_path, home):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_HOME", home)
    events.record("check", "toy.rows", passed=True)
    assert os.path.isfile(tmp_path / home.removeprefix("~/") / "progress.jsonl")


def test_the_start_page_counts_its_own_exercise_and_question(capsys):
    progress.show()
    assert (
        "This page" in (before := capsys.readouterr().out)
        and "0/1 exercises · 0/1 questions" in before
    )
    check("start.bytes_needed", lambda count, bits: count * bits / 8, show=False)
    ask("start.smaller").answer("A")
    progress.show()
    assert "1/1 exercises · 1/1 questions" in capsys.readouterr().out
