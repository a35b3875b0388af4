"""The class on JupyterHub, in real browsers: two learners fetch, work and hand in; an instructor grades; they read why."""

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

import psutil
import pytest
from browsing import MINUTE, ROOT, chromium, environment, free_port, keep, menu, new_page, quiet, wait_for
from playwright.sync_api import Browser, Page, expect

from course_utils.grade import lab as labs

LAB = "lab-1.1-first-compression"
CONFIG = ROOT / "deploy" / "jupyterhub" / "jupyterhub_config.py"
PEOPLE = {"grader": 26001, "ada": 26002, "bob": 26003, "cyd": 26004}  # ada teaches, bob and cyd learn
# of the accounts that exist only during the test, and its hash as in /etc/shadow
PASSWORD = "a-long-password"
HASHED = "$6$course$XApyYt3LI7sFz/3GdLStodqLNW4OUb4rZpaNSFl824XxEdeO663KWPSgAKGBhfzeeUmow7gGGUYw54esQ06KN."
MISTAKE = "This counts bits. Eight bits make one byte."
WRONG = "def weight_bytes(parameters, bits):\n    return parameters * bits\n"
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

    `accounts`: learners have accounts of their own and log in through PAM, as in a real class. That takes root, and the
    accounts exist in a mount namespace only: the machine's own files stay as they are. Elsewhere the same configuration
    runs as a trial (HUB_TRIAL), where all servers belong to whoever runs the test.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.course, self.accounts = folder, folder / "class", accounts_possible()
        self.password = PASSWORD if self.accounts else secrets.token_urlsafe(16)
        self.url = f"http://127.0.0.1:{free_port()}"
        for name in PEOPLE:
            quiet(self.home(name) / ".jupyter" / "lab" / "user-settings")
        shutil.copytree(ROOT / "solutions" / LAB, self.course / "source" / LAB)
        if self.accounts:
            self.make_accounts()

    def home(self, name: str) -> Path:
        if name == "grader":
            return self.course
        return self.folder / ("home" if self.accounts else "hub/home") / name

    def make_accounts(self) -> None:
        lines: dict[str, list[str]] = {"passwd": [], "shadow": [], "group": ["learners:x:26000:bob,cyd"]}
        for name, number in PEOPLE.items():
            lines["passwd"].append(f"{name}:x:{number}:{number}::{self.home(name)}:/bin/bash")
            lines["shadow"].append(f"{name}:{HASHED}:20000:0:99999:7:::")
            lines["group"].append(f"{name}:x:{number}:")
            self.home(name).chmod(0o700)
            for path in [self.home(name), *self.home(name).rglob("*")]:
                os.chown(path, number, number)
        for name, more in lines.items():
            path = self.folder / name
            path.touch(0o600 if name == "shadow" else 0o644)
            path.write_text(Path("/etc", name).read_text() + "\n".join(more) + "\n")

    def command(self) -> list[str]:
        hub = [sys.executable, "-m", "jupyterhub", "-f", str(CONFIG), f"--JupyterHub.hub_port={free_port()}"]
        hub += [f"--ConfigurableHTTPProxy.api_url=http://127.0.0.1:{free_port()}"]
        if not self.accounts:
            return hub
        mounts = "".join(f"mount --bind {self.folder}/{name} /etc/{name} && " for name in ("passwd", "group", "shadow"))
        return ["unshare", "--mount", "sh", "-c", mounts + 'exec "$@"', "sh", *hub]

    def settings(self) -> dict[str, str]:
        found = {"CLASS": self.course, "EXCHANGE": self.folder / "exchange", "DATA": self.folder / "hub"}
        found |= {"INSTRUCTORS": "ada", "URL": self.url, "FORMGRADER_PORT": free_port()}
        if not self.accounts:
            found["TRIAL"] = self.password
        return {f"HUB_{name}": str(value) for name, value in found.items()}


def accounts_possible() -> bool:
    """True if this is root, may mount, and an account without rights can run the course and grade in a sandbox."""
    if os.geteuid() != 0 or not Path("/etc/pam.d/login").is_file():
        return False
    nobody = {"cwd": "/", "user": 26001, "group": 26001, "extra_groups": []}
    tries = (
        (["unshare", "--mount", "true"], {}),
        ([sys.executable, "-c", "import course_utils.grade"], nobody),
        (["unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--fork", "true"], nobody),
    )
    return all(subprocess.run(command, **how).returncode == 0 for command, how in tries)


