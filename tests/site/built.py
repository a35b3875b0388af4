"""The built pages in Chromium: `make site-test` runs this file; the usual run of the tests does
not, since it has no pages.

Every page that was built is opened once: nothing is asked of another host, questions and
predictions answer as in JupyterLab, figures move, the keyboard reaches every control and leaves it
again, colours have enough contrast in both modes, nothing is cut at 1280 pixels, a phone shows it
without moving sideways. Pictures are kept in artifacts/site. A page takes five to ten seconds of
processor time; `COURSE_SITE_PAGES=5.6` opens only those with that in their name.
"""

import functools
import http.server
import json
import os
import re
import threading
from pathlib import Path

import pytest
from browsing import ROOT, chromium
from making import notebooks, pages, vendor

from course_utils.learn import texts
from course_utils.learn.questions.question import Question, parse_number
from course_utils.learn.texts import ui

HTML = Path(os.environ.get("COURSE_SITE", ROOT / "build" / "site" / "html"))
PICTURES = ROOT / "artifacts" / "site"
PICTURED = ("1.2-numbers-in-a-box", "3.2-gptq", "5.8-holistic", "lab-5.4-challenge")
UNITS = [unit for unit in pages.units() if (HTML / f"{pages.page_of(unit)}.html").is_file()]
LESSONS = [unit for unit in UNITS if not unit.id.startswith("lab-")]
PAGES = sorted(
    path.relative_to(HTML).with_suffix("").as_posix()
    for path in HTML.rglob("*.html")
    if not {"_static", "_sources", "slides", "colab"} & set(path.relative_to(HTML).parts)
    and os.environ.get("COURSE_SITE_PAGES", "") in path.as_posix()
)
RULES = [
    "image-alt", "label", "select-name", "button-name", "link-name", "scrollable-region-focusable",
    "duplicate-id", "aria-valid-attr-value", "link-in-text-block", "heading-order",
    "empty-heading", "frame-title", "svg-img-alt",
]  # fmt: skip
ANSWERS = [
    "3.5",
    "3,5",
    "1,000",
    "1,000,000.5",
    "2e9",
    "1/3",
    "1/0",
    "−4",
    "×",
    "３.５",
    "12 GB",
    "12 gb",
    "7 apples",
    ".5",
    "+5",
    "4 / 8 GB",
    "1,00",
    "",
    "1e999",
]


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """A failure says enough without the list of what was asked."""


@pytest.fixture(scope="module")
def address():
    assert UNITS, "No pages: run `make site` first."
    handler = functools.partial(Silent, directory=str(HTML))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def opened(browser, address):
    """Opens a page in a mode and a width; fails afterwards on a request to elsewhere, a missing
    file, or an error of a script.
    """
    wrong, contexts = [], []

    def open_(name, mode="light", width=1280, **more):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=mode, **more
        )
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(
            f"localStorage.setItem('mode', '{mode}'); localStorage.setItem('theme', '{mode}')"
        )
        page.on(
            "request",
            lambda r: (
                None
                if r.url.startswith((address, "data:", "blob:"))
                else wrong.append(f"asked {r.url}")
            ),
        )
        page.on(
            "response",
            lambda r: (
                wrong.append(f"{r.status} {r.url}")
                if r.status >= 400 and not r.url.endswith("favicon.ico")
                else None
            ),
        )
        page.on("pageerror", lambda error: wrong.append(f"{name}: {error}"))
        page.goto(f"{address}/{name}.html", wait_until="load")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong


def form_data(form):
    return json.loads(form.locator("script").first.text_content())


def answer(form, data, right):
    """Give a form the right answer, or a wrong one."""
    kind = {"number": "numeric", "order": "ordering"}.get(data["kind"], data["kind"])
    if kind == "choice":
        place = (
            data["truth"]
            if "truth" in data
            else next(i for i, o in enumerate(data["options"]) if o["right"])
        )
        form.locator("input[type=radio]").nth(
            place if right else (place + 1) % form.locator("input[type=radio]").count()
        ).check()
    elif kind == "numeric":
        form.locator("input[type=text]").fill(
            f"{data.get('truth', data.get('expected')) * (1 if right else -3)}"
        )
    else:
        order = data.get("order") or [item for group in data["truth"] for item in group]
        for field, item in zip(
            form.locator("select").all(), order if right else order[::-1], strict=True
        ):
            field.select_option(str(item))
    form.locator("button").click()


