"""A learner's path in a real browser: open JupyterLab, move a slider, answer a question, restart the kernel."""

import re
import shutil
import time
from collections.abc import Callable

import pytest
from browsing import MINUTE, ROOT, chromium, jupyterlab, keep, menu, new_page
from playwright.sync_api import Page, expect

LESSON = "notebooks/1-intuition/1.2-numbers-in-a-box.ipynb"
RIGHT = re.compile(r"\b(right|correct)\b", re.IGNORECASE)


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab on a copy of the notebooks, with a progress folder of its own."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    with jupyterlab(tmp_path, tmp_path) as address:
        yield address


@pytest.fixture
def page():
    with chromium() as browser:
        yield new_page(browser)


def open_notebook(page: Page, address: str, path: str) -> None:
    page.goto(f"{address}/lab/tree/{path}?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=6 * MINUTE)


def run_all(page: Page) -> None:
    """Run every cell, once the kernel is there to take them; the numbers of an earlier run are taken away before."""
    prompts = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .jp-InputPrompt")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=6 * MINUTE)
    menu(page, "Edit", "Clear Outputs of All Cells")
    expect(prompts).to_have_text([re.compile(r"^\[ \]:$")] * prompts.count())
    menu(page, "Run", "Run All Cells")
    expect(prompts).to_have_text([re.compile(r"^\[\d+\]:$")] * prompts.count(), timeout=12 * MINUTE)


def figures(page: Page) -> list[str]:
    return page.locator(".jp-OutputArea img, .widget-image").evaluate_all("images => images.map(i => i.src)")


def wait_for_change(page: Page, before: object, now: Callable[[], object]) -> None:
    end = time.monotonic() + 360  # a busy machine draws a figure in minutes
    while now() == before:
        assert time.monotonic() < end, f"nothing has changed: {str(before)[:500]}"
        page.wait_for_timeout(300)


def answer_all(page: Page) -> list[str]:
    """Try each choice of the first question; return what is said about it."""
    question = page.locator(".jp-OutputArea-output", has=page.locator(".widget-radio-box")).first
    question.scroll_into_view_if_needed()
    messages, options = [], question.locator("input[type=radio]")
    for i in range(options.count()):
        options.nth(i).check()
        before = question.inner_text()
        question.locator("button").first.click()
        wait_for_change(page, before, question.inner_text)
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
    slider.scroll_into_view_if_needed(timeout=6 * MINUTE)
    keep(page, "slider-before")
    shown = figures(page)
    assert shown
    slider.focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft"):
        slider.press(key)
    wait_for_change(page, shown, lambda: figures(page))  # the figure follows the slider
    keep(page, "slider-after")

    messages = answer_all(page)
    first = messages[0]
    right = [text for text in messages if RIGHT.search(text)]
    assert len(messages) >= 2 and len(right) == 1, messages
    assert all(text != first for text in messages[1:]), "each answer has its own message"

    menu(page, "Kernel", "Restart Kernel…")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.wait_for_selector(".jp-Dialog", state="detached")
    open_notebook(page, lab, "notebooks/start.ipynb")
    run_all(page)
    keep(page, "progress-after-restart")
    after = page.locator(".jp-NotebookPanel .jp-OutputArea-output").all_inner_texts()
    assert after != before, "the start page shows what was answered before the restart"
