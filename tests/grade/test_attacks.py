"""One class in which nearly everyone cheats, graded in one run.

The table is printed: attack | our score | right score.
"""

import csv
import json
import os
import signal
from pathlib import Path

import attack_table
import attacks
import grading
import psutil
import pytest
from attack_table import KIND, LIMITS, RIGHT, STRANGE, slug

from course_utils.errors import CompressionError
from course_utils.grade import classroom, judge, judging, kinds, lab, report, run, sandbox
from course_utils.learn.page import catalogue

DOCUMENT = Path(__file__).parents[2] / "docs" / "attacks.md"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return lab.load(grading.make_root(tmp_path_factory.mktemp("root")), grading.LAB)


@pytest.fixture(scope="module")
def course(tmp_path_factory, opened):
    folder = tmp_path_factory.mktemp("class")
    attack_table.hand_in(folder, opened)
    return folder


@pytest.fixture(scope="module")
def results(course, opened):
    assert kinds.missing(KIND) == ""
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    found = attack_table.grade(course, opened)
    left = [
        p
        for p in psutil.Process().children(recursive=True)
        if p.pid not in before and p.status() != psutil.STATUS_ZOMBIE
    ]
    assert left == [], "nothing outlives a run"
    return found


def test_the_table_is_in_the_docs(results):
    """Every sandbox and user that was tried has a column without a difference; ours is what was
    found now.
    """
    text = DOCUMENT.read_text(encoding="utf-8")
    found = {name: attack_table.cell(score) for name, score in attack_table.scores(results).items()}
    assert attack_table.column(text, attack_table.MINE) == found
    for tried in attack_table.COLUMNS:
        assert attack_table.column(text, tried) == {
            name: f"{right}" for name, right in RIGHT.items()
        }, tried
    assert f"{len(RIGHT)} submissions, {len(attack_table.COLUMNS)} times, 0 differences." in text


@pytest.mark.parametrize("name", RIGHT)
def test_the_score_is_right(results, name):
    result = results[slug(name)]
    assert result["score"] == RIGHT[name], (
        result["notes"],
        [(c["grade_id"], c["score"], c["message"]) for c in result["cells"]],
    )


def test_everyone_was_graded_and_nothing_leaked(results):
    assert set(results) == {slug(name) for name in RIGHT} and len(RIGHT) >= 29 + 20
    for name, result in results.items():
        said = json.dumps(result)
        assert "LookupError: found" not in said and "found in" not in said, (name, said)
        assert grading.SECRET not in said, name
    assert not os.path.exists("/tmp/hacked")


def test_what_did_not_run_is_flagged(results):
    for name in ("os._exit", "infinite loop", "memory bomb", "fork bomb", "not valid Python"):
        cells = {c["grade_id"]: c for c in results[name]["cells"]}
        assert (
            cells["hessian-test"]["flag"] == "did not run" and cells["hessian-test"]["score"] == 0
        ), name
    for name in (
        "right, a grade_id used twice",
        "cut in the middle",
        "right, renamed",
        "a link to someone else's",
        "right, one answer missing",
    ):
        assert results[name]["notes"], name


def test_a_wrong_answer_is_named(results):
    cells = {c["grade_id"]: c for c in results["edits a test"]["cells"]}
    assert (
        cells["hessian-test"]["mistake"] == "factor_forgotten"
        and "Not yet." in cells["hessian-test"]["message"]
    )
    cells = {c["grade_id"]: c for c in results["an alarm handler"]["cells"]}
    assert cells["pack-test"]["score"] == 4


def test_scores_reach_the_gradebook_and_its_export(results, course, opened):
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        for student, result in results.items():
            found = book.find_submission("lab-a", student)
            assert found.code_score == result["score"] and found.max_score == 14, student
        assert "hacked" not in book.db.bind.dialect.get_table_names(book.db.connection())
    for student in results:
        assert (course / "autograded" / student / "lab-a" / "lab-a.ipynb").is_file()


def test_the_table_is_safe_for_a_spreadsheet(results, course, opened):
    path = report.write_all(course, opened, results)[0]
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["student_id"] for r in rows if "學生" in r["student_id"]] == ["'" + STRANGE]
    assert all(not value.startswith(report.FORMULA) for row in rows for value in row.values())
    assert {r["student_id"].removeprefix("'"): float(r["score"]) for r in rows} == {
        s: r["score"] for s, r in results.items()
    }


