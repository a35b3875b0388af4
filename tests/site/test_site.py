"""What Sphinx reads: pages from notebooks, forms with their answers, frames of moving figures,
links. tests/site/built.py tries the built pages.
"""

import json
import re
from types import SimpleNamespace

import nbformat
import pytest
from making import forms, frames, launch, links, pages, slides, vendor
from making.notebooks import Stage, words

from course_utils.learn import texts
from course_utils.learn.questions.prediction import Prediction
from course_utils.learn.questions.question import Question
from course_utils.learn.texts import ui
from course_utils.learn.widgets import checkbox, slider, toggle

DATA = re.compile(r"<script type='application/json'>(.*?)</script>", re.DOTALL)
UNITS = pages.units()


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """Every lesson and lab as a page: id → its cells' HTML; and the folder."""
    folder = tmp_path_factory.mktemp("site")
    made = Stage(folder)
    return SimpleNamespace(
        folder=folder,
        left_out=made.left_out,
        pages={unit.id: made.notebook(pages.ROOT / unit.path, launch.bar(unit)) for unit in UNITS},
    )


def shown(page):
    return "".join(
        output["data"]["text/html"]
        for cell in page["cells"]
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    )


def called(page, verb):
    code = "\n".join(cell["source"] for cell in page["cells"] if cell["cell_type"] == "code")
    return re.findall(rf"^\s*(?:\w+\s*=\s*)?{verb}\(\s*\"([\w.]+)\"", code, re.MULTILINE)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.id)
def test_a_page_needs_no_kernel(unit, staged):
    page = staged.pages[unit.id]
    text = shown(page)
    for key in ("run_to_answer", "run_to_move", "prediction_static"):
        assert ui(key) not in text
    assert "widget-view" not in json.dumps(page)
    forms_here = re.findall(r"<form class='course-form'", text)
    asked, guessed = called(page, "ask"), called(page, "predict")
    unanswered = text.count(ui("site_no_answer"))
    assert len(forms_here) + unanswered == len(asked) + len(guessed)
    places = re.findall(r"id='([^']+)'", text)
    assert len(places) == len(set(places))
    alts = re.findall(r"<img [^>]*alt='([^']*)'", text)
    assert len(alts) == text.count("<img ") and all(
        len(alt) > 8 and "<Figure" not in alt for alt in alts
    )
    assert "border-left:4px solid #" not in text  # colours that only suit white paper
    nbformat.validate(
        nbformat.from_dict(json.loads((staged.folder / unit.path).read_text(encoding="utf-8"))),
        relax_add_props=True,
    )


def test_guesses_are_judged_by_what_was_measured(staged):
    """Every prediction of every lesson finds its result and the measurement in it."""
    for unit in UNITS:
        text = shown(staged.pages[unit.id])
        found = [json.loads(held) for held in DATA.findall(text)]
        found = [data for data in found if "prediction" in data]
        wanted = [] if unit.id.startswith("lab-") else called(staged.pages[unit.id], "predict")
        assert [data["prediction"] for data in found] == wanted
        results = {
            f"tag_{tag}"
            for cell in staged.pages[unit.id]["cells"]
            for tag in cell["metadata"].get("tags", [])
        }
        assert all("truth" in data and data["result"] in results for data in found)


def first_prediction(kind):
    return next(
        n
        for t in texts.topics()
        for n, entry in (texts.load(t).get("predictions") or {}).items()
        if entry["kind"] == kind
    )


def test_the_measurement_is_read_back_from_a_committed_result():
    number = Prediction(first_prediction("number"))
    assert forms.measured(number, number._beside(2.145, 2.145)["text/html"]) == 2.145
    for name in [
        n
        for t in texts.topics()
        for n, entry in (texts.load(t).get("predictions") or {}).items()
        if entry["kind"] != "number"
    ]:
        made = Prediction(name)
        place = {key: made.shown.index(text) for key, text in made.names.items()}
        keys = list(place)
        truth = (
            keys[-1] if made.kind == "choice" else [tuple(keys[:2]), *((key,) for key in keys[2:])]
        )
        wanted = (
            place[truth]
            if made.kind == "choice"
            else [[place[key] for key in group] for group in truth]
        )
        assert forms.measured(made, made._beside(truth, truth)["text/html"]) == wanted, name
    assert forms.measured(number, "<p>nothing</p>") is None


