"""`course board`: who counts, what is refused, what is kept, and that no name gets out."""

import csv
import io
import json
import os
import random
import shlex
import signal
import stat
import time
from multiprocessing import forkserver
from pathlib import Path

import board_entries as made
import pytest
from instructor_page import section

from course_utils.cli import main as course
from course_utils.errors import CompressionError
from course_utils.grade import board, board_command, board_page, handed_in, ledger, standing
from course_utils.grade.__main__ import main
from course_utils.grade.standing import Entry

NAMES = [
    "ann", '=cmd|"c calc"!A1', "<script>parent.marked=1<!--", "<img src=x onerror=1>", "\u202eevil",
    "new\nline", "學生", "x" * 250, os.fsdecode(b"caf\xe9"), "-rf", "'; drop table", "@SUM(A1)",
    "%s{0}", "Zoë Ångström",
]  # fmt: skip


def hand_in(course, learner, name="a.entry", content=None, **given):
    path = course / "submitted" / learner / board.LAB / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.entry(**given) if content is None else content)
    return path


def options(**given):
    return board.Options(made.score, made.SUFFIX, made.LARGEST, progress=False, **given)


def rows_of(made_board):
    """The CSV's rows of entries, by name."""
    text = board_page.table(made_board, standing.standing(made_board.entries))
    return {
        row["entry"].removeprefix("'"): row
        for row in csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
        if "refused" not in row["kind"]
    }


def reasons(made_board):
    return {(name, number): why for name, number, why in made_board.refused}


# --- standing ---


def random_entries(rng, n):
    """Few sizes and values, so that ties are common."""
    return [
        Entry(f"e{i}", rng.choice([500, 600, 700, 1000]) * 100, {
            name: standing.shown_gate(gate)
            for name, gate in made.measured(
                half=rng.choice([0.001, 0.02]), facts_tail=rng.choice([0.97, 0.98, 0.99, 1.0]),
                KL=rng.choice([0.001, 0.01, 0.03, float("nan")])
            ).items()
        }, rng.choice(["learner", "learner", "instructor", "baseline"]))
        for i in range(n)
    ]  # fmt: skip


def test_the_board_is_that_of_brute_force():
    rng = random.Random(0)
    for n in [1, 2, 3, *[12] * 60]:
        entries = random_entries(rng, n)
        rows = {row.entry.name: row for row in standing.standing(entries)}
        assert len(rows) == n
        for e in entries:
            better = [
                o for o in entries if o.bytes <= e.bytes and o.worst[1] <= e.worst[1] and (
                    o.bytes < e.bytes or o.worst[1] < e.worst[1])
            ]  # fmt: skip
            assert rows[e.name].on_front == (not better)
            ranked = [o for o in entries if o.kind == "learner" and not o.failed]
            assert rows[e.name].rank == (
                sorted(o.bytes for o in ranked).index(e.bytes) + 1 if e in ranked else None
            )
            front = [o for o in entries if rows[o.name].on_front]
            equal = (
                {o.name for o in front if o.bytes < e.bytes and e.span[1] >= o.span[0]}
                if e in front
                else set()
            )
            assert rows[e.name].equal_to in equal if equal else rows[e.name].equal_to == ""
        # of entries with the same gates
        order = [(len(r.entry.failed), r.entry.bytes) for r in standing.standing(entries)]
        assert order == sorted(order)


def test_allowances_by_hand():
    gates = {
        name: standing.shown_gate(gate)
        for name, gate in made.measured(facts_tail=0.99, KL=0.005).items()
    }
    entry = Entry("x", 10, gates)
    assert standing.allowance(gates["facts tail"], 0.99) == pytest.approx(
        0.5
    ) and standing.allowance(gates["KL"], 0.005) == pytest.approx(0.25)
    assert (
        entry.worst[0] == "addition" and entry.worst[1] == pytest.approx(0.6) and entry.failed == []
    )
    exact = {"value": 1.0, "needed": 1.0, "lower": False}
    assert standing.allowance(exact, 1.0) == 0 and standing.allowance(exact, 0.999) == float("inf")
    assert standing.allowance(gates["KL"], float("nan")) == float("inf") and Entry(
        "none", 1, {}
    ).worst == ("", float("inf"))