def test_nothing_is_graded_again_and_the_same_seed_gives_the_same(
    results, course, opened, monkeypatch
):
    root = opened.folder.parents[1]
    monkeypatch.setattr(judging, "Zygote", None)  # no worker can be started now
    assert run.run(root, course, opened, limits=LIMITS, book=False, progress=False) == results


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path, opened):
    """The second judge to finish kills the grader; the next run grades only what is left, with the
    seed that was drawn: as a run with this seed that nobody disturbs.
    """
    for n in range(4):
        grading.hand_in(
            tmp_path,
            opened,
            f"learner-{n}",
            grading.submit(opened, {"hessian": attacks.WRONG} if n % 2 else {}),
        )
    root, out = opened.folder.parents[1], tmp_path / "grades" / "lab-a"
    child = os.fork()
    if child == 0:
        real = run.write

        def write_and_die(path, content):
            real(path, content)
            if len(list(out.glob("*.json"))) == 2:
                started = [process.pid for process in psutil.Process().children(recursive=True)]
                (tmp_path / "started").write_text(json.dumps(started))
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            run.write = write_and_die
            run.run(root, tmp_path, opened, jobs=2, limits=LIMITS, progress=False)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    started = json.loads((tmp_path / "started").read_text())
    assert len(started) >= 3 and grading.ended(started), (
        "the judges and the zygote end with the grader"
    )
    kept = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.glob("*.json")}
    assert len(kept) == 2
    found = run.run(root, tmp_path, opened, jobs=2, limits=LIMITS, progress=False)
    assert {s: r["score"] for s, r in found.items()} == {
        f"learner-{n}": 7 if n % 2 else 12 for n in range(4)
    }
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in kept} == kept
    (drawn,) = {r["seed"] for r in found.values()}
    assert drawn == int((out / "seed").read_text())
    whole = run.run(
        root, tmp_path, opened, jobs=2, seed=drawn, again=True, limits=LIMITS, progress=False
    )
    timeless = {"seconds": None, "used": None}
    assert {s: {**r, **timeless} for s, r in whole.items()} == {
        s: {**r, **timeless} for s, r in found.items()
    }


SEEDED = ["right", "right, in float32", "right, changes its input", "remembers its first answer",
          "dtype: NaN", "patches torch",
          "only the numbers in the released test", "an error that cannot be shown",
          "not valid Python"]  # fmt: skip


@pytest.mark.usefixtures("one_zygote")
def test_two_gradings_with_one_seed_are_the_same_and_other_inputs_give_the_same_scores(
    tmp_path, opened
):
    for name in SEEDED:
        source, _right = attacks.ANSWERS[name]
        grading.hand_in(tmp_path, opened, slug(name), grading.submit(opened, {"hessian": source}))
    root, found = opened.folder.parents[1], []
    for seed in (5, 5, 6):
        found.append(
            run.run(
                root,
                tmp_path,
                opened,
                seed=seed,
                again=True,
                limits=LIMITS,
                book=False,
                progress=False,
            )
        )
    for name in SEEDED:
        one, again, other = (
            {**results[slug(name)], "seconds": None, "used": None} for results in found
        )
        assert one == again and one["seed"] == 5 and other["seed"] == 6, name
        scores = [
            [(c["grade_id"], c["score"], c["mistake"], c["flag"]) for c in r["cells"]]
            for r in (one, other)
        ]
        assert scores[0] == scores[1] and one["score"] == RIGHT[name], name


@pytest.mark.usefixtures("one_zygote")
def test_a_judge_that_dies_costs_nobody_else_anything(tmp_path, opened, monkeypatch):
    for n in range(3):
        grading.hand_in(
            tmp_path,
            opened,
            f"learner-{n}",
            grading.submit(opened, {"double": f"def double(x):\n    return x * 2  # {n}"}),
        )
    real = judge.grade

    def grade(lab_, submission, *arguments, **named):
        if "# 1" in submission.answers.get("double", ""):
            os._exit(9)
        return real(lab_, submission, *arguments, **named)

    monkeypatch.setattr(judge, "grade", grade)
    found = run.run(
        opened.folder.parents[1], tmp_path, opened, jobs=1, limits=LIMITS, progress=False
    )
    assert [found[f"learner-{n}"]["score"] for n in range(3)] == [12, None, 12]
    assert "died at every try" in found["learner-1"]["fault"]


@pytest.mark.usefixtures("one_zygote")
def test_a_lab_whose_solution_fails_is_not_graded(tmp_path):
    root = grading.make_root(tmp_path / "root")
    path = root / "solutions" / "lab-a" / "lab-a.ipynb"
    path.write_text(path.read_text().replace("return 2 * x", "return 3 * x"))
    broken = lab.load(root, "lab-a")
    grading.hand_in(tmp_path / "class", broken, "one", grading.submit(broken, {}))
    with pytest.raises(CompressionError, match="its own solution gets 0 of 3 for double-test"):
        run.run(root, tmp_path / "class", broken, limits=LIMITS, progress=False)


