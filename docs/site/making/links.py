"""Links: those that lead out of the site become plain words, and what was built is searched for
dead ones.
"""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from . import pages
from .pages import ROOT

LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)((?: \"[^\"]*\")?)\)")


def on_site() -> set[Path]:
    """The files of the checkout that have a page."""
    docs = [ROOT / "docs" / f"{name}.md" for name in (*pages.INSTRUCTORS, *pages.MEASURED)]
    return {*docs, *(ROOT / unit.path for unit in pages.units())}


def repair(text: str, path: Path) -> str:
    """Markdown in which a link to a file without a page is only its words; the start notebook's
    page is the first one.
    """
    known = on_site()

    def exchanged(found: re.Match[str]) -> str:
        words, address, title = found.groups()
        parts = urlsplit(address)
        if parts.scheme or not parts.path:
            return found[0]
        target = Path(os.path.normpath(path.parent / unquote(parts.path)))
        if target in known:
            return found[0]
        if target == ROOT / "notebooks" / "start.ipynb":
            return f"[{words}]({os.path.relpath(ROOT / 'index.md', path.parent)}{title})"
        return words if words.startswith("`") else f"{words} (`{os.path.relpath(target, ROOT)}`)"

    return LINK.sub(exchanged, text)


def repair_cells(cells: list[dict[str, Any]], path: Path) -> None:
    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = repair(cell["source"], path)


class Page(HTMLParser):
    """The links of a page, the places in it that a link can lead to, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        if "id" in found:
            self.places.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if "src" in found:
            self.loaded.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded.append(found["href"])


def dead(folder: Path) -> list[str]:
    """Links and files of pages that lead nowhere in the folder; files that would be loaded from
    elsewhere.
    """
    held = {
        path.resolve(): Page(path)
        for path in sorted(folder.rglob("*.html"))
        if "_static" not in path.parts
    }
    found = []
    for path, page in held.items():
        name = path.relative_to(folder.resolve()).as_posix()
        for address in page.links + page.loaded:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in page.loaded and parts.scheme != "data":
                    found.append(f"{name} loads {address}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{name} → {address}")
            elif (
                parts.fragment
                and target in held
                and unquote(parts.fragment) not in held[target].places
                and parts.fragment not in held[target].places
            ):
                found.append(f"{name} → {address}: no such place")
    return found