def test_a_collapse_of_which_one_gate_was_asked_is_the_last():
    """It fails one gate, as an entry does that lacks a single fact."""
    gates = {
        name: standing.shown_gate(gate)
        for name, gate in made.measured(facts_tail=0.97, KL=2.0).items()
    }
    entries = [
        Entry("collapsed", 10, {"KL": gates["KL"]}),
        Entry("nearly", 99, {n: g for n, g in gates.items() if n != "KL"}),
    ]
    assert [row.entry.name for row in standing.standing(entries)] == ["nearly", "collapsed"]


def test_an_entry_passes_only_if_the_scorer_says_so():
    gates = {"KL": made.measured()["KL"]}
    score = {"valid": True, "gates": gates, "passed": False}
    assert board.entry_of("x", board.checked(score, 5), "learner").failed == ["KL"]
    assert board.entry_of("x", board.checked(score | {"passed": True}, 5), "learner").failed == []


def test_what_is_shown_is_rounded():
    assert (
        standing.rounded(0.98312, False) == 0.985
        and standing.rounded(0.013478, True) == 0.013
        and standing.rounded(-0.0, True) == 0
    )
    gate = {"value": 0.97999, "interval": [0.9712, 0.9888], "needed": 0.98, "passed": False}
    assert standing.shown_gate(gate | {"lower": False}) == {
        "value": 0.98,
        "interval": [0.97, 0.99],
        "needed": 0.98,
        "passed": False,
        "lower": False,
    }