@pytest.mark.usefixtures("one_zygote")
def test_a_judge_that_dies_over_the_solution_is_named(tmp_path, opened, monkeypatch):
    grading.hand_in(tmp_path, opened, "one", grading.submit(opened, {}))
    monkeypatch.setattr(judge, "grade", lambda *_, **named: os._exit(9))
    with pytest.raises(
        CompressionError,
        match="its own solution could not be graded: the grader's own process died",
    ):
        run.run(opened.folder.parents[1], tmp_path, opened, limits=LIMITS, progress=False)


def test_no_sandbox_no_grading(tmp_path, opened, monkeypatch):
    (tmp_path / "submitted").mkdir()
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(CompressionError, match="no sandbox: grading needs .* Linux "):
        run.run(opened.folder.parents[1], tmp_path, opened, progress=False)


def test_a_class_where_learners_could_read_it_is_refused(opened):
    with pytest.raises(CompressionError, match="learners' code can read"):
        kinds.check_private(sandbox.PACKAGE / "solutions")


def test_the_class_report(results, course):
    table, page, _folder = classroom.write_report(course)
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = {row["student_id"].removeprefix("'"): row for row in csv.DictReader(file)}
    assert set(rows) == set(results) and all(
        not v.startswith(report.FORMULA) for row in rows.values() for v in row.values()
    )
    assert {student: float(row["lab-a"]) for student, row in rows.items()} == {
        student: round(100 * result["score"] / 14, 1) for student, result in results.items()
    }
    text = page.read_text(encoding="utf-8")
    assert (
        text.count("data:image/png") == 2
        and "學生" in text
        and "&quot;" in text
        and "<script" not in text
    )


def test_totals_are_drawn_where_there_are_any():
    room = classroom.Classroom()
    assert (
        classroom.page(room, ["student_id", "total"], [["ann", 80.0], ["bo", None]]).count(
            "data:image/png"
        )
        == 1
    )
    assert "data:image/png" not in classroom.page(room, ["student_id", "total"], [["bo", None]])


def test_every_learner_has_a_page(results, course):
    pages = sorted(p.stem for p in classroom.write_report(course)[2].iterdir())
    assert pages == sorted(results)
    text = (course / "grades" / "learners" / "patches torch.html").read_text(encoding="utf-8")
    assert (
        "lab-a: 50.0 %" in text
        and "<td>hessian-test</td><td>0 of 5</td>" in text
        and "Implement GPTQ quantization" in text
    )
    strange = (course / "grades" / "learners" / f"{STRANGE}.html").read_text(encoding="utf-8")
    assert "&quot;學生&quot;" in strange and '"學生"' not in strange


def test_the_checklist_is_behind_the_parts():
    room = classroom.Classroom(
        {"lab-1.1-first-compression": {"ann": 0.8}, "lab-3.1-gptq": {"ann": 0.5}}, ["ann", "bo"]
    )
    assert classroom.checklist(room, "ann") == {
        "concepts": {"principles": 0.8, "trade_off": 0.8, "choosing": None},
        "implementation": {"gptq": 0.5, "structured_pruning": None, "distillation": None},
        "theory": dict.fromkeys(("quantization_error", "pruning_theory", "distillation_theory")),
        "innovation": dict.fromkeys(("hardware", "combination", "frontier")),
    }
    assert classroom.checklist(room, "bo")["implementation"]["gptq"] == 0.0


def test_the_parts_of_the_assessment_are_weighted():
    room = classroom.Classroom(
        {"lab-1.1-first-compression": {"ann": 0.8, "bo": 0.4}, "lab-3.1-gptq": {"ann": 0.5}},
        ["ann", "bo"],
    )
    ann, bo = classroom.parts(room, "ann"), classroom.parts(room, "bo")
    assert ann == {
        "concepts": 0.8,
        "implementation": 0.5,
        "theory": None,
        "innovation": None,
        "total": pytest.approx((24 + 20) / 70),
    }
    assert bo["implementation"] == 0 and bo["total"] == pytest.approx(12 / 70)
    room.scores |= {lab: {"ann": 1.0} for lab in catalogue.labs()}
    assert classroom.parts(room, "ann")["total"] == pytest.approx(1.0)
    assert classroom.parts(classroom.Classroom(), "ann")["total"] is None
