"""Notebooks keep to the rules that readers and translators rely on."""

import ast
import re

import nbformat
import pytest

from course_utils.learn import fold, glossary, show, texts
from notebooks import LABS, LESSONS, SOLUTIONS, START, name

FILE_LIMIT = 1_500_000  # bytes
INSTALL = re.compile(r"^\s*[!%].*\b(pip|conda|apt|apt-get|npm)\b|-m\s*pip\s+install", re.MULTILINE)
REMOTE_IMAGE = re.compile(
    r"!\[[^\]]*\]\(\s*https?:|<img[^>]+src\s*=\s*[\"']?https?:", re.IGNORECASE
)
LEVELS_1_TO_3 = {
    "1.1-why-compress", "1.2-numbers-in-a-box", "1.3-the-trade-off",
    "2.1-quantization", "2.2-pruning", "2.3-distillation", "2.4-choosing", "2.5-pitfalls",
    "3.1-uniform-quantization", "3.2-gptq", "3.3-awq-smoothquant", "3.4-pruning-scores",
    "3.5-distillation-losses", "3.6-what-it-costs",
}  # fmt: skip
DAYS_1_TO_12 = {
    "lab-1.1-first-compression", "lab-2.1-quantizer", "lab-2.2-pruner", "lab-3.1-gptq",
    "lab-3.2-wanda", "lab-3.3-distillation", "lab-3.4-pipeline", "lab-4.1-rate-distortion",
    "lab-4.2-lottery-ticket", "lab-5.1-int4-kernel", "lab-5.2-mixed-precision", "lab-5.3-reasoning",
    "lab-5.4-challenge",
}  # fmt: skip


def test_expected_notebooks_exist():
    assert {path.stem for path in LESSONS} >= LEVELS_1_TO_3
    assert {path.stem for path in SOLUTIONS} >= DAYS_1_TO_12
    assert {path.stem for path in LABS} == {path.stem for path in SOLUTIONS}
    assert START[0].exists()


@pytest.mark.parametrize(
    "path", START + LESSONS + SOLUTIONS + LABS, ids=lambda p: f"{p.parent.parent.name}-{p.stem}"
)
def test_notebook_keeps_the_rules(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert not [i for i in ids if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]{27})?", i)], (
        "ids must be readable"
    )
    assert path.stat().st_size < FILE_LIMIT
    for cell in notebook.cells:
        assert not (cell.cell_type == "markdown" and REMOTE_IMAGE.search(cell.source)), cell.id
        assert not (cell.cell_type == "code" and INSTALL.search(cell.source)), cell.id


@pytest.mark.parametrize("path", LESSONS, ids=name)
def test_committed_outputs_are_there_and_clean(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.execution_count for cell in cells if cell.source.strip())
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs), (
        "a lesson shows at least one figure"
    )


LIVE = re.compile(r"^\s*(hint|solution)\(", re.MULTILINE)
LONGEST, MOST_LINES = 100, 25  # characters of a line of code, lines of a cell
each = pytest.mark.parametrize("path", LESSONS, ids=name)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@each
def test_run_all_opens_no_hint_and_no_solution(path):
    """Hints and solutions are opened by a deliberate act: their cells hold them behind a #."""
    assert not [cell.id for cell in code_cells(path) if LIVE.search(cell.source)]


@each
def test_every_lesson_asks_for_two_guesses_before_it_shows_a_result(path):
    cells, asked = code_cells(path), {}
    shown = {cell.id for cell in fold.results(cells)}
    for cell in cells:
        for variable, prediction in fold.PREDICT.findall(cell.source):
            assert cell.id not in shown, f"{cell.id}: guess and result are two cells"
            assert texts.prediction(prediction)
            asked[variable] = prediction
        for variable in (
            re.findall(r"^\s*(\w+)\.result\(", cell.source, re.MULTILINE)
            if cell.id in shown
            else ()
        ):
            assert variable in asked, f"{cell.id}: {variable} is asked before its result is shown"
    results = [
        v
        for c in cells
        for v in re.findall(r"^\s*(\w+)\.result\(", c.source, re.MULTILINE)
        if v in asked
    ]
    assert len(set(asked.values())) >= 2 and set(results) == set(asked), (
        "at least two guesses, each with its result"
    )


