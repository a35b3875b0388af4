"""docs/instructor.md: its commands, run as they stand; then the formgrader without a hub on the
class they have made.
"""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin

import nbformat
import pytest
from browsing import ROOT, chromium, environment, jupyterlab, keep, menu, new_page
from instructor_page import PAGE, section
from playwright.sync_api import Page, expect

# the page's example, and the lab that is graded fastest
IN_PAGE, LAB = "lab-3.1-gptq", "lab-1.1-first-compression"
ELSEWHERE = {  # commands that this file does not run
    "git clone <this course> compression": "a checkout stands ready",
    "python3 -m course_utils.bootstrap install": "`make test` has run it",
    "jupyter lab": "below, through browsing.jupyterlab",
    "nbgrader collect": "test_hub.py, in the grader's terminal",
    "course build": "tests/grade/test_build.py; here it would change the course",
    "course board": "tests/grade/test_board.py",
}
HOSTILE = (  # what cyd writes: each part would leave a mark where it runs
    "I would ship 2 bits. <img src=x onerror='window.top.marked = 1'> "
    "<svg onload='window.top.marked = 2'></svg>\n\n"
    "<script>window.top.marked = 3</script>\n\n[a link](javascript:window.top.marked=4)\n\n"
    "<iframe srcdoc='<script>window.top.marked = 5</script>'></iframe>\n\n"
    "<details open ontoggle='window.top.marked = 6'>x</details>"
)
MISTAKE = "This counts bits. Eight bits make one byte."


