"""Committed notebooks as pages: nothing is run; what needs Python is exchanged for what a page can
do.
"""

from __future__ import annotations

import ast
import base64
import copy
import functools
import hashlib
import html
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_utils.learn import fold, show
from course_utils.learn.page import card, catalogue
from course_utils.learn.texts import ui

from . import forms, frames

ROOT = frames.ROOT
CALL = re.compile(
    r"^\s*(?:(\w+)\s*=\s*)?(overview|ask|predict|check|explore)\(\s*(?:[\"']([\w.\-]+)[\"'])?",
    re.MULTILINE,
)
# a cell whose code says nothing to a reader
ONLY_SHOWN = re.compile(r"^(?:(?:\w+\s*=\s*)?(?:overview|ask|predict)\([^\n]*\)\s*\n?)+$")
HELP = re.compile(r"^# (?:hint|solution)\([^\n]*\n?", re.MULTILINE)
PLOTS = ROOT / "course_utils" / "learn" / "plots"
FIGURES = "_static/figures"


class Stage:
    """Writes notebooks into the folder that Sphinx reads, their pictures beside it."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.left_out: list[str] = []  # widgets without fresh frames
        (source / FIGURES).mkdir(parents=True, exist_ok=True)

    def notebook(self, path: Path, top: str = "") -> dict[str, Any]:
        """The page of a notebook, written; `top` is Markdown that follows its title."""
        page = json.loads(path.read_text(encoding="utf-8"))
        self.up = "../" * len(path.relative_to(ROOT).parent.parts)
        self.stem, self.drawn = path.stem, frames.fresh(path)
        results = {cell["id"]: cell for cell in fold.results(page["cells"])}
        shown_by = _shown_by(results, page["cells"])
        cells, heading = [], ""
        for cell in page["cells"]:
            cell = copy.deepcopy(cell)
            cell["source"] = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                heading = next(
                    iter(re.findall(r"^#+ (.+)$", cell["source"], re.MULTILINE)[-1:]), heading
                )
                if not cells and top:
                    cell["source"] = (
                        cell["source"].replace("\n", f"\n\n{top}\n", 1)
                        if "\n" in cell["source"]
                        else f"{cell['source']}\n\n{top}"
                    )
            else:
                self._code(cell, heading, results, shown_by)
            cells.append(cell)
        page["cells"] = cells
        page["metadata"].pop("widgets", None)
        target = self.source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")
        return page

    def _code(
        self,
        cell: dict[str, Any],
        heading: str,
        results: dict[str, Any],
        shown_by: dict[str, tuple[str, str]],
    ) -> None:
        source, tags = cell["source"], cell["metadata"].setdefault("tags", [])
        calls = CALL.findall(source)
        outputs = [self._output(output, cell, heading) for output in cell.get("outputs", [])]
        made = list(self._made(cell, calls, shown_by))
        if made or any(
            verb in ("ask", "predict", "check", "explore", "overview") for _, verb, _ in calls
        ):
            outputs = [*(o for o in outputs if not _static(o)), *made]
            if any(verb == "explore" for _, verb, _ in calls) and made and cell["id"] in self.drawn:
                outputs = _without_first_figures(outputs, len(self.drawn[cell["id"]]["widgets"]))
        cell["outputs"] = outputs
        cell["execution_count"] = None
        if cell["id"] in results:
            tags += ["hide-output", f"result-{cell['id']}"]
            cell["metadata"]["mystnb"] = {
                "code_prompt_show": ui("site_result"),
                "code_prompt_hide": ui("site_result"),
            }
        if "parameters" in tags:
            tags.append("remove-cell")
        elif cell["id"] == "imports":
            tags.append("hide-input")
            cell["metadata"]["mystnb"] = {
                "code_prompt_show": ui("site_imports"),
                "code_prompt_hide": ui("site_imports"),
            }
        elif ONLY_SHOWN.match(source.strip() + "\n"):
            tags.append("remove-input")
        cell["source"] = HELP.sub("", source).rstrip()

    def _made(
        self,
        cell: dict[str, Any],
        calls: list[tuple[str, str, str]],
        shown_by: dict[str, tuple[str, str]],
    ) -> Iterator[dict[str, Any]]:
        """What stands in the place of forms, checks and widgets that need a kernel."""
        widgets, drawn = 0, self.drawn.get(cell["id"], {"widgets": [], "expected": {}})
        for number, (held, verb, name) in enumerate(calls):
            place = f"{cell['id']}-{number}"
            if verb == "overview":
                yield _shown(overview(name, ROOT / catalogue.lesson(name).path))
            elif verb == "ask":
                yield _shown(forms.question(name, place, drawn["expected"].get(name)))
            elif verb == "predict":
                result, output = shown_by.get(held, ("", ""))
                yield _shown(forms.prediction(name, place, f"tag_result-{result}", output))
            elif verb == "check" and name and held != "verdict":
                yield _shown(forms.exercise(name, solved=not self.stem.startswith("lab-")))
            elif verb == "explore":
                if drawn["widgets"]:
                    yield _shown(
                        forms.widget(
                            drawn["widgets"][widgets], f"{self.up}_static/frames/{self.stem}", place
                        )
                    )
                else:
                    self.left_out.append(f"{self.stem}: {cell['id']}")
                    yield _shown(forms.missing())
                widgets += 1

    def _output(self, output: dict[str, Any], cell: dict[str, Any], heading: str) -> dict[str, Any]:
        """An output with its picture in a file, with words for those who do not see it, and without
        colours of its own.
        """
        data = {
            mime: "".join(value) if isinstance(value, list) else value
            for mime, value in output.get("data", {}).items()
        }
        if "image/png" in data:
            raw = base64.b64decode(data["image/png"])
            name = f"{hashlib.sha256(raw).hexdigest()[:16]}.png"
            (self.source / FIGURES / name).write_bytes(raw)
            alt = words(data.get("text/plain", ""), cell["source"], heading)
            place = f"{self.up}{FIGURES}/{name}"
            said = html.escape(alt, quote=True)
            # a phone shows the figure small: the link opens it alone, to be enlarged
            shown = (
                f"<a class='course-figure-link' href='{place}'>"
                f"<img class='course-figure' loading='lazy' src='{place}' alt='{said}'></a>"
            )
            return {**_shown(shown), "course_alt": alt}
        if "text/html" in data:
            data["text/html"] = forms.themed(data["text/html"])
            return {
                "output_type": "display_data",
                "metadata": {},
                "data": {k: data[k] for k in ("text/html", "text/plain") if k in data},
            }
        return output


def _shown(as_html: str) -> dict[str, Any]:
    return {"output_type": "display_data", "metadata": {}, "data": {"text/html": as_html}}


def _static(output: dict[str, Any]) -> bool:
    """An output of the engine that is made anew for the page: a form, a check's message, the
    controls in words, a card.
    """
    text = output.get("data", {}).get("text/html", "")
    titles = [ui(key) for key in ("question", "prediction", "you_will", "result")]
    if ui("run_to_move") in text:
        return True
    return (
        "course-box" in text
        and not text.startswith(ui("result"))
        and "<table" not in text.split("</b>")[0]
        and _is_of_engine(text, titles)
    )


def _is_of_engine(text: str, titles: list[str]) -> bool:
    head = re.search(r"<b>(.*?)</b>", text)
    said = head[1] if head else ""
    starts = [ui(key, title="") for key in ("not_yet", "not_attempted")]
    return (
        said in titles
        or any(said.startswith(start.strip()) for start in starts)
        or said.startswith(ui("question_right"))
    )


def _without_first_figures(outputs: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The outputs without the still figures that the moving ones begin with: the last ones of the
    cell.
    """
    stills = [i for i, output in enumerate(outputs) if "course_alt" in output][-count:]
    return [output for i, output in enumerate(outputs) if i not in stills]