def answered(page):
    """Give every form no answer, a wrong one and the right one."""
    for form in page.locator(".course-form").all():
        data = form_data(form)
        said = form.locator(".course-said .course-box")
        form.locator("button").click()
        assert ui("choose_first") in said.inner_text()
        if "prediction" in data:
            result = page.locator(f".{data['result']} details")
            assert result.count() == 1 and result.get_attribute("open") is None
        answer(form, data, right=False)
        assert "course-right" not in said.get_attribute("class")
        answer(form, data, right=True)
        assert "course-right" in said.get_attribute("class")
        if "prediction" in data:
            assert result.get_attribute("open") is not None


# controls that change nothing, wherever one of the others stands; every place of each is shown
MOVED = """() => [...document.querySelectorAll('.course-widget')].flatMap(widget => {
    const picture = widget.querySelector('img'), all = [...widget.querySelectorAll('input, select')];
    const at = field => field.type === 'checkbox' ? Number(field.checked) : field.value;
    const put = (field, place) => {
        if (field.type === 'checkbox') field.checked = Boolean(Number(place)); else field.value = place;
        field.dispatchEvent(new Event('input', {bubbles: true}));
    };
    const places = field => [...Array(field.type === 'checkbox' ? 2 : field.type === 'range' ?
        Number(field.max) + 1 : field.options.length).keys()];
    const round = (field, then) => {
        const first = at(field);
        const found = places(field).map(place => { put(field, place); return then(); });
        put(field, first);
        return found;
    };
    const changes = field => new Set(round(field, () => picture.getAttribute('src'))).size > 1;
    return all.filter(field => field.checkVisibility() && !changes(field) &&
        !all.some(other => other !== field && round(other, () => changes(field)).some(Boolean))).map(field => field.id);
})"""  # noqa: E501
CUT = """() => [...document.querySelectorAll('.cell_input pre, .cell_output pre, .cell_output table, .course-box pre')]
    .filter(part => part.clientWidth && part.scrollWidth > part.clientWidth + 1).map(part => part.textContent.slice(0, 80))"""  # noqa: E501
CONTROLS = """() => { const held = [...document.querySelectorAll('.bd-article a[href], .bd-article button, .bd-article input, '
    + '.bd-article select, .bd-article summary, .bd-article [tabindex="0"]')].filter(part => part.checkVisibility() && !part.disabled &&
    !part.matches('.headerlink, .copybtn'));
    held.forEach((part, i) => { part.dataset.place = i; });
    return [held.length, held.filter(part => part.tabIndex < 0).map(part => part.outerHTML.slice(0, 120))]; }"""  # noqa: E501
AXE = """async rules => (await axe.run(document.querySelector('.bd-article') ?? document.querySelector('main'), {runOnly: rules, resultTypes: ['violations']}))
    .violations.map(v => [v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 160) + ' ' + n.failureSummary.slice(0, 200))])"""  # noqa: E501
