"""The board of three hundred entries in a real browser: offline, readable on a wide and on a narrow
page, sorted by keys.
"""

import random

import board_entries as made
import pytest
from browsing import chromium, keep

from course_utils.grade import board, board_page, standing
from course_utils.grade.standing import Entry

LONG = "a name of two hundred and fifty letters " * 6


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    rng = random.Random(1)
    names = [
        "<img src=http://example.org/x onerror=document.title='marked'>",
        LONG,
        "=1+1",
        *(f"learner-{n}" for n in range(291)),
    ]
    kinds = ["learner"] * len(names) + ["baseline"] * 5 + ["instructor"]
    names += ["BF16", "865 kB", "733 kB", "650 kB", "593 kB", "instructor"]
    entries = []
    for name, kind in zip(names, kinds, strict=True):
        size = int(6e5 * 2 ** rng.uniform(0, 3.3))
        harm = (6e5 / size) ** 2 * rng.uniform(0.8, 6)
        gates = made.measured(
            facts_tail=1 - 0.02 * harm * rng.random(),
            facts_head=1 - 0.01 * harm,
            KL=0.02 * harm,
            addition=1 - 0.04 * harm,
        )
        entries.append(
            Entry(
                name,
                size,
                {gate: standing.shown_gate(found) for gate, found in gates.items()},
                kind,
            )
        )
    refused = [
        (f"learner-{n}", "2", "decoding took longer than 60 seconds <b>") for n in range(291, 299)
    ]
    made_board = board.Board(entries, refused, {name: 2 for name in names}, learners=299)
    return board_page.write_all(tmp_path_factory.mktemp("board"), made_board, 5)[
        0
    ], standing.standing(entries)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def opened(browser, page_file, width, script=True, scheme="light"):
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        java_script_enabled=script,
        color_scheme=scheme,
        offline=True,
    )
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    assert asked == [page_file.as_uri()], "it asks for nothing else"
    return page


@pytest.mark.parametrize(
    ("width", "scheme", "script"),
    [(1280, "light", True), (375, "dark", True), (1280, "dark", False)],
)
def test_it_is_readable(browser, page_file, width, scheme, script):
    page = opened(browser, page_file[0], width, script, scheme)
    rows = page.locator("table").first.locator("tbody tr")
    assert rows.count() == len(page_file[1]) == 300 and page.title() == "Challenge: the board"
    fronts = {row.entry.name.strip() for row in page_file[1] if row.on_front}
    assert {text.strip() for text in page.locator("tr.front th").all_text_contents()} == fronts
    assert (
        page.locator("svg .front").count() == len(fronts)
        and page.locator(
            "svg circle, svg rect, svg path[class^='front'], svg path[class^='dot']"
        ).count()
        == 300
    )
    keep(page, f"board-{width}-{scheme}{'' if script else '-no-script'}")
    if script:
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (
            "only the table scrolls sideways"
        )
        sizes = page.evaluate(
            "[...document.querySelectorAll('td, th')].map(one => "
            "parseFloat(getComputedStyle(one).fontSize))"
        )
        assert min(sizes) >= 13
        seen = page.evaluate(
            "[...document.querySelectorAll('svg text')].map(t => "
            "t.getBoundingClientRect().height).filter(Boolean)"
        )
        assert min(seen) >= 9
        assert page.locator("tbody tr").first.locator("td.b").bounding_box()["x"] < width
    page.locator("table").first.scroll_into_view_if_needed()
    page.locator("h2").first.evaluate("one => one.scrollIntoView()")
    keep(page, f"board-{width}-{scheme}{'' if script else '-no-script'}-table")
    page.context.close()


def test_keys_reach_the_sorting(browser, page_file):
    page = opened(browser, page_file[0], 1280)
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "bytes":
            break
    values = (
        "[...document.querySelectorAll('table.sort tbody tr')].map(row => "
        "Number(row.cells[2].dataset.v))"
    )
    for order, down in (("ascending", False), ("descending", True)):
        page.keyboard.press("Enter")
        found = page.evaluate(values)
        assert found == sorted(found, reverse=down) and len(set(found)) > 200
        assert page.locator("th[aria-sort]").get_attribute("aria-sort") == order
    page.locator("th button", has_text="rank").click()
    ranks = page.evaluate(
        "[...document.querySelectorAll('table.sort tbody tr')].map(row => row.cells[0].dataset.v)"
    )
    numbers = [int(rank) for rank in ranks if rank]
    assert numbers == sorted(numbers) and all(rank == "" for rank in ranks[len(numbers) :]), (
        "those without a rank stay below"
    )
    assert page.title() == "Challenge: the board"
    page.context.close()
