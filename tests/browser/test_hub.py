"""The class on JupyterHub, in real browsers: two learners fetch, work and hand in; an instructor
grades; they read why.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from browsing import (
    ROOT,
    chromium,
    environment,
    free_port,
    keep,
    menu,
    new_page,
    quiet,
    stop,
    wait_for,
)
from instructor_page import section
from playwright.sync_api import Browser, Page, expect

from course_utils.grade import lab as labs

LAB = "lab-1.1-first-compression"
CONFIG = ROOT / "deploy" / "jupyterhub" / "jupyterhub_config.py"
MISTAKE = "This counts bits. Eight bits make one byte."
WRONG = "def weight_bytes(parameters, bits):\n    return parameters * bits\n"
SETTINGS = ".jupyter/lab/user-settings"
LIMITS = """import os, resource
print("limits", resource.getrlimit(resource.RLIMIT_DATA)[0], len(os.sched_getaffinity(0)))
try:
    bytearray(5 << 30)
except MemoryError:
    print("no more memory")
def closed(path):
    try:
        os.listdir(path)
    except PermissionError:
        return True
print("closed", [closed(path) for path in PATHS])
"""


class Class:
    """A folder with everything of one class.

    `accounts`: the commands of docs/instructor.md are run as they stand, so learners have accounts
    of their own and log in through PAM. That takes root; /etc, /srv and the solutions are copies in
    a mount namespace, and the machine's own files stay as they are. Elsewhere the same
    configuration runs as a trial (HUB_TRIAL), where all servers belong to one account.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.accounts = folder, accounts_possible()
        self.course = folder / ("srv/class" if self.accounts else "class")
        self.password, self.url = secrets.token_urlsafe(16), f"http://127.0.0.1:{free_port()}"
        if self.accounts:
            self.make_copies()
        else:
            for name in ("bob", "cyd"):
                quiet(self.home(name) / SETTINGS)
            shutil.copytree(ROOT / "solutions" / LAB, self.course / "source" / LAB)

    def home(self, name: str) -> Path:
        return self.folder / ("home" if self.accounts else "hub/home") / name

    def inside(self, name: str) -> str:
        """A folder of the class as the learners' servers see it."""
        return f"/srv/{name}" if self.accounts else str(self.folder / name)

    def make_copies(self) -> None:
        subprocess.run(["cp", "-a", "/etc", str(self.folder)], check=True)
        for name in ("srv", "home", "var-log"):
            (self.folder / name).mkdir()
        (self.folder / "etc/default/useradd").write_text(
            f"HOME={self.folder}/home\nCREATE_MAIL_SPOOL=no\n"
        )
        quiet(self.folder / "etc/skel" / SETTINGS)
        shutil.copytree(ROOT / "solutions" / LAB, self.folder / "solutions" / LAB)

    def command(self) -> list[str]:
        options = (
            f" --JupyterHub.hub_port={free_port()} "
            f"--ConfigurableHTTPProxy.api_url=http://127.0.0.1:{free_port()}"
        )
        options += " --LocalProcessSpawner.interrupt_timeout=1"  # a server asks whether it is meant
        *prepare, start = section("With JupyterHub")
        if not self.accounts:
            return ["bash", "-c", f"cd {ROOT}; exec env {start}{options}"]
        places = {
            "etc": "/etc",
            "srv": "/srv",
            "var-log": "/var/log",
            "solutions": ROOT / "solutions",
        }
        lines = [
            "set -e",
            *(f"mount --bind {self.folder}/{name} {place}" for name, place in places.items()),
            f"cd {ROOT}",
        ]
        lines += [*prepare, *(line.replace("bob", "cyd") for line in prepare if "bob" in line)]
        lines += [f"echo '{name}:{self.password}' | chpasswd" for name in ("ada", "bob", "cyd")]
        return [
            "unshare",
            "--mount",
            "bash",
            "-c",
            "\n".join([*lines, f"exec env {start}{options}"]),
        ]

    def settings(self) -> dict[str, str]:
        found = {"HUB_URL": self.url, "HUB_FORMGRADER_PORT": str(free_port())}
        if self.accounts:
            return found
        places = {"HUB_CLASS": "class", "HUB_EXCHANGE": "exchange", "HUB_DATA": "hub"}
        return {**found, "HUB_TRIAL": self.password} | {
            key: str(self.folder / name) for key, name in places.items()
        }