@pytest.fixture(scope="module")
def room() -> Iterator[Class]:
    """A class whose hub is running."""
    if not find_spec("jupyterhub") or not find_spec("configurable_http_proxy"):
        pytest.fail('JupyterHub is not installed. Run: pip install -c constraints.txt -e ".[hub,grade]"')
    folder = Path(tempfile.mkdtemp(prefix="class-"))
    folder.chmod(0o755)
    made, log = Class(folder), folder / "log"
    with log.open("wb") as out:
        hub = subprocess.Popen(made.command(), cwd=folder, env=environment(**made.settings()), stdout=out, stderr=out)
    try:
        wait_for(f"{made.url}/hub/login", hub, log)
        yield made
    finally:
        started = psutil.Process(hub.pid).children(recursive=True)
        hub.terminate()
        left = psutil.wait_procs([psutil.Process(hub.pid), *started], timeout=45)[1]
        for process in left:
            process.kill()
        hub.wait(10)
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
    for icon in page.locator(".lm-TabBar-tab[data-id=nbgrader-assignment-list] .lm-TabBar-tabCloseIcon").all():
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
    expect(found.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=2 * MINUTE)
    return found.locator(".jp-OutputArea")


def work(browser: Browser, room: Class, name: str, answers: dict[str, str]) -> Page:
    """Log in, fetch the lab, write the answers, run their checks, save and hand in."""
    page = log_in(browser, room, name, "/hub/spawn")
    page.wait_for_selector("#jp-top-panel", timeout=2 * MINUTE)
    released = assignments(page)
    released.get_by_role("button", name="Fetch").click()
    released.locator(".assignment-notebooks-link").click()
    released.locator(".assignment-notebooks a").click()
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=2 * MINUTE)
    place = room.home(name) / LAB / f"{LAB}.ipynb"
    cells = [cell["id"] for cell in json.loads(place.read_text())["cells"]]
    for cell, text in answers.items():
        write(page, cells.index(cell), text)
    private = [str(room.course), str(room.folder / "exchange/compression/inbound"), str(room.home("bob")), str(room.home("cyd"))]
    write(page, cells.index("kv-cache-check"), LIMITS.replace("PATHS", repr(private)))
    for cell in ("imports", "weight-bytes", "weight-bytes-check", "kv-cache-check"):
        said = run_cell(page, cells.index(cell))
        if cell == "weight-bytes-check":
            expect(said).to_contain_text("Right" if answers[cell[:-6]] != WRONG else MISTAKE)
    expect(said).to_contain_text(f"limits {4 << 30} 1\nno more memory")
    if room.accounts:
        expect(said).to_contain_text(f"closed {[True, True, name != 'bob' or None, name != 'cyd' or None]}")
    keep(page, f"hub-{name}-works")
    page.keyboard.press("Control+S")
    wait_until(lambda: all(json.dumps(text)[1:-1] in json.dumps(saved(place)) for text in answers.values()))
    expect(assignments(page).get_by_role("button", name="Submit")).to_be_visible()
    page.locator("#nbgrader-assignment-list").get_by_role("button", name="Submit").click()
    expect(page.locator("#submitted_assignments_list .list_item").first).to_contain_text(LAB)
    keep(page, f"hub-{name}-handed-in")
    return page


def saved(place: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(place.read_text())["cells"]]


def wait_until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.3)


def press(page: Page, column: str) -> None:
    """Press the button of the lab in a column of the formgrader's table, and read that it worked."""
    page.locator(f"td.{column} a", has=page.locator(".glyphicon")).first.click()
    expect(page.locator(".modal-title")).to_have_text(re.compile("Success|Error"), timeout=2 * MINUTE)
    assert page.locator(".modal-title").inner_text() == "Success", page.locator(".modal-body").inner_text()
    page.locator(".modal-footer button").last.click()
    expect(page.locator(".modal-content")).to_have_count(0)


def test_a_class_on_the_hub(room, browser):
    answers = {a.grade_id: re.sub(" +### .*SOLUTION\n?", "", a.source) for a in labs.load(ROOT, LAB).answers if a.code}
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
    """Type the page's command into a terminal of the grader's server, and wait for its end."""
    page.goto(f"{room.url}/services/compression/lab")
    page.locator(".jp-LauncherCard", has_text="Terminal").click()
    page.locator(".jp-Terminal .xterm-helper-textarea").focus()
    page.keyboard.insert_text(f"course grade {LAB}; echo $? > graded")
    page.keyboard.press("Enter")
    ended = room.course / "graded"
    wait_until(lambda: ended.exists() and ended.read_text(), 180)
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
    keep(page, f"hub-{name}-feedback")
    return shown.inner_text()
