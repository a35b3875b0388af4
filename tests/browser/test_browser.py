"""A learner's path in a real browser: open JupyterLab, move a slider, answer a question, restart
the kernel.
"""

import re
import shutil

import pytest
from browsing import (
    MINUTE,
    ROOT,
    chromium,
    figures,
    jupyterlab,
    keep,
    menu,
    new_page,
    open_notebook,
    run_all,
    wait_for_change,
)  # fmt: skip
from playwright.sync_api import Page

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


def answer_all(page: Page) -> list[str]:
    """Try each choice of the first question; return what is said about it."""
    question = page.locator(".jp-OutputArea-output", has=page.locator(".widget-radio-box")).first
    question.scroll_into_view_if_needed()
    messages, options = [], question.locator("input[type=radio]")
    for i in range(options.count()):
        before = question.inner_text()
        options.nth(i).check()
        if i:  # the answer to the one before goes, once the kernel knows of the choice
            wait_for_change(page, before, question.inner_text)
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