def accounts_possible() -> bool:
    """True if this is root, may mount, can make accounts, and one without rights can run the course
    and grade in a sandbox.
    """
    tools = (
        all(shutil.which(name) for name in ("useradd", "chpasswd"))
        and Path("/etc/pam.d/login").is_file()
    )
    if os.geteuid() != 0 or not tools or not Path("/srv").is_dir() or ROOT.parts[1] == "srv":
        return False
    nobody = {"cwd": "/", "user": 26001, "group": 26001, "extra_groups": []}
    tries = (
        (["unshare", "--mount", "true"], {}),
        ([sys.executable, "-c", "import course_utils.grade"], nobody),
        (
            ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--fork", "true"],
            nobody,
        ),
    )
    return all(subprocess.run(command, **how).returncode == 0 for command, how in tries)


@pytest.fixture(scope="module")
def room() -> Iterator[Class]:
    """A class whose hub is running."""
    if not find_spec("jupyterhub") or not find_spec("configurable_http_proxy"):
        pytest.fail(
            'JupyterHub is not installed. Run: pip install -c constraints.txt -e ".[hub,grade]"'
        )
    folder = Path(tempfile.mkdtemp(prefix="class-"))
    folder.chmod(0o755)
    made, log = Class(folder), folder / "log"
    with log.open("wb") as out:
        hub = subprocess.Popen(
            made.command(), cwd=folder, env=environment(**made.settings()), stdout=out, stderr=out
        )
    try:
        wait_for(f"{made.url}/hub/login", hub, log)
        yield made
    finally:
        left = stop(hub)
        print(log.read_text(errors="replace")[-20_000:])  # pytest shows it if a test has failed
        shutil.rmtree(folder)
    assert not left, f"the hub left processes behind: {left}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def log_in(browser: Browser, room: Class, name: str, then: str) -> Page:
    page = new_page(browser)
    page.goto(f"{room.url}/hub/login?next={then}")
    page.fill("#username_input", name)
    page.fill("#password_input", room.password)
    page.click("#login_submit")
    return page


def assignments(page: Page):
    """nbgrader's list of assignments in JupyterLab, fresh."""
    for icon in page.locator(
        ".lm-TabBar-tab[data-id=nbgrader-assignment-list] .lm-TabBar-tabCloseIcon"
    ).all():
        icon.click()
    menu(page, "Nbgrader", "Assignment List")
    return page.locator("#nbgrader-assignment-list")


def write(page: Page, cell: int, text: str) -> None:
    found = page.locator(".jp-Notebook .jp-Cell").nth(cell)
    found.locator(".jp-InputPrompt").click()
    page.keyboard.press("Enter")
    expect(found.locator(".cm-content")).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)