def _shown_by(results: dict[str, Any], cells: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """For each variable that holds a prediction: the cell of its result, and that cell's HTML."""
    found = {}
    for cell in results.values():
        source = "".join(cell["source"])
        for held in re.findall(r"^\s*(\w+)\.result\(", source, re.MULTILINE):
            said = "".join("".join(o.get("data", {}).get("text/html", "")) for o in cell["outputs"])
            found[held] = (cell["id"], said)
    return found


def overview(name: str, path: Path) -> str:
    """The card of a lesson, with links to pages."""
    held: list[str] = []
    before, emit = Path.cwd(), show.emit
    show.emit = lambda as_html, as_text, **more: held.append(as_html)  # type: ignore[assignment]
    try:
        os.chdir(path.parent)
        card.overview(name)
    finally:
        os.chdir(before)
        show.emit = emit
    return forms.themed(held[0]).replace(".ipynb'", ".html'")


def words(said: str, source: str, heading: str) -> str:
    """What a figure shows, for those who do not see it: its own titles, else those in the code,
    else what its drawing function says of itself.
    """
    if said and not said.startswith("<Figure"):
        return said
    found: list[str] = []
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.Call):
            name = (
                part.func.attr
                if isinstance(part.func, ast.Attribute)
                else getattr(part.func, "id", "")
            )
            if name in _drawers():
                found.append(_drawers()[name])
            for key in part.keywords:
                if key.arg in ("title", "xlabel", "ylabel") and (text := _literal(key.value)):
                    found.append(
                        text
                        if key.arg == "title"
                        else f"{'horizontal' if key.arg == 'xlabel' else 'vertical'}: {text}"
                    )
    return "; ".join(dict.fromkeys([*found, heading]))


def _literal(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("\n", " ")
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    return ""


@functools.cache
def _drawers() -> dict[str, str]:
    """The first sentence of each public drawing function."""
    found = {}
    for file in sorted(PLOTS.glob("*.py")):
        for part in ast.parse(file.read_text(encoding="utf-8")).body:
            if (
                isinstance(part, ast.FunctionDef)
                and not part.name.startswith("_")
                and (text := ast.get_docstring(part))
            ):
                found[part.name] = text.split("\n\n")[0].replace("\n", " ").replace("`", "")
    for general in ("figure", "table"):
        found.pop(general, None)
    return found