SHOWS = {"print", "display", "plots.table", "plt.show"}


@each
def test_the_cell_of_a_result_shows_it_and_nothing_else(path):
    """What it shows besides would stand there before the guess: it belongs into `shown`, or into a
    function given as that.
    """

    def calls(node):
        for part in ast.iter_child_nodes(node):
            if not isinstance(part, (ast.FunctionDef, ast.Lambda)):
                if isinstance(part, ast.Call):
                    yield ast.unparse(part.func)
                yield from calls(part)

    cells = fold.results(code_cells(path))
    assert not [cell.id for cell in cells if SHOWS & set(calls(ast.parse(cell.source)))]


@each
def test_committed_results_of_predictions_are_folded(path):
    """Make it so: python -m course_utils.learn.fold"""
    cells = code_cells(path)
    assert not [cell.id for cell in cells if any(map(fold.is_bar, cell.outputs))], "progress bars"
    hidden = [cell.id for cell in cells if cell.metadata.get("jupyter", {}).get("outputs_hidden")]
    assert hidden == [cell.id for cell in fold.results(cells)]


@pytest.mark.parametrize("path", START + LESSONS + SOLUTIONS, ids=name)
def test_no_line_of_code_is_too_long(path):
    long = [
        (c.id, line)
        for c in code_cells(path)
        for line in c.source.split("\n")
        if len(line) > LONGEST
    ]
    assert not long


@each
def test_no_cell_hides_its_idea_in_many_lines(path):
    assert not {c.id: n for c in code_cells(path) if (n := len(c.source.split("\n"))) > MOST_LINES}