# --- a class ---


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A class as it may be; each hostile file and folder of it may cost its own row only."""
    course = tmp_path_factory.mktemp("class")
    for n, name in enumerate(NAMES):
        hand_in(course, name, size=2000 + n, id=name.encode("utf-8", "replace").decode())
    for do in ("die", "raise", "nonsense", "exit", "grow"):
        hand_in(course, f"does-{do}", do=do)
    hand_in(course, "garbage", content=b"<b>PK\x03\x04" * 100)
    hand_in(course, "empty", content=b"")
    hand_in(course, "huge", content=b" " * (made.LARGEST + 1))
    hand_in(course, "says", reason="unknown key 'ann' for Zoë Ångström & <b>")
    folder = hand_in(course, "notebook-only", "lab.ipynb", content=b"{}").parent
    os.mkfifo(folder.parent / "p")
    for learner, target in {
        "link": course / "submitted" / "ann" / board.LAB / "a.entry",
        "zero": Path("/dev/zero"),
        "gone": Path("nowhere"),
    }.items():
        place = course / "submitted" / learner / board.LAB
        place.mkdir(parents=True)
        (place / "a.entry").symlink_to(target)
    os.mkfifo(hand_in(course, "pipe", "x.txt", content=b"").parent / "a.entry")
    (course / "submitted" / "linked").symlink_to(course / "submitted" / "ann")
    (course / "submitted" / "folder" / board.LAB / "a.entry").mkdir(parents=True)
    return course


@pytest.fixture(scope="module")
def found(strange):
    first = board.make(strange, options(jobs=2), [])
    hand_in(strange, "does-hang", do="hang")  # alone, so that a busy machine makes nobody else late
    second = board.make(strange, options(seconds=2), [])
    assert (first.faults, second.faults) == (5, 1)
    return second


def test_a_hostile_file_costs_its_own_row_only(found):
    said, rows = reasons(found), rows_of(found)
    assert (
        sum(row["kind"] == "learner" for row in rows.values()) == len(NAMES)
        and rows["ann"]["rank"] == "1"
    )
    assert (
        said["does-die", "1"] == "the process that scored it was ended by signal 9 (memory?)"
        and "ended without" in said["does-exit", "1"]
    )
    assert (
        said["does-hang", "1"] == "no score after 2 seconds"
        and said["does-nonsense", "1"] == "the scorer's answer is no score"
    )
    assert (
        said["does-raise", "1"] == "RuntimeError: a scorer's own mistake"
        and "memory" in said["does-grow", "1"]
    )
    assert (
        "no entry" in said["garbage", "1"]
        and said["empty", ""] == "the file is empty"
        and "larger than 200,000" in said["huge", ""]
    )
    assert all(
        "links are not followed" in said[learner, ""] for learner in ("link", "zero", "gone")
    )
    assert (
        said["pipe", ""] == "it is no plain file"
        and ".entry" in said["notebook-only", ""]
        and ".entry" in said["folder", ""]
    )
    assert not any(name == "linked" for name, _ in said) and "linked" not in rows


def test_a_second_run_scores_nothing_and_again_only_faults(strange, found, monkeypatch):
    asked = []
    monkeypatch.setattr(
        board.apart,
        "score",
        lambda work, copy, *rest, **more: asked.append(copy.read_bytes()) or made.score(copy, (1,)),
    )
    second = board.make(strange, options(), [])
    assert (
        asked == []
        and second.entries == found.entries
        and second.refused == found.refused
        and second.faults == 0
    )
    monkeypatch.setattr(made.time, "sleep", lambda _: None)
    path = strange / ledger.FOLDER / ledger.SCORES
    before = path.read_bytes()
    monkeypatch.setattr(
        board.apart,
        "score",
        lambda work, copy, *rest, **more: (
            asked.append(copy) or {"valid": False, "reason": "now known"}
        ),
    )
    again = board.make(strange, options(again=True), [])
    assert (
        len(asked) == 6
        and reasons(again)["does-die", "1"] == "now known"
        and again.entries == found.entries
    )
    path.write_bytes(before)


def test_csv_and_html_of_strange_names_do_nothing(strange, found):
    rows = standing.standing(found.entries)
    for line in csv.reader(io.StringIO(board_page.table(found, rows).removeprefix("\ufeff"))):
        assert not any(value.lstrip().startswith(("=", "+", "-", "@")) for value in line)
    text = board_page.page(found, rows, 5)
    assert (
        text.count("<script") == 1
        and "<img" not in text
        and "onerror=1&gt;" in text
        and "\u202e" not in text
        and len(text) < 100_000
    )


def test_no_name_gets_out_under_pseudonyms(strange, found):
    hidden = board.make(strange, options(pseudonyms=True), [])
    out = strange / "public"
    texts = [
        path.name + path.read_text("utf-8-sig") for path in board_page.write_all(out, hidden, 5)
    ]
    words = [
        *(name for name in NAMES if name != "-rf"),
        "does-die",
        "garbage",
        "notebook-only",
        "cmd|",
        "marked=1",
        "Ångström",
        "caf",
        "a.entry",
        "new line",
        "學",
    ]
    for text in texts:
        assert not [word for word in words if word in text] and "p-" in text
    assert sorted(path.name for path in out.iterdir()) == ["board.csv", "board.html"]
    again = board.make(strange, options(pseudonyms=True), [])
    assert again.entries == hidden.entries and again.refused == hidden.refused
    key = strange / ledger.FOLDER / ledger.KEY
    assert (
        stat.S_IMODE(key.stat().st_mode) == 0o600
        and stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    )
    kept = key.read_bytes()
    key.unlink()
    other = board.make(strange, options(pseudonyms=True), [])
    assert not {e.name for e in other.entries} & {e.name for e in hidden.entries}, (
        "other words under another key"
    )
    key.write_bytes(kept)
    assert len({e.name for e in found.entries} | {name for name, _, _ in found.refused}) == len(
        {e.name for e in hidden.entries} | {n for n, _, _ in hidden.refused}
    )


# --- what counts ---


@pytest.fixture
def here(monkeypatch):
    """Files are scored in this process, which is faster."""
    monkeypatch.setattr(
        board.apart, "score", lambda work, copy, seeds, **more: made.score(copy, seeds)
    )


def test_limits_and_the_best_of_the_first(tmp_path, here):
    sizes = {
        "2026-11-03 10:00": 1500,
        "2026-11-01 10:00": 3000,
        "2026-11-02 10:00": 2500,
        "2026-11-04 10:00": 1000,
    }
    for date, size in sizes.items():
        hand_in(tmp_path, "ann", f"{date}/a.entry", size=size)
    hand_in(tmp_path, "bob", "2026-11-01.entry", size=900, gates={"KL": 0.05})
    hand_in(tmp_path, "bob", "2026-11-02.entry", size=5000)
    hand_in(tmp_path, "bob", "2026-11-03.entry", content=b"damaged")
    hand_in(tmp_path, "bob", "2026-11-04.entry", size=5000)  # the same bytes again
    hand_in(tmp_path, "cyd", size=2500)  # as ann's, byte for byte
    first = board.make(tmp_path, options(limit=3), [])
    rows = rows_of(first)
    assert rows["ann"]["bytes"] == "1500" and rows["ann"]["files scored"] == "3", (
        "the fourth is not scored"
    )
    assert reasons(first) == {
        ("ann", "4"): "not scored: 3 attempts are scored",
        ("bob", "3"): reasons(first)["bob", "3"],
    }
    assert (rows["bob"]["bytes"], rows["bob"]["files scored"], rows["bob"]["gates failed"]) == (
        "5000",
        "2",
        "",
    ), "not the smaller one that fails"
    by_name = {entry.name: entry for entry in first.entries}
    assert (
        by_name["bob"].bytes == 5000
        and by_name["cyd"].note == "the same file as ann"
        and by_name["ann"].note == ""
    )
    # a clock that was set back buys no place before the others
    hand_in(tmp_path, "ann", "1999-01-01 00:00/a.entry", size=700)
    os.utime(hand_in(tmp_path, "bob", "z.entry", size=4000), (4e9, 4e9))
    second = board.make(tmp_path, options(limit=3), [])
    assert {e.name: e.bytes for e in second.entries} == {
        "ann": 1500,
        "bob": 4000,
        "cyd": 2500,
    } and ("ann", "5") in reasons(second)
    for path in (tmp_path / "submitted" / "ann" / board.LAB).rglob("*.entry"):
        path.unlink()
    hand_in(tmp_path, "ann", size=600)  # as nbgrader collects: the newest one replaces the others
    third = board.make(tmp_path, options(limit=3), [])
    assert {e.name: e.bytes for e in third.entries}["ann"] == 1500 and ("ann", "6") in reasons(
        third
    )
    (tmp_path / "seeds").write_text("1 2\n3")
    other = board.make(tmp_path, options(limit=3), [], seeds=tmp_path / "seeds")
    assert reasons(other)["ann", "1"] == "not scored with these seeds: the file was replaced before"
    assert {e.name: e.bytes for e in other.entries}["ann"] == 600
    with ledger.opened(tmp_path) as book:
        assert book.seeds == (1, 2, 3) and len(book.scores) == 2, "and later runs use them"


def test_refused_files_use_up_no_attempt_but_not_without_end(tmp_path, here):
    for n in range(10):
        hand_in(tmp_path, "ann", f"2026-11-{n + 1:02}.entry", content=b"damaged %d" % n)
    hand_in(tmp_path, "bob", "2026-11-01.entry", content=b"damaged")
    hand_in(tmp_path, "bob", "2026-11-02.entry")
    found = board.make(tmp_path, options(limit=1), [])
    assert [e.name for e in found.entries] == ["bob"]
    assert (
        sum(why.startswith("no entry") for why in reasons(found).values()) == 4
        and reasons(found)["ann", "4"] == "not scored: 1 attempts are scored"
    )


def test_times_of_files(tmp_path):
    place = tmp_path / "ann" / board.LAB
    for name, told in {
        "a": "2026-11-30 09:00:00 UTC",
        "b": "2026-11-29 09:00:00 UTC",
        "2026-11-28 c": "9999-99-99 99:99",
        "d": "",
    }.items():
        (place / name).mkdir(parents=True)
        (place / name / "x.ENTRY").write_text(name)
        (place / name / "timestamp.txt").write_text(told)
    os.utime(place / "d" / "x.ENTRY", (0, 0))
    assert [path.parent.name for path in handed_in.of(place, ".entry", 100).files.values()] == [
        "d",
        "2026-11-28 c",
        "b",
        "a",
    ]


def test_scores_of_a_former_form_are_made_anew(tmp_path, here):
    hand_in(tmp_path, "ann", size=1500)
    first = board.make(tmp_path, options(), [])
    path = tmp_path / ledger.FOLDER / ledger.SCORES
    data = json.loads(path.read_bytes()) | {"format": 1}
    for scores in data["scores"].values():
        for score in scores.values():
            for gate in score["gates"].values():
                del gate["lower"]
    path.write_text(json.dumps(data))
    assert board.make(tmp_path, options(), []).entries == first.entries


# --- kills ---


def scored(log):
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def test_kills_lose_nothing_and_score_nothing_twice(tmp_path):
    log, rng = tmp_path / "log", random.Random(3)
    for n in range(12):
        hand_in(tmp_path, f"learner-{n}", id=f"n{n}", do="slow", log=str(log), size=1000 + n)
    path = tmp_path / ledger.FOLDER / ledger.SCORES

    def kept():
        return (
            {sha for scores in json.loads(path.read_bytes())["scores"].values() for sha in scores}
            if path.exists()
            else set()
        )

    done = set()
    for kill in range(3):
        child = os.fork()
        if child == 0:
            # one of its own, as a run of the command has
            vars(forkserver._forkserver).update(vars(forkserver.ForkServer()))
            try:
                board.make(tmp_path, options(jobs=2), [])
            finally:
                os._exit(0)
        until = time.monotonic() + 60
        while len(kept()) < min(11, len(done) + 2) and time.monotonic() < until:
            time.sleep(rng.uniform(0.01, 0.1))
        os.kill(child, signal.SIGKILL)
        assert (
            os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL and done <= kept()
        ), f"kill {kill}"
        done = kept()
    whole = board.make(tmp_path, options(), [])
    assert len(whole.entries) == 12 and set(scored(log)) == {f"n{n}" for n in range(12)}
    assert len(scored(log)) <= 12 + 3 * 2, (
        "only what was under way at a kill, two files at most, is scored again"
    )
    assert (
        not list(path.parent.glob(".*unfinished*")) and stat.S_IMODE(path.stat().st_mode) == 0o600
    )


def test_a_run_that_is_stopped_keeps_what_is_scored_and_nothing_else(
    tmp_path, command, monkeypatch
):
    def score(work, copy, seeds, **more):
        if b"bob" in copy.read_bytes():
            raise KeyboardInterrupt
        return made.score(copy, seeds)

    for learner in ("ann", "bob", "cyd"):
        hand_in(tmp_path, learner, id=learner)
    with monkeypatch.context() as patched:
        patched.setattr(board.apart, "score", score)
        code, said = command(tmp_path)
    assert code == 130 and "start again" in said.out and not (tmp_path / "board").exists()
    kept = json.loads((tmp_path / ledger.FOLDER / ledger.SCORES).read_bytes())["scores"]
    assert 1 <= sum(map(len, kept.values())) <= 2
    assert command(tmp_path)[0] == 0 and "3 learners; 3 with" in command(tmp_path)[1].out


def test_two_runs_at_once_are_refused(tmp_path):
    hand_in(tmp_path, "ann")
    with (
        ledger.opened(tmp_path),
        pytest.raises(CompressionError, match=r"another `course board` works on this class"),
    ):
        board.make(tmp_path, options(), [])


# --- the command ---


@pytest.fixture
def command(tmp_path, here, monkeypatch, capsys):
    """`course board` with the scorer of these tests, in this process."""
    monkeypatch.setattr(board_command, "scorer", lambda: made)
    monkeypatch.setenv("TQDM_DISABLE", "1")

    def run(*words):
        code = course(["board", *map(str, words)])
        return code, capsys.readouterr()

    return run


def test_the_command(tmp_path, command):
    hand_in(tmp_path, "ann", size=3000)
    (tmp_path / "submitted" / "linked").symlink_to(tmp_path / "submitted" / "ann")
    (tmp_path / "mine").write_bytes(made.entry(size=2500))
    code, said = command(
        tmp_path,
        "--entry",
        tmp_path / "mine",
        "--name",
        "=the <b>boss</b>",
        "--out",
        tmp_path / "out",
        "--pseudonyms",
    )
    assert (
        code == 0
        and "1 learners; 1 with an entry" in said.out
        and "is a link" in said.out
        and str(tmp_path / "out" / "board.html") in said.out
    )
    (tmp_path / "mine").unlink()
    assert command(tmp_path)[0] == 0
    text = (tmp_path / "board" / "board.html").read_text()
    assert "=the &lt;b&gt;boss" in text and "ann" in text


def test_the_commands_of_the_instructors_page(tmp_path, command, monkeypatch):
    hand_in(tmp_path, "ann")
    (tmp_path / "mine.smol").write_bytes(made.entry(size=2500))
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line)[2:] for line in section("The board of the challenge")]
    assert len(lines) == 3 and all(command(*words)[0] == 0 for words in lines)
    assert (tmp_path / "public" / "board.html").is_file() and "the instructor" in (
        tmp_path / "board" / "board.csv"
    ).read_text()


def test_the_ladder_stands_on_the_board_without_a_rank(tmp_path, command, monkeypatch):
    assert {entry.kind for entry in board_command.baselines()} <= {"baseline"}
    rows = [
        {"name": "four bits & walk", "bytes": 900, "gates": made.measured(), "passed": True},
        {"name": "too few", "bytes": 800, "gates": made.measured(KL=0.1), "passed": False},
    ]
    (tmp_path / "ladder.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(board_command, "LADDER", tmp_path / "ladder.json")
    hand_in(tmp_path, "ann", size=2000)
    assert command(tmp_path)[0] == 0
    with (tmp_path / "board" / "board.csv").open(encoding="utf-8-sig") as file:
        found = {
            row["entry"]: (row["rank"], row["kind"], row["on the front"])
            for row in csv.DictReader(file)
        }
    assert found == {
        "four bits & walk": ("", "baseline", "yes"),
        "ann": ("1", "learner", "no"),
        "too few": ("", "baseline", "yes"),
    }
    monkeypatch.setattr(board_command, "LADDER", "no such table")
    assert board_command.baselines() == []


def test_mistakes_at_the_command_are_sentences(tmp_path, command):
    (tmp_path / "bad").write_text("one two")
    (tmp_path / "broken").write_bytes(b"damaged")
    mistakes = {
        (tmp_path / "nowhere",): "is no folder; give the class folder",
        (tmp_path,): "submitted: is missing",
        (tmp_path, "--limit", 0): "at least 1",
        (tmp_path, "--seeds", tmp_path / "bad"): "holds no seeds",
        (tmp_path, "--seeds", tmp_path / "none"): "No such file",
        (tmp_path, "--name", "x"): "--entry, which is missing",
        (tmp_path, "--entry", tmp_path / "gone"): "it cannot be read (No such file",
        (tmp_path, "--entry", tmp_path / "broken"): "no entry: it begins with",
        (tmp_path, "--seconds", "nan"): "--seconds nan",
        (tmp_path, "--out", tmp_path / ".board"): "no place for a board",
    }
    for words, sentence in mistakes.items():
        code, said = command(*words)
        assert code == 2 and sentence in said.err and "Traceback" not in said.err, words
    (tmp_path / "submitted").mkdir()
    assert "nobody has handed in" in command(tmp_path)[1].err
    (tmp_path / ".board" / "scores.json").write_text("{")
    assert "is no file of the board" in command(tmp_path)[1].err
    with pytest.raises(SystemExit) as ended:
        main(["board", "--help"])
    assert ended.value.code == 0
