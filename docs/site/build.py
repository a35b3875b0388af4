"""Build the site from the committed notebooks, without running them: `make site`, or python
docs/site/build.py.

The pages are written to build/site/html. `--frames [LESSON …]` draws the moving figures anew
(making/frames.py); `--readmes` writes course_utils/*/README.md (making/readmes.py).
COURSE_REPOSITORY=owner/name (empty by default) adds links to Colab and Codespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from making import (  # noqa: E402
    frames,
    launch,
    links,
    pages,
    readmes,
    slides,
    vendor,
)
from making.notebooks import Stage  # noqa: E402

from course_utils.learn.texts import ui  # noqa: E402

BUILD = ROOT / "build" / "site"
SOURCE, EXTRA, HTML, KEPT = (
    BUILD / "source",
    BUILD / "extra",
    BUILD / "html",
    ROOT / "build" / "npm",
)


def stage() -> list[str]:
    """Write all that Sphinx reads, and each page as Markdown; returns the widgets that are left
    out.
    """
    for folder in (SOURCE, EXTRA):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    static = SOURCE / "_static"
    shutil.copytree(HERE / "static", static)
    if frames.FRAMES.is_dir():
        shutil.copytree(frames.FRAMES, static / "frames", ignore=shutil.ignore_patterns("*.json"))
    made, names = Stage(SOURCE), {}
    for unit in pages.units():
        path = ROOT / unit.path
        page = made.notebook(path, launch.bar(unit))
        links.repair_cells(page["cells"], path)
        (SOURCE / unit.path).write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")
        _extra(
            f"{pages.page_of(unit)}.md",
            pages.markdown(json.loads(path.read_text(encoding="utf-8"))),
        )
        launch.edition(path, EXTRA)
        names[f"{pages.page_of(unit)}.md"] = f"{pages.number(unit)} {unit.title}"
    for name in (*pages.INSTRUCTORS, *pages.MEASURED):
        path = ROOT / "docs" / f"{name}.md"
        text = links.repair(path.read_text(encoding="utf-8"), path)
        _source(f"docs/{name}.md", text)
        names[f"docs/{name}.md"] = text.split("\n")[0].lstrip("# ")
        _extra(f"docs/{name}.md", text)
    for name, text in {"index.md": pages.start(), "glossary.md": pages.terms()}.items():
        _source(name, text)
        _extra(name, text)
        names[name] = text.split("\n")[0].lstrip("# ")
    pages.reference(SOURCE / "reference")
    _extra("llms.txt", pages.index_for_machines(names))
    return made.left_out


def _source(name: str, text: str) -> None:
    (SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
    (SOURCE / name).write_text(text, encoding="utf-8")


def _extra(name: str, text: str) -> None:
    (EXTRA / name).parent.mkdir(parents=True, exist_ok=True)
    (EXTRA / name).write_text(text, encoding="utf-8")


def main() -> int:
    begun = time.perf_counter()
    left_out = stage()
    print(f"staged in {time.perf_counter() - begun:.0f} s", flush=True)
    vendor.mathjax(SOURCE / "_static", KEPT)
    settings = {
        "COURSE_SITE_SOURCE": str(SOURCE),
        "COURSE_SITE_EXTRA": str(EXTRA),
        "TQDM_DISABLE": "1",
    }
    command = [
        "-m",
        "sphinx",
        "-b",
        "html",
        "-c",
        str(HERE),
        "-j",
        "2",
        "-q",
        "-W",
        "--keep-going",
        str(SOURCE),
        str(HTML),
    ]
    shutil.rmtree(HTML, ignore_errors=True)
    if code := subprocess.call([sys.executable, *command], env={**os.environ, **settings}):
        return code
    slides.write(
        [SOURCE / unit.path for unit in pages.units() if not unit.id.startswith("lab-")], HTML, KEPT
    )
    dead = links.dead(HTML)
    for line in dead:
        print(f"dead link: {line}")
    for line in left_out:
        print(f"no frames that fit, so {ui('site_no_frames').split(':')[0].lower()}: {line}")
    print(
        f"{HTML / 'index.html'}: {len(list(HTML.rglob('*.html')))} pages in "
        f"{time.perf_counter() - begun:.0f} s"
    )
    return 1 if dead else 0


COMMANDS = {"--frames": frames.main, "--readmes": lambda _: readmes.write()}

if __name__ == "__main__":
    sys.exit(COMMANDS.get("".join(sys.argv[1:2]), lambda _: main())(sys.argv[2:]))
