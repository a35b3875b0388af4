"""A learner's path in a real browser: open JupyterLab, move a slider, answer a question, restart the kernel."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Error, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "artifacts" / "browser"
LESSON = "notebooks/1-intuition/1.2-numbers-in-a-box.ipynb"
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-component-update", "--disable-sync"]
MINUTE = 60_000  # milliseconds
RIGHT = re.compile(r"\b(right|correct)\b", re.IGNORECASE)


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab on a copy of the notebooks, with a progress folder of its own."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--ip=127.0.0.1", "--IdentityProvider.token=", "--allow-root", f"--ServerApp.root_dir={tmp_path}"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    settings = tmp_path / "s" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}')
    environment = {**os.environ, "COURSE_HOME": str(tmp_path / "home"), "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "s")}
    environment["JUPYTERLAB_WORKSPACES_DIR"] = str(tmp_path / "w")
    log = tmp_path / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=out)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, log.read_text(errors="replace")
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def page():
    """A page of Chromium: from PATH, or the one that Playwright has fetched."""
    found = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        except Error as error:
            pytest.fail(f"No Chromium starts. Install it, or run: python -m playwright install chromium\n{error}")
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(MINUTE)
        yield page
        browser.close()


def keep(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def open_notebook(page: Page, address: str, path: str) -> None:
    page.goto(f"{address}/lab/tree/{path}?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")


def menu(page: Page, item: str) -> None:
    """Choose an entry of the Run or Kernel menu, and confirm when asked."""
    top = "Run" if item.startswith("Run") else "Kernel"
    page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{top}$")).click()
    page.locator(".lm-Menu-item", has_text=re.compile(f"^{re.escape(item)}")).first.click()


def wait_until_idle(page: Page) -> None:
    page.wait_for_timeout(1500)
    page.wait_for_function(
        "() => ![...document.querySelectorAll('.jp-InputPrompt')].some(e => e.textContent.includes('*'))",
        timeout=4 * MINUTE,
    )


def run_all(page: Page) -> None:
    """Run every cell, once the kernel is there to take them."""
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=2 * MINUTE)
    menu(page, "Run All Cells")
    wait_until_idle(page)


def figures(page: Page) -> list[str]:
    return page.locator(".jp-OutputArea img, .widget-image").evaluate_all("images => images.map(i => i.src)")


def answer_all(page: Page) -> list[str]:
    """Try each choice of the first question; return what is said about it."""
    question = page.locator(".jp-OutputArea-output", has=page.locator(".widget-radio-box")).first
    question.scroll_into_view_if_needed()
    messages, options = [], question.locator("input[type=radio]")
    for i in range(options.count()):
        options.nth(i).check()
        question.locator("button").first.click()
        page.wait_for_timeout(1500)
        messages.append(question.inner_text())
        keep(page, f"answer-{i + 1}")
    return messages


def test_a_learners_path(lab, page):
    open_notebook(page, lab, "notebooks/start.ipynb")
    run_all(page)
    keep(page, "start")
    before = page.locator(".jp-NotebookPanel .jp-OutputArea-output").all_inner_texts()

    open_notebook(page, lab, LESSON)
    run_all(page)
    slider = page.locator(".widget-slider [role=slider], .widget-slider .noUi-handle").first
    slider.scroll_into_view_if_needed(timeout=4 * MINUTE)
    keep(page, "slider-before")
    shown = figures(page)
    slider.focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft"):
        slider.press(key)
    page.wait_for_timeout(4000)
    keep(page, "slider-after")
    assert shown and figures(page) != shown, "the figure follows the slider"

    messages = answer_all(page)
    first = messages[0]
    right = [text for text in messages if RIGHT.search(text)]
    assert len(messages) >= 2 and len(right) == 1, messages
    assert all(text != first for text in messages[1:]), "each answer has its own message"

    menu(page, "Restart Kernel…")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.wait_for_selector(".jp-Dialog", state="detached")
    open_notebook(page, lab, "notebooks/start.ipynb")
    run_all(page)
    keep(page, "progress-after-restart")
    after = page.locator(".jp-NotebookPanel .jp-OutputArea-output").all_inner_texts()
    assert after != before, "the start page shows what was answered before the restart"