def test_a_form_holds_the_right_answer():
    for name in ("numbers.outlier", "numbers.lossless_limit"):
        data = json.loads(DATA.search(forms.question(name, "place"))[1])
        right = [
            text
            for text, option in zip(Question(name).shown, data["options"], strict=True)
            if option["right"]
        ]
        assert right == [
            option["text"] for option in texts.question(name)["options"] if option.get("right")
        ]
    numeric = next(
        n
        for t in texts.topics()
        for n, q in (texts.load(t).get("questions") or {}).items()
        if q["kind"] == "numeric" and "expected" in q
    )
    data = json.loads(DATA.search(forms.question(numeric, "place"))[1])
    assert data["expected"] == texts.question(numeric)["expected"] and data["why"]
    computed = next(
        n
        for t in texts.topics()
        for n, q in (texts.load(t).get("questions") or {}).items()
        if q["kind"] == "numeric" and "expected" not in q
    )
    assert ui("site_no_answer") in forms.question(computed, "place")
    assert json.loads(DATA.search(forms.question(computed, "place", 4.5))[1])["expected"] == 4.5


def test_hints_of_labs_are_shown_and_their_solutions_are_not(staged):
    assert ui("solution_title", title="") in shown(staged.pages["1.2-numbers-in-a-box"])
    assert ui("hint_1") in shown(staged.pages["lab-3.1-gptq"]) and ui(
        "solution_title", title=""
    ) not in shown(staged.pages["lab-3.1-gptq"])


@pytest.mark.parametrize(
    "controls",
    [
        {"bits": slider(2, 8, 4)},
        {"x": slider(0.0, 1.0, 0.35, step=0.05), "y": slider(0.0, 5.0, 2.0, step=0.1)},
        {
            "a": slider(1, 70, 7),
            "b": toggle([32, 16, 8], 16),
            "c": slider(1, 64, 4),
            "d": checkbox(False),
            "e": slider(1, 32, 1),
        },
        {f"b{i}": checkbox(bool(i % 2)) for i in range(8)},
        {"x": slider(0, 999, 501)},
    ],
)
def test_frames_are_few_and_hold_the_first_figure(controls):
    values, together = frames.plan(controls)
    first = {name: control.value for name, control in controls.items()}
    drawn = list(frames.combinations(values, first, together))
    assert len(drawn) <= frames.MOST and first in drawn
    for name, control in controls.items():
        assert control.value in values[name] and values[name] == sorted(
            values[name], key=frames.values_of(control).index
        )
        assert {frames.values_of(control)[0], frames.values_of(control)[-1]} <= set(values[name])
    told = {name: {"values": values[name], "first": first[name]} for name in controls}
    assert drawn[forms._first({"controls": told, "together": together})] == first


def test_only_what_a_widget_needs_is_run_and_a_change_there_takes_its_frames_away(
    tmp_path, monkeypatch
):
    sources = {
        "imports": "import math\nfrom course_utils.learn import explore",
        "long": "def slow():\n    y = 2\n    return y\nother = slow()",
        "base": "y = [1]",
        "more": "y.append(math.pi)",
        "see": "explore(lambda x: draw(x, y), x=None)",
    }
    cells = list(sources.items())
    assert frames.needed(cells) == {"see": ["imports", "base", "more", "see"]}
    monkeypatch.setattr(frames, "FRAMES", tmp_path)
    page = tmp_path / "one.ipynb"
    (tmp_path / "one").mkdir()

    def fresh(**changed):
        code = [
            nbformat.v4.new_code_cell(text, id=name) for name, text in (sources | changed).items()
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=code), page)
        return set(frames.fresh(page))

    assert fresh() == set()
    told = {
        "see": {
            "fingerprint": frames.fingerprint(cells, frames.needed(cells)["see"]),
            "widgets": [],
            "expected": {},
        }
    }
    (tmp_path / "one" / "frames.json").write_text(json.dumps(told))
    assert fresh() == {"see"} and fresh(long="other = 3") == {"see"}
    assert fresh(base="y = [2]") == set() and fresh(more="") == set()


def test_what_a_function_of_the_lesson_writes_down_is_needed_too():
    cells = [
        (
            "table",
            (
                "held, other = {}, []\n"
                "def measure(name):\n    own = {}\n    own[name] = held[name] = 1"
            ),
        ),
        ("unused", "def quiet(other):\n    other.append(1)\nquiet([])"),
        ("rows", "for name in 'ab':\n    measure(name)"),
        ("see", "explore(lambda x: draw(x, held), x=None)"),
    ]
    assert frames.needed(cells) == {"see": ["table", "rows", "see"]}


def test_committed_frames_are_there_and_answer_every_position():
    for file in frames.FRAMES.glob("*/frames.json"):
        for cell in json.loads(file.read_text(encoding="utf-8")).values():
            for widget in cell["widgets"]:
                counts = [len(control["values"]) for control in widget["controls"].values()]
                product = 1
                for count in counts:
                    product *= count
                assert (
                    len(widget["frames"])
                    == len(widget["alts"])
                    == (product if widget["together"] else sum(counts))
                    <= frames.MOST
                )
                assert all((file.parent / frame).is_file() for frame in widget["frames"])


