"""Slides of each lesson, for instructors: nbconvert's own, with reveal.js and MathJax from the
site.

A heading begins a slide, a figure, a table or a question the next one below it; code stays in the
lesson. A cell's tag "slide", "subslide", "fragment", "notes" or "skip" decides otherwise.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import SlidesExporter

from . import forms, vendor
from .links import LINK

HERE = Path(__file__).resolve().parents[1]
KINDS = ("slide", "subslide", "fragment", "notes", "skip")
NOT_SHOWN = ("parameters", "imports", "read-on")


def kind(cell: dict[str, Any]) -> str:
    """What a cell is among the slides."""
    chosen = [tag for tag in cell["metadata"].get("tags", []) if tag in KINDS]
    if chosen:
        return chosen[0]
    if cell["id"] in NOT_SHOWN or cell["cell_type"] == "code" and not cell["outputs"]:
        return "skip"
    if cell["cell_type"] == "code":
        return "subslide"
    return "slide" if re.search(r"^#{1,3} ", cell["source"], re.MULTILINE) else "subslide"


def deck(page: dict[str, Any], level: str) -> Any:
    """The notebook of a staged page, its cells told what they are,
    its links leading to the pages.
    """
    for cell in page["cells"]:
        cell["metadata"]["slideshow"] = {"slide_type": kind(cell)}
        if cell["cell_type"] == "markdown":
            cell["source"] = re.sub(r"<p class='course-bar'>.*?</p>", "", cell["source"])
            cell["source"] = LINK.sub(lambda found: _to_page(found, level), cell["source"])
    return nbformat.from_dict(page)


def _to_page(found: re.Match[str], level: str) -> str:
    words, address, title = found.groups()
    if "://" in address:
        return found[0]
    file, _, anchor = address.partition("#")
    if not file:
        return words
    if not file.endswith((".ipynb", ".md")):
        return words
    target = f"../../notebooks/{level}/{file.rsplit('.', 1)[0]}.html"
    return f"[{words}]({target}{'#' + anchor if anchor else ''}{title})"


def write(pages: list[Path], html: Path, kept: Path) -> None:
    """Write slides/<level>/<lesson>.html for staged notebooks."""
    reveal, target = vendor.package("reveal.js@4.6.1", kept), html / "_static" / "reveal"
    for part in ("plugin/notes", "dist/theme/fonts/source-sans-pro"):
        shutil.copytree(reveal / part, target / part, dirs_exist_ok=True)
    # other themes ask for fonts from elsewhere
    for part in ("dist/reveal.js", "dist/reveal.css", "dist/theme/white.css"):
        shutil.copy(reveal / part, target / part)
    exporter = SlidesExporter(
        template_name="slides_template", extra_template_basedirs=[str(HERE)], exclude_input=True,
        exclude_output_prompt=True, reveal_url_prefix="../../_static/reveal", reveal_scroll=True,
        reveal_theme="white",
    )  # fmt: skip
    for path in pages:
        level = path.parent.name
        notebook = deck(json.loads(path.read_text(encoding="utf-8")), level)
        words = {"course_words": forms._json(forms.sentences()), "metadata": {"name": path.stem}}
        text, _ = exporter.from_notebook_node(notebook, resources=words)
        (html / "slides" / level).mkdir(parents=True, exist_ok=True)
        (html / "slides" / level / f"{path.stem}.html").write_text(text, encoding="utf-8")
