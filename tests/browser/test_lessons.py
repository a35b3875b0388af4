"""Every control of every lesson is moved in JupyterLab; and a guess lets its result appear; digits
are drawn.

Of each lesson only the cells run that its figures need, with `fast = True`: whole lessons run under
nbval. Tracks of sliders are measured at two widths of the page.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from browsing import (
    MINUTE,
    chromium,
    errors,
    jupyterlab,
    keep,
    new_page,
    open_next,
    run_all,
    wait_for_change,
)
from making import frames
from playwright.sync_api import Locator, Page, expect

from course_utils.learn import fold
from notebooks import LESSONS, name


def moving(path: Path) -> dict[str, list[str]]:
    """For each cell with an `explore` the cells that it needs."""
    cells = frames.code_cells(path)
    source = dict(cells)
    return {cell: ids for cell, ids in frames.needed(cells).items() if "explore(" in source[cell]}


MOVING = [path for path in LESSONS if moving(path)]
WIDTHS = (800, 1280)  # pixels of the page
TRACK = 150  # pixels that a slider needs
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"
CONTROLS = ".widget-slider, .widget-dropdown, .widget-checkbox, .widget-toggle-buttons"

TOY = """
predictions:
  toy.size: {kind: number, prompt: "How large is it?", unit: GB, why: Four bytes each.}
"""
CELLS = [
    """import pathlib
from course_utils.learn import plots, predict, texts
texts.FOLDERS.append(pathlib.Path("texts").resolve())
texts.forget()""",
    'guess = predict("toy.size")',
    """figure, axes = plots.figure(title="the truth")
guess.result(3.5, shown=figure)""",
]

DRAW = """from course_utils.distillation import digits
from course_utils.learn import drawing
import torch
data = digits.load(0)
means = torch.stack([data.train_x[data.train_y == d].mean(0) for d in range(10)])
def add(images):
    a, b, c, d = torch.cdist(images, means).argmin(1).tolist()
    return f"{a}{b} + {c}{d} = {10 * (a + c) + b + d}"