# contrast takes axe most of a page's time: of all texts that look alike, the first one is tried
CONTRAST = """async () => {
    const kinds = new Map();
    for (const part of (document.querySelector('.bd-article') ?? document).querySelectorAll('*')) {
        if (part.closest('mjx-container, svg, head, script, style') || !part.checkVisibility() ||
            ![...part.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
        const look = getComputedStyle(part), key = [look.color, look.fontSize, look.fontWeight, look.opacity];
        for (let under = part; under; under = under.parentElement) {
            const {backgroundColor, backgroundImage, opacity, filter} = getComputedStyle(under);
            key.push(backgroundColor, backgroundImage, opacity, filter);
        }
        const kind = key.filter(k => !['rgba(0, 0, 0, 0)', 'none', '1'].includes(k)).join();
        if (!kinds.has(kind)) kinds.set(kind, part);
    }
    if (!kinds.size) return [];
    return (await axe.run({include: [...kinds.values()]}, {runOnly: ['color-contrast'], resultTypes: ['violations']}))
        .violations.map(v => v.nodes.map(n => n.html.slice(0, 160) + ' ' + n.failureSummary.slice(0, 200)));
}"""  # noqa: E501


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_read_answered_moved_and_reached(name, opened):
    page = opened(name)
    answered(page)
    assert not page.evaluate(MOVED)  # a control that changes nothing
    assert page.evaluate(
        "[...document.images].every(image => !image.complete || image.naturalWidth > 0)"
    )
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    # code of a hundred characters, printed lines and tables fit at 1280 pixels
    assert not page.evaluate(CUT)
    walked(page)
    page.add_script_tag(
        path=str(vendor.package("axe-core@4.10.3", ROOT / "build" / "npm") / "axe.min.js")
    )
    found = {"light": page.evaluate(CONTRAST), "form": page.evaluate(AXE, RULES)}
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(300)  # colours fade
    found["dark"] = page.evaluate(CONTRAST)
    found["links"] = page.evaluate(AXE, ["link-in-text-block"])
    page.set_viewport_size({"width": 390, "height": 900})
    page.wait_for_timeout(700)  # what is wider than the page now gets its place in the order of Tab
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    found["phone"] = page.evaluate(AXE, ["scrollable-region-focusable"])
    assert not any(found.values()), found


def walked(page):
    """Tab goes from each control of the article to another one, and reaches all of a page that has
    few.
    """
    page.mouse.move(0, 0)  # a heading under the mouse shows its link, which Tab then reaches
    count, hidden = page.evaluate(CONTROLS)
    assert not hidden
    if not count:
        return
    page.evaluate("document.querySelector('[data-place=\"0\"]').focus()")
    reached = set()
    steps = 200 if page.locator(".course-form, .course-widget").count() else 20
    while len(reached) < min(count, steps):
        place = page.evaluate("document.activeElement.dataset.place ?? null")
        if place is None or place in reached:
            break
        reached.add(place)
        page.keyboard.press("Tab")
    others = page.evaluate(  # a group of options is one place of Tab
        "document.querySelectorAll('[data-place][type=radio]:not(:checked)').length"
    )
    at = page.evaluate("document.activeElement.outerHTML.slice(0, 300)")
    assert len(reached) >= min(count - others, steps) - 1, f"Tab stays somewhere: {at}"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.id)