def run_cell(page: Page, cell: int):
    """Run the cell; its output, once it is there."""
    found = page.locator(".jp-Notebook .jp-Cell").nth(cell)
    found.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    expect(found.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"))
    return found.locator(".jp-OutputArea")


def work(browser: Browser, room: Class, name: str, answers: dict[str, str]) -> Page:
    """Log in, fetch the lab, write the answers, run their checks, save and hand in."""
    page = log_in(browser, room, name, "/hub/spawn")
    page.wait_for_selector("#jp-top-panel")
    released = assignments(page)
    released.get_by_role("button", name="Fetch").click()
    released.locator(".assignment-notebooks-link").click()
    released.locator(".assignment-notebooks a").click()
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    place = room.home(name) / LAB / f"{LAB}.ipynb"
    cells = [cell["id"] for cell in json.loads(place.read_text())["cells"]]
    for cell, text in answers.items():
        write(page, cells.index(cell), text)
    private = [
        room.inside("class"),
        room.inside("exchange/compression/inbound"),
        str(ROOT / "solutions"),
    ]
    private += [str(room.home("bob")), str(room.home("cyd"))]
    write(page, cells.index("kv-cache-check"), LIMITS.replace("PATHS", repr(private)))
    for cell in ("imports", "weight-bytes", "weight-bytes-check", "kv-cache-check"):
        said = run_cell(page, cells.index(cell))
        if cell == "weight-bytes-check":
            expect(said).to_contain_text("Right" if answers[cell[:-6]] != WRONG else MISTAKE)
            expect(said).not_to_contain_text("cannot be written")  # progress
            keep(page, f"hub-{name}-works")
    expect(said).to_contain_text(f"limits {4 << 30} 1\nno more memory")
    if room.accounts:
        expect(said).to_contain_text(
            f"closed {[True, True, True, name != 'bob' or None, name != 'cyd' or None]}"
        )
    keep(page, f"hub-{name}-limits")
    page.keyboard.press("Control+S")
    wait_until(
        lambda: all(json.dumps(text)[1:-1] in json.dumps(saved(place)) for text in answers.values())
    )
    expect(assignments(page).get_by_role("button", name="Submit")).to_be_visible()
    page.locator("#nbgrader-assignment-list").get_by_role("button", name="Submit").click()
    expect(page.locator("#submitted_assignments_list .list_item").first).to_contain_text(LAB)
    keep(page, f"hub-{name}-handed-in")
    return page


def saved(place: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(place.read_text())["cells"]]


def wait_until(true, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.3)


def press(page: Page, column: str) -> None:
    """Press the button of the lab in a column of the formgrader's table,
    and read that it worked.
    """
    page.locator(f"td.{column} a", has=page.locator(".glyphicon")).first.click()
    expect(page.locator(".modal-title")).to_have_text(re.compile("Success|Error"))
    assert page.locator(".modal-title").inner_text() == "Success", page.locator(
        ".modal-body"
    ).inner_text()
    page.locator(".modal-footer button").last.click()
    expect(page.locator(".modal-content")).to_have_count(0)


def test_a_class_on_the_hub(room, browser):
    answers = {
        a.grade_id: re.sub(" +### .*SOLUTION\n?", "", a.source)
        for a in labs.load(ROOT, LAB).answers
        if a.code
    }
    ada = log_in(browser, room, "ada", "/hub/home")
    ada.get_by_text("Services").click()
    expect(ada.get_by_role("link", name="compression")).to_be_visible()
    keep(ada, "hub-instructor")
    formgrader = f"{room.url}/services/compression/formgrader"
    ada.goto(f"{formgrader}/manage_assignments")
    press(ada, "assign")
    press(ada, "release")
    keep(ada, "hub-released")

    bob = work(browser, room, "bob", {**answers, "written": "I would ship 4 bits."})
    cyd = work(browser, room, "cyd", {**answers, "weight-bytes": WRONG})
    bob.goto(f"{room.url}/services/compression/formgrader/manage_assignments")
    expect(bob.locator("body")).to_contain_text("403")

    ada.goto(f"{formgrader}/manage_assignments")
    press(ada, "collect")
    expect(ada.locator("td.num-submissions").first).to_have_text("2")
    ada.goto(f"{formgrader}/manage_submissions/{LAB}")
    # nbgrader's own grader, which is switched off
    ada.locator("tr", has_text="cyd").locator("td.autograde a").click()
    expect(ada.locator(".modal-body")).to_contain_text("course-grade-in-a-terminal")
    grade(ada, room)
    ada.goto(f"{formgrader}/manage_submissions/{LAB}")
    for name, score in {"bob": "34 / 40", "cyd": "30 / 40"}.items():
        expect(ada.locator("tr", has_text=name)).to_contain_text(score)
    keep(ada, "hub-scores")
    ada.goto(f"{formgrader}/manage_assignments")
    press(ada, "generate-feedback")
    press(ada, "release-feedback")

    for name, page in {"bob": bob, "cyd": cyd}.items():
        text = feedback(page, room, name)
        assert ("34.0 / 40.0" if name == "bob" else "30.0 / 40.0") in text
        assert (MISTAKE in text) == (name == "cyd")


def grade(page: Page, room: Class) -> None:
    """Type the page's commands into a terminal of the grader's server, and wait for their end."""
    page.goto(f"{room.url}/services/compression/lab")
    page.locator(".jp-LauncherCard", has_text="Terminal").click()
    page.locator(".jp-Terminal .xterm-helper-textarea").focus()
    page.keyboard.insert_text(f"nbgrader collect {LAB} && course grade {LAB}; echo $? > graded")
    page.keyboard.press("Enter")
    ended = room.course / "graded"
    wait_until(lambda: ended.exists() and ended.read_text(), 400)
    keep(page, "hub-graded")
    assert ended.read_text() == "0\n"


def feedback(page: Page, room: Class, name: str) -> str:
    """Fetch the feedback and open it in JupyterLab; what is read there."""
    page.goto(f"{room.url}/user/{name}/lab")
    listed = assignments(page)
    listed.get_by_role("button", name="Fetch Feedback").click()
    listed.get_by_text("(view feedback)").click()
    page.locator(".jp-DirListing-item", has_text=".html").dblclick()
    shown = page.frame_locator(".jp-HTMLViewer iframe").locator("body")
    expect(shown).to_contain_text(LAB)
    shown.get_by_text(MISTAKE if name == "cyd" else LAB).first.scroll_into_view_if_needed()
    keep(page, f"hub-{name}-feedback")
    return shown.inner_text()