@pytest.mark.parametrize("path", LESSONS, ids=name)
def test_committed_pages_show_the_texts_as_they_are(path):
    """Questions, predictions and the first card: who changes a text runs the cell again."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        shown = "\n".join(o.get("data", {}).get("text/plain", "") for o in cell.outputs)
        for found in re.findall(r'\bask\("([\w.]+)"', cell.source):
            text = texts.question(found)
            options = [o["text"] for o in text.get("options", [])] + list(text.get("items", []))
            assert all(show.plain(part) in shown for part in (text["prompt"], *options)), (
                f"{cell.id}: {found} is old"
            )
        for found in re.findall(r'\bpredict\("([\w.]+)"', cell.source):
            assert show.plain(texts.prediction(found)["prompt"]) in shown, (
                f"{cell.id}: {found} is old"
            )


def test_what_predictions_ask_exists():
    """Every predict("…") of a notebook has its texts; when all lessons are done, every prediction
    is asked somewhere.
    """
    asked = {
        p
        for path in LESSONS + SOLUTIONS
        for c in code_cells(path)
        for _, p in fold.PREDICT.findall(c.source)
    }
    written = {p for topic in texts.topics() for p in texts.load(topic).get("predictions") or {}}
    assert asked <= written and all(texts.prediction(p) for p in asked)
    assert asked == written


def test_folding(tmp_path):
    notebook = nbformat.v4.new_notebook()
    sources = ['guess = predict("a.b")', "guess.result(3)", "other.result(3)", "x = 1"]
    notebook.cells = [
        nbformat.v4.new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources)
    ]
    notebook.cells[3].metadata["jupyter"] = {"outputs_hidden": True}
    view = {
        "application/vnd.jupyter.widget-view+json": {"model_id": "m"},
        "text/plain": "GPTQ:   0%|",
    }
    kept = [
        nbformat.v4.new_output("display_data", data)
        for data in ({"text/plain": "3"}, view | {"text/html": "a control"})
    ]
    notebook.cells[3].outputs = [kept[0], nbformat.v4.new_output("display_data", view), kept[1]]
    notebook.metadata["widgets"] = {}
    nbformat.write(notebook, path := tmp_path / "n.ipynb")
    assert fold.fold(path) and not fold.fold(path), "a second run changes nothing"
    cells = nbformat.read(path, as_version=4).cells
    assert (
        cells[3].outputs == kept and "widgets" not in nbformat.read(path, as_version=4).metadata
    ), "progress bars go"
    assert [cell.metadata.get("jupyter") for cell in cells] == [
        None,
        {"outputs_hidden": True},
        None,
        None,
    ]


@each
def test_terms_are_linked_where_they_are_first_used(path):
    """Make it so: python -m course_utils.learn.glossary --write"""
    lessons = {path.stem: path for path in LESSONS}
    assert glossary.link_notebook(path, lessons) == path.read_text(encoding="utf-8")


def test_terms_are_taught_where_the_glossary_says():
    """A term that lessons use is used from there on as well."""
    lessons = {path.stem: path for path in LESSONS}
    said = {
        path: [
            c.source.replace("**", "")
            for c in nbformat.read(path, as_version=4).cells
            if c.cell_type == "markdown"
        ]
        for path in LESSONS
    }
    assert len(glossary.terms()) >= 50
    for term in glossary.terms():
        path, cell, anchor = glossary.place(term, lessons)
        later = [
            c.source.replace("**", "")
            for c in nbformat.read(path, as_version=4).cells[cell:]
            if c.cell_type == "markdown"
        ]
        used = any(term.forms.search(source) for sources in said.values() for source in sources)
        assert anchor and (not used or any(term.forms.search(source) for source in later)), (
            term.name
        )


def page(folder, name, *sources):
    cells = [nbformat.v4.new_markdown_cell(source, id=f"c{i}") for i, source in enumerate(sources)]
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_linking_of_terms(tmp_path, monkeypatch):
    entries = {
        "Hessian": {"means": "Second derivatives.", "lesson": "b", "cell": "c1"},
        "inverse Hessian": {"means": "Its inverse.", "lesson": "b", "cell": "c1"},
        "nats": {"means": "A unit.", "lesson": "a", "cell": "c1", "also": ["nat"]},
        "matrix": {"means": "A table.", "lesson": "b", "cell": "c1", "unless": ["a matrix film"]},
    }
    monkeypatch.setattr(glossary.texts, "load", lambda topic: {"terms": entries})
    glossary.terms.cache_clear()
    first = (
        "# The Hessian\n\n"
        "`nats`, $nats$, [nats](x.html): the **inverse Hessian** and the Hessians of a Hessian."
    )
    a = page(tmp_path, "a", first, "## A unit\n\nnats are taught here; nats.")
    b = page(
        tmp_path,
        "b",
        "The Hessian in nat; a matrix film, a matrix.",
        "## The (new) matrix\n\nHessian, inverse Hessian",
    )
    lessons = {"a": a, "b": b}
    for path in (a, b, a):
        path.write_text(glossary.link_notebook(path, lessons), encoding="utf-8")
    glossary.terms.cache_clear()
    here = [cell.source for cell in nbformat.read(a, as_version=4).cells]
    target = "b.ipynb#The-%28new%29-matrix"
    assert (
        f'the **[inverse Hessian]({target} "Its inverse.")** and the Hessians of a '
        f'[Hessian]({target} "Second'
    ) in here[0]
    assert (
        here[0].startswith("# The Hessian\n\n`nats`, $nats$, [nats](x.html)")
        and here[1] == "## A unit\n\nnats are taught here; nats."
    )
    there = [cell.source for cell in nbformat.read(b, as_version=4).cells]
    assert (
        there[0].startswith('The [Hessian](#The-%28new%29-matrix "')
        and '[nat](a.ipynb#A-unit "A unit."); a matrix film, a [matrix](#' in there[0]
    )


def headings(path):
    cells = nbformat.read(path, as_version=4).cells
    return [
        line.lstrip("# ").lower()
        for c in cells
        if c.cell_type == "markdown"
        for line in c.source.split("\n")
        if line.startswith("#")
    ]


def test_what_an_exercise_sends_to_read_again_is_there():
    """A lesson or lab, and a section of it: its heading, or the words of one."""
    sections = {path.stem: headings(path) for path in LESSONS + LABS} | {
        "this page": headings(START[0])
    }
    every = {
        e: text["reread"]
        for topic in texts.topics()
        for e, text in (texts.load(topic).get("exercises") or {}).items()
    }
    assert len(every) > 90
    for exercise, reread in every.items():
        for part in reread.split("; "):
            unit, _, rest = part.partition(", ")
            for place in re.findall(r"'([^']+)'", rest) or [rest]:
                assert any(place.lower() in h or h in place.lower() for h in sections[unit]), (
                    f"{exercise}: {part}"
                )