def answered(wrong: bool) -> str:
    """The lab with the solution's answers; or with one of them wrong."""
    notebook = nbformat.read(ROOT / "labs" / LAB / f"{LAB}.ipynb", as_version=4)
    solution = {
        c.id: c.source
        for c in nbformat.read(ROOT / "solutions" / LAB / f"{LAB}.ipynb", as_version=4).cells
    }
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = (
                solution[cell.id]
                if cell.cell_type == "code"
                else HOSTILE
                if wrong
                else "I would ship 4 bits."
            )
        if wrong and cell.id == "weight-bytes":
            cell.source = "def weight_bytes(parameters, bits):\n    return parameters * bits"
    return nbformat.writes(notebook)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The class in which every command of the page has run;
    learners hand in before it is graded.
    """
    place = tmp_path_factory.mktemp("page")
    course = place / "compression"
    (course / ".venv").mkdir(parents=True)
    (course / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (course / "solutions").symlink_to(ROOT / "solutions")
    run(section("Set up"), place)
    for name in ("bob", "cyd"):
        lab = course / "labs" / LAB / f"{LAB}.ipynb"
        lab.parent.mkdir(parents=True, exist_ok=True)
        lab.write_text(answered(wrong=name == "cyd"))
        run([f"course submit {IN_PAGE}"], course)
        handed_in = place / "my-class" / "submitted" / name / LAB
        handed_in.mkdir(parents=True)
        shutil.move(course / f"{LAB}-submission.ipynb", handed_in / f"{LAB}.ipynb")
    run(section("Grade"), course)
    return place / "my-class"


def run(lines: list[str], place: Path) -> str:
    """What the commands print; the first that fails fails the test."""
    script = "\n".join(
        ["set -e", *(line.replace(IN_PAGE, LAB) for line in lines if line not in ELSEWHERE)]
    )
    env = environment(COURSE_HOME=str(place / "home"), OMP_NUM_THREADS="1")
    done = subprocess.run(
        ["bash", "-c", script], cwd=place, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_every_command_of_the_page_is_run():
    spans = re.findall(r"`((?:course|nbgrader|jupyter) [a-z][^`]*)`", PAGE)
    run_here = {
        *section("Set up"),
        *section("Grade"),
        "course build --check",
        f"course submit {IN_PAGE}",
    }
    unknown = [s for s in spans if not any(line.startswith(s) for line in {*run_here, *ELSEWHERE})]
    assert len(run_here) >= 13 and spans and unknown == []
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    with_commands = {text.partition("\n")[0] for text in sections if "```" in text}
    # others: see ELSEWHERE, test_hub.py, test_cluster.py
    assert with_commands == {
        "Set up",
        "Grade",
        "The board of the challenge",
        "With JupyterHub",
        "More than one machine",
    }


def test_the_commands_did_what_the_page_says(made):
    assert scores(made) == {"bob": 34, "cyd": 30}
    for name in ("bob", "cyd"):
        told = (made / "feedback" / name / LAB / f"{LAB}.html").read_text(encoding="utf-8")
        assert (MISTAKE in told) == (name == "cyd")
        assert (made / "autograded" / name / LAB / f"{LAB}.ipynb").is_file()
    assert {
        row["student_id"]
        for row in csv.DictReader((made / "grades" / "class.csv").open(encoding="utf-8-sig"))
    } == {"bob", "cyd"}
    assert "Commonest named mistakes" in (made / "grades" / "class.html").read_text(
        encoding="utf-8"
    )
    assert (made / "release" / LAB / f"{LAB}.ipynb").is_file()


def test_the_options_of_the_page(made):
    before, _, rest = PAGE.partition("\n## The board of the challenge\n")
    board, _, after = rest.partition("\n## ")
    for part, command, least in (
        (before + after, "grade", {"--unsafe-no-sandbox", "--seed"}),
        (board, "board", {"--limit", "--seeds"}),
    ):
        table = set(re.findall(r"^\| `(--[a-z-]+)", part, re.MULTILINE))
        assert (
            least <= table <= set(re.findall(r"--[a-z-]+", run([f"course {command} --help"], made)))
        )
    said = run(
        [
            (
                f"course grade {LAB} --course . --again --seed 5 --seconds 300 "
                "--jobs 2 --unsafe-no-sandbox"
            )
        ],
        made,
    )
    assert "Sandbox: none" in said and "bob: 34 of 40" in said and "cyd: 30 of 40" in said
    assert (made / "grades" / LAB / "seed").read_text() == "5"


def test_the_labs_are_up_to_date():
    run(["course build --check"], ROOT)


def test_the_formgrader_without_a_hub(made, tmp_path):
    with jupyterlab(made, tmp_path) as address, chromium() as browser:
        page = new_page(browser)
        page.goto(f"{address}/lab")
        page.wait_for_selector("#jp-top-panel")
        menu(page, "Nbgrader", "Formgrader")
        form = page.frame_locator("iframe").first
        form.get_by_role("link", name=LAB).first.wait_for()
        form.get_by_role("link", name="Manual Grading").click()
        for _ in ("assignment", "notebook"):  # both have the lab's name
            form.locator("td a", has_text=LAB).click()
        rows = form.locator("tbody tr", has=form.locator("td.score"))
        expect(rows).to_have_count(2)
        assert sorted(rows.locator("td.score").all_inner_texts()) == ["30 / 40", "34 / 40"]
        keep(page, "formgrader-submissions")
        link = rows.filter(has_text="30 / 40").locator("a:visible").get_attribute("href")
        nothing_runs(page.context.new_page(), urljoin(address, link), made)
        rows.filter(has_text="34 / 40").locator("a:visible").click()
        expect(form.locator("body")).to_contain_text("I would ship 4 bits.")
        score = form.locator("input.score#written")
        score.fill("5")
        with page.expect_response(
            lambda answer: "/api/grade/" in answer.url and answer.request.method == "PUT"
        ) as saved:
            score.press("Tab")
        assert saved.value.ok
        keep(page, "formgrader-by-hand")
    run([f"course grade {LAB}"], made)  # again: what a person gave stays
    run(["nbgrader export", "course grade report"], made)
    assert scores(made) == {"bob": 39, "cyd": 30}


def nothing_runs(page: Page, formgrader: str, made: Path) -> None:
    """What cyd has written is shown by the formgrader and in the feedback, and no part of it has
    run.

    By itself it does.
    """
    page.set_content(HOSTILE)
    page.wait_for_function("window.marked")
    for address in (formgrader, (made / "feedback" / "cyd" / LAB / f"{LAB}.html").as_uri()):
        page.goto(address)
        expect(page.locator("body")).to_contain_text("I would ship 2 bits.")
        for found in page.get_by_text("a link", exact=True).all():
            found.click(force=True)
        page.wait_for_timeout(500)
        assert page.evaluate("window.marked === undefined") and "javascript" not in page.url, (
            address
        )
        assert (
            page.locator("img[src=x], iframe[srcdoc], [onload], [ontoggle], [onerror]").count() == 0
        )
    keep(page, "what-a-learner-wrote")


def scores(made: Path) -> dict[str, float]:
    """What nbgrader has exported."""
    with (made / "grades.csv").open(encoding="utf-8-sig") as file:
        return {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
