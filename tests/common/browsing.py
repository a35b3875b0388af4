"""JupyterLab and a real Chromium for tests, and the pictures that are kept."""

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Error, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "artifacts" / "browser"
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
]
FLAGS += ["--disable-component-update", "--disable-sync"]
MINUTE = 60_000  # milliseconds
expect.set_options(timeout=4 * MINUTE)  # Playwright's 5 seconds are too short for a busy machine


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium from PATH, or the one that Playwright has fetched."""
    found = next(
        (
            p
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (p := shutil.which(name))
        ),
        None,
    )
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=found, args=FLAGS, timeout=4 * MINUTE
            )
        except Error as error:
            pytest.fail(
                "No Chromium starts. Install it, or run: python -m playwright install chromium\n"
                f"{error}"
            )
        yield browser
        browser.close()


def new_page(browser: Browser) -> Page:
    """A page with cookies of its own."""
    page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    page.set_default_timeout(4 * MINUTE)
    return page


def keep(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def menu(page: Page, top: str, item: str) -> None:
    """Choose an entry of JupyterLab's menu bar; `item` is how its text begins."""
    asked = page.locator(".jp-Dialog").all_inner_texts()
    assert not asked, f"JupyterLab asks something first: {asked}"
    page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{top}$")).click()
    page.locator(".lm-Menu-item", has_text=re.compile(f"^{re.escape(item)}")).first.click()


def open_notebook(page: Page, address: str, path: str) -> None:
    page.goto(f"{address}/lab/tree/{path}?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=6 * MINUTE)


def open_next(page: Page, path: str) -> None:
    """Open another notebook in a page of JupyterLab that is there already, with the kernel of the
    one before, emptied.

    So what every notebook imports is loaded once. What was open is saved and closed.
    """
    page.evaluate("""async path => {
        const app = window.jupyterapp, run = (command, given) => app.commands.execute(command, given);
        document.querySelectorAll('.jp-Dialog .jp-mod-reject').forEach(button => button.click());
        const kernel = app.shell.currentWidget?.context?.sessionContext.session?.kernel;
        if (kernel) {
            await kernel.requestExecute({code: "import ipywidgets; ipywidgets.Widget.close_all()\\n%reset -f"}).done;
            await run('docmanager:save');
            await run('application:close-all');
        }
        await run('docmanager:open', {path, factory: 'Notebook', ...(kernel && {kernel: {id: kernel.id}})});
    }""", path)  # noqa: E501  # fmt: skip
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=6 * MINUTE)


KERNEL_IS_IDLE = """() => {
    const context = window.jupyterapp.shell.currentWidget?.context?.sessionContext;
    return context?.isReady && context.session?.kernel?.status === 'idle';
}"""


def run_all(page: Page) -> None:
    """Run every cell, once the kernel is there to take them (the page calls itself idle before it
    has one, and then asks for one); the numbers of an earlier run are taken away before.
    """
    prompts = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .jp-InputPrompt")
    page.wait_for_function(KERNEL_IS_IDLE, timeout=6 * MINUTE)
    menu(page, "Edit", "Clear Outputs of All Cells")
    expect(prompts).to_have_text([re.compile(r"^\[ \]:$")] * prompts.count())
    for _ in range(4):  # a page that is still busy with the notebook may lose the order
        menu(page, "Run", "Run All Cells")
        until = time.monotonic() + 20
        while (idle := set(texts(prompts)) == {"[ ]:"}) and time.monotonic() < until:
            page.wait_for_timeout(300)
        if not idle:
            break
    done = re.compile(r"^\[\d+\]:$")
    end = time.monotonic() + 12 * 60
    while not all(done.match(text) for text in texts(prompts)):
        assert not errors(page), "a cell has failed, and those after it are not run"
        assert time.monotonic() < end, f"not all cells have run: {texts(prompts)}"
        page.wait_for_timeout(300)


def texts(found: Locator) -> list[str]:
    """The texts of all that is found, hidden ones too: the page need not be laid out for them."""
    return found.evaluate_all("all => all.map(one => one.textContent)")


def errors(page: Page) -> list[str]:
    """Errors of cells, and what `explore` says in the place of a figure that it could not draw."""
    shown = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output")
    return [text for text in texts(shown) if "Traceback" in text or "could not be drawn" in text]


def figures(page: Page) -> list[str]:
    return page.locator(".jp-OutputArea img, .widget-image").evaluate_all(
        "images => images.map(i => i.src)"
    )


def wait_for_change(page: Page, before: object, now: Callable[[], object]) -> None:
    end = time.monotonic() + 120  # a busy machine draws a figure in a minute
    while now() == before:
        assert time.monotonic() < end, f"nothing has changed: {str(before)[:500]}"
        page.wait_for_timeout(50)


def free_port() -> int:
    """A port that nothing listens on, below those that Linux gives to connections: it is not taken
    until it is used.
    """
    while True:
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port := random.SystemRandom().randrange(10_000, 32_768)))
            return port


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with this Python's commands on the path."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **more,
    }


def quiet(settings: Path) -> None:
    """Settings of JupyterLab for a test: no question about news; every cell is in the page, also
    when out of sight.
    """
    for name, text in {
        "apputils-extension/notification": '{"fetchNews": "false"}',
        "notebook-extension/tracker": '{"windowingMode": "none"}',
    }.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 300) -> None:
    """Until a page is there; a server that has ended fails the test with its log."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            direct.open(address, timeout=30).close()
            return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, log.read_text(errors="replace")
            time.sleep(0.5)
    pytest.fail(f"{address}: nothing answers\n{log.read_text(errors='replace')}")


def stop(server: subprocess.Popen, seconds: float = 120) -> list[psutil.Process]:
    """End a server and all that it has started; what had to be killed."""
    if server.poll() is not None:
        return []
    started = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    server.terminate()
    left = psutil.wait_procs(started, timeout=seconds)[1]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    server.wait(30)
    return left


@contextmanager
def jupyterlab(folder: Path, own: Path) -> Iterator[str]:
    """The address of a JupyterLab in `folder`, with home, settings and log below `own`."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        f"--port={port}",
        "--ServerApp.port_retries=0",
    ]
    command += [
        "--ip=127.0.0.1",
        "--IdentityProvider.token=",
        "--allow-root",
        f"--ServerApp.root_dir={folder}",
    ]
    command += [
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.expose_app_in_browser=True",
    ]
    quiet(own / "s")
    places = {
        "COURSE_HOME": "home",
        "JUPYTERLAB_SETTINGS_DIR": "s",
        "JUPYTERLAB_WORKSPACES_DIR": "w",
    }
    log = own / "log"
    with log.open("wb") as out:
        own_places = environment(**{name: str(own / place) for name, place in places.items()})
        server = subprocess.Popen(command, cwd=folder, env=own_places, stdout=out, stderr=out)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api", server, log)
        yield address
    finally:
        stop(server)