def test_every_question_and_figure_of_a_notebook_has_its_form_and_controls(unit):
    text = (HTML / f"{pages.page_of(unit)}.html").read_text(encoding="utf-8")
    cells = json.loads((ROOT / unit.path).read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    called = [verb for _, verb, _ in notebooks.CALL.findall(source)]
    forms = len(re.findall(r"<form class=['\"]course-form", text))
    widgets = len(re.findall(r"class=['\"]course-widget['\" ]", text))
    predicted = (
        0 if unit.id.startswith("lab-") else called.count("predict")
    )  # a lab is measured by those who do it
    assert forms == called.count("ask") + predicted
    assert widgets == called.count("explore"), (
        f"draw its frames: docs/site/build.py --frames {unit.id}"
    )


@pytest.mark.parametrize(
    ("name", "mode", "width"),
    [
        (name, mode, width)
        for name in ("index", *(pages.page_of(unit) for unit in UNITS if unit.id in PICTURED))
        for mode, width in (("light", 1280), ("dark", 1280), ("light", 390))
    ],
)
def test_pictures_are_kept(name, mode, width, opened):
    page = opened(name, mode, width)
    PICTURES.mkdir(parents=True, exist_ok=True)
    assert page.screenshot(path=PICTURES / f"{name.split('/')[-1]}-{mode}-{width}.png")


def test_the_keyboard_alone_answers_and_moves(opened):
    page = opened("notebooks/1-intuition/1.2-numbers-in-a-box")
    form = page.locator(".course-form").first
    form.locator("input").first.focus()
    assert page.evaluate("document.activeElement.matches('.course-form input')")
    page.keyboard.type("2.1")
    page.keyboard.press("Enter")
    assert (
        ui("prediction_kept", guess="2.1").replace("**", "")
        in form.locator(".course-said").inner_text()
    )
    slider = page.locator(".course-widget input[type=range]").first
    picture = page.locator(".course-widget img").first
    before = picture.get_attribute("src")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert picture.get_attribute("src") != before
    link = page.locator(".course-widget a.course-figure-link").first
    assert link.get_attribute("href") == picture.get_attribute("src"), "it opens alone"


def test_formulas_are_set_also_in_answers(opened):
    page = opened("notebooks/3-formalization/3.2-gptq")
    page.wait_for_selector("mjx-container", timeout=30_000)
    assert not page.locator("mjx-merror").count()


def test_numbers_are_read_as_in_a_notebook(opened):
    page = opened(pages.page_of(LESSONS[0]))
    for unit in ("", "GB"):
        for text in ANSWERS:
            number, problem = parse_number(text, unit)
            there = page.evaluate(
                "([text, unit]) => window.course.parseNumber(text, unit)", [text, unit]
            )
            assert there == [number, problem] or (
                number is not None and there[0] == pytest.approx(number, rel=1e-12)
            ), text


def test_questions_are_judged_as_in_a_notebook(opened):
    """Right, nearly right, and each known mistake of every numeric question; the first wrong place
    of every ordering.
    """
    from making import forms

    page = opened(pages.page_of(LESSONS[0]))
    for topic in texts.topics():
        for name, entry in (texts.load(topic).get("questions") or {}).items():
            data = re.search(
                r"<script type='application/json'>(.*?)</script>",
                forms.question(
                    name,
                    "x",
                    7.5 if "expected" not in entry and entry["kind"] == "numeric" else None,
                ),
                re.DOTALL,
            )
            asked = Question(
                name, 7.5 if "expected" not in entry and entry["kind"] == "numeric" else None
            )
            if entry["kind"] == "numeric":
                factors = (1, 1.019, 1.021, -1, 10, 1000, 0.001, 1.5, 0.5)
                tried = [asked.expected * f for f in factors] + [
                    n["value"] if "value" in n else n["factor"] * asked.expected
                    for n in entry.get("near", [])
                ]
                pairs = [(value, value) for value in tried]
            elif entry["kind"] == "ordering":
                shown = asked.shown
                pairs = [
                    (shown, list(range(len(shown)))),
                    (entry["items"], [shown.index(i) for i in entry["items"]]),
                ]
            else:
                pairs = [(text, i) for i, text in enumerate(asked.shown)]
            for given, coded in pairs:
                verdict = asked.answer(given, show=False)
                right, why = page.evaluate(
                    "([data, value]) => window.course.judge(JSON.parse(data), value)",
                    [data[1], coded],
                )
                body = (
                    verdict.message.partition("\\n\\n")[2] or verdict.message.partition("\n\n")[2]
                )
                assert right == verdict.passed and why in (forms.rich(body), f"<p>{body}</p>"), (
                    name,
                    given,
                )


def test_slides_turn(opened):
    page = opened("slides/1-intuition/1.2-numbers-in-a-box")
    page.wait_for_selector(".reveal.ready", timeout=30_000)
    page.keyboard.press("ArrowRight")
    assert (
        page.evaluate("Reveal.getTotalSlides()") > 10
        and page.evaluate("Reveal.getIndices().h") == 1
    )
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(1000)  # the slide has turned
    page.screenshot(path=PICTURES / "slides.png")


def test_search_finds_a_term(opened, address):
    page = opened("search")
    page.goto(f"{address}/search.html?q=Hessian")
    page.wait_for_selector("#search-results li a", timeout=30_000)
    assert page.locator("#search-results li").count() > 1