def test_a_figure_is_told_by_its_own_titles_or_by_its_code():
    assert words("Rounding one layer", "", "heading") == "Rounding one layer"
    said = words(
        "<Figure size 1x1>",
        'axes.set(title=f"{name}: bits", xlabel="step")\ndrawn.layouts(x)',
        "The grid",
    )
    assert {"…: bits", "horizontal: step", "The grid"} <= set(said.split("; "))


def test_dead_links_and_what_is_loaded_from_elsewhere_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        "<a href='b.html#there'>x</a><a href='b.html#gone'>x</a><a href='c.html'>x</a>"
        "<a href='https://x.invalid'>x</a>"
    )
    (tmp_path / "b.html").write_text(
        "<p id='there'>x</p><script src='https://x.invalid/a.js'></script><img src='no.png'>"
    )
    assert links.dead(tmp_path) == [
        "a.html → b.html#gone: no such place", "a.html → c.html",
        "b.html loads https://x.invalid/a.js", "b.html → no.png",
    ]  # fmt: skip


def test_a_link_without_a_page_becomes_words():
    path = pages.ROOT / "docs" / "development.md"
    assert links.repair("[b](benchmarks.md#x)", path) == "[b](benchmarks.md#x)"
    assert (
        links.repair("[the code](../course_utils/cli.py)", path)
        == "the code (`course_utils/cli.py`)"
    )
    assert links.repair("[s](../notebooks/start.ipynb)", path) == "[s](../index.md)"


def test_nothing_names_a_repository_unless_it_is_set(tmp_path, monkeypatch):
    unit, path = UNITS[0], pages.ROOT / UNITS[0].path
    assert launch.REPOSITORY == "" and "colab" not in launch.bar(unit)
    launch.edition(path, tmp_path)
    assert not list(tmp_path.rglob("*.ipynb")) and "colab" not in path.read_text(encoding="utf-8")
    monkeypatch.setattr(launch, "REPOSITORY", "someone/course")
    launch.edition(path, tmp_path)
    assert "someone/course/blob/gh-pages/colab/" in launch.bar(
        unit
    ) and "codespaces.new/someone/course" in launch.bar(unit)
    made = nbformat.read(next(tmp_path.rglob("*.ipynb")), as_version=4)
    setup = next(cell for cell in made.cells if cell.id == "colab-setup")
    assert "find_spec" in setup.source and compile(setup.source, "setup", "exec")
    nbformat.validate(made)


def test_a_package_that_differs_is_refused(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho wrong > m.tgz\necho m.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setattr(vendor.shutil, "which", lambda _name: str(npm))
    with pytest.raises(SystemExit, match="SHA-256 differs"):
        vendor.package("mathjax@3.2.2", tmp_path / "kept")
    assert not (tmp_path / "kept" / "mathjax@3.2.2").exists()
    monkeypatch.setattr(vendor.shutil, "which", lambda _name: None)
    with pytest.raises(SystemExit, match="install Node.js"):
        vendor.package("mathjax@3.2.2", tmp_path / "kept")


def test_every_lesson_on_disk_stands_in_the_tree_with_its_facts():
    text = pages.start()
    for unit in UNITS:
        assert (
            f"</{pages.page_of(unit)}>" in text
            and (
                f"]({unit.path}) | {', '.join(map(str, unit.days))} | "
                f"{ui('minutes', minutes=unit.minutes)}"
            )
            in text
        )
    assert "5.9-frontiers" not in text or any(unit.id == "5.9-frontiers" for unit in UNITS)


def test_tags_decide_what_a_slide_is(staged):
    cells = {
        cell["id"]: slides.kind(cell) for cell in staged.pages["1.2-numbers-in-a-box"]["cells"]
    }
    assert (
        cells["see"] == "slide"
        and cells["parameters"] == cells["imports"] == "skip"
        and cells["explore-grid"] == "subslide"
    )
    assert (
        slides.kind(
            {"id": "x", "cell_type": "markdown", "metadata": {"tags": ["notes"]}, "source": "# x"}
        )
        == "notes"
    )


def test_markdown_of_a_page_has_its_text_code_and_answers():
    page = json.loads((pages.ROOT / UNITS[1].path).read_text(encoding="utf-8"))
    text = pages.markdown(page)
    assert (
        text.startswith("# ")
        and "```python" in text
        and "data:image" not in text
        and "<Figure" not in text
    )
    assert len(text) < 150_000