drawing.draw(add)"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What moves in the lessons, without outputs, asked to be fast, and a small notebook with a
    prediction.
    """
    place = tmp_path_factory.mktemp("lab")
    for path in MOVING:
        notebook = nbformat.read(path, as_version=4)
        kept = set(itertools.chain(*moving(path).values()))
        notebook.cells = [
            cell
            for cell in notebook.cells
            if cell.cell_type != "code"
            or cell.id in kept
            or "parameters" in cell.metadata.get("tags", [])
        ]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = cell.source.replace("fast = False", "fast = True")
        nbformat.write(notebook, place / path.name)
    (place / "texts" / "en").mkdir(parents=True)
    (place / "texts" / "en" / "toy.yaml").write_text(TOY)
    guess = nbformat.v4.new_notebook(
        metadata=notebook.metadata, cells=[nbformat.v4.new_code_cell(source) for source in CELLS]
    )
    guess.cells[2].outputs = [
        nbformat.v4.new_output(
            "display_data", {"text/html": "The result\n<b>the answer of before</b>"}
        )
    ]
    nbformat.write(guess, place / "guess.ipynb")
    assert fold.fold(place / "guess.ipynb")
    written = nbformat.v4.new_notebook(
        metadata=notebook.metadata, cells=[nbformat.v4.new_code_cell(DRAW)]
    )
    nbformat.write(written, place / "draw.ipynb")
    return place


@pytest.fixture(scope="module")
def lab(folder):
    with jupyterlab(folder, folder) as address:
        yield address


@pytest.fixture(scope="module")
def page(lab):
    """One page of JupyterLab for all lessons, which are opened one after the other."""
    with chromium() as browser:
        page = new_page(browser)
        page.goto(f"{lab}/lab?reset")
        page.wait_for_function("window.jupyterapp?.commands.hasCommand('docmanager:open')")
        page.wait_for_selector(".jp-Launcher", timeout=6 * MINUTE)
        yield page


def places(control: Locator) -> tuple[list[Callable[[], None]], Callable[[], None]]:
    """Where a control can be moved (the ends of a slider, the choices of a list or of buttons), and
    the move back.
    """
    handle, options, buttons = (
        control.locator(part) for part in (".noUi-handle", "option", "button")
    )
    if handle.count():
        readout = control.locator(".widget-readout")
        shown = readout.inner_text()
        low, now, high = (
            float(handle.first.get_attribute(f"aria-value{key}") or 0)
            for key in ("min", "now", "max")
        )
        ends = [key for key, end in (("Home", low), ("End", high)) if now != end]
        return [lambda key=key: handle.first.press(key) for key in ends], lambda: (
            readout.fill(shown), readout.press("Enter"))[-1]  # fmt: skip
    if options.count():
        listed = control.locator("select")
        chosen = listed.evaluate("s => s.selectedIndex")
        others = [i for i in range(options.count()) if i != chosen]
        return [lambda i=i: listed.select_option(index=i) and None for i in others], lambda: (
            listed.select_option(index=chosen) and None)  # fmt: skip
    if buttons.count():
        held = buttons.evaluate_all("all => all.findIndex(b => b.classList.contains('mod-active'))")
        return [buttons.nth(i).click for i in range(buttons.count()) if i != held], buttons.nth(
            held
        ).click
    box = control.locator("input").first
    return [box.click], box.click


class Group:
    """One `explore`: its controls and its figure."""

    def __init__(self, page: Page, area: Locator, number: int):
        self.page, self.area, self.name = page, area, f"explore {number}"
        self.controls = area.locator(CONTROLS).all()
        self.first = self.picture()
        assert self.first, f"{self.name} shows no figure"

    def picture(self) -> list[str]:
        return self.area.locator("img").evaluate_all("all => all.map(i => i.src)")

    def redrawn(self, step: Callable[[], None]) -> list[str]:
        """The figure that is drawn after a step: the page puts a new image in the place of the old
        one.
        """
        self.area.locator("img").evaluate_all("all => all.forEach(i => i.dataset.old = 1)")
        step()
        wait_for_change(self.page, True, lambda: self.area.locator("img[data-old]").count() > 0)
        assert not errors(self.page), self.name
        return self.picture()

    def silent(self) -> list[int]:
        """The controls that change nothing while all others stay where the lesson puts them."""
        found = []
        for i, control in enumerate(self.controls):
            control.scroll_into_view_if_needed()
            moves, back = places(control)
            if not any(self.redrawn(step) != self.first for step in moves):
                found.append(i)
            assert self.redrawn(back) == self.first, (
                f"{self.name}: control {i + 1} does not go back"
            )
        return found

    def speaks(self, i: int) -> bool:
        """Whether control i changes the figure once another one has been moved."""
        for other in (c for j, c in enumerate(self.controls) if j != i):
            moves, back = places(other)
            for step in moves:
                before = self.redrawn(step)
                own, home = places(self.controls[i])
                changed = any(self.redrawn(move) != before for move in own)
                self.redrawn(home)
                if changed:
                    return True
            self.redrawn(back)
        return False


def test_most_lessons_move():
    assert len(MOVING) >= len(LESSONS) - 1


@pytest.mark.parametrize("path", MOVING, ids=name)
def test_every_control_redraws_its_figure(path, page):
    open_next(page, path.name)
    run_all(page)
    assert not errors(page)
    groups = page.locator(f"{PANEL} .jp-OutputArea", has=page.locator(".course-controls"))
    assert groups.count() >= len(moving(path))
    narrow = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_timeout(500)
        for i in range((tracks := page.locator(f"{PANEL} .course-controls .noUi-target")).count()):
            box = tracks.nth(i).bounding_box()
            if box is None or box["width"] < TRACK:
                narrow.append((width, i, box))
    assert not narrow, f"tracks of less than {TRACK} pixels: {narrow}"
    for number, area in enumerate(groups.all(), 1):
        group = Group(page, area, number)
        dead = [i + 1 for i in group.silent() if not group.speaks(i)]
        assert not dead, f"{group.name}: controls {dead} change nothing"
    keep(page, f"lesson-{path.stem}")


def test_a_guess_lets_the_result_appear(page):
    open_next(page, "guess.ipynb")
    cells = page.locator(f"{PANEL} .jp-CodeCell")
    expect(cells.nth(2)).to_contain_text("guess.result")
    expect(cells.nth(2).get_by_text("The result")).to_be_visible()
    keep(page, "prediction-folded")
    assert not cells.nth(2).get_by_text("the answer of before").is_visible(), "folded as committed"
    run_all(page)
    result = cells.nth(2).locator(".jp-OutputArea")
    assert (
        "once you have given your guess" in result.inner_text() and "3.5" not in result.inner_text()
    )
    assert not result.locator("img").count()
    keep(page, "prediction-waits")
    field = cells.nth(1).locator("input[type=text]")
    field.fill("4 GB")
    field.press("Tab")
    before = result.inner_text()
    cells.nth(1).locator("button.mod-primary").click()
    wait_for_change(page, before, result.inner_text)
    assert "Your guess" in result.inner_text() and "3.5 GB" in result.inner_text()
    result.locator("img").wait_for(timeout=2 * MINUTE)
    assert "Your guess: 4 GB" in cells.nth(1).inner_text()
    keep(page, "prediction-answered")


def test_digits_that_are_drawn_by_the_mouse_are_added(page):
    open_next(page, "draw.ipynb")
    run_all(page)
    canvas, area = page.locator(f"{PANEL} canvas"), page.locator(f"{PANEL} .course-drawing")
    canvas.scroll_into_view_if_needed()
    place = canvas.bounding_box()
    assert place is not None
    side = place["width"] / 4

    def stroke(square: int, points: list[tuple[float, float]]) -> None:
        where = [(place["x"] + (square + x) * side, place["y"] + y * side) for x, y in points]
        page.mouse.move(*where[0])
        page.mouse.down()
        for point in where[1:]:
            page.mouse.move(*point, steps=3)
        page.mouse.up()

    bar = [(0.5, 0.12), (0.5, 0.88)]
    ring = [(0.5 + 0.2 * math.sin(t / 3), 0.5 - 0.35 * math.cos(t / 3)) for t in range(20)]
    for square, points in enumerate((bar, ring, bar, bar)):
        expect(area).to_contain_text(
            "Write one digit" if square == 0 else f"still empty: {4 - square}"
        )
        stroke(square, points)
    expect(area).to_contain_text("10 + 11 = 21")
    keep(page, "drawn-digits")
    area.get_by_role("button", name="Clear").click()
    expect(area).to_contain_text("Write one digit")
    stroke(2, ring)
    expect(area).to_contain_text("still empty: 3")
