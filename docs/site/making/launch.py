"""Links that open a lesson elsewhere.

They exist only where COURSE_REPOSITORY names the repository, as owner/name.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from course_utils.learn.page.catalogue import ROOT, Unit
from course_utils.learn.texts import ui

REPOSITORY = os.environ.get("COURSE_REPOSITORY", "")
# the branch with the built site, where Colab finds its editions
PUBLISHED = os.environ.get("COURSE_SITE_BRANCH", "gh-pages")


def bar(unit: Unit) -> str:
    """A line of links under the title: slides of a lesson, the page as Markdown, and the notebook
    elsewhere.
    """
    name, level = Path(unit.path).stem, Path(unit.path).parent.name
    links = (
        [] if name.startswith("lab-") else [(f"../../slides/{level}/{name}.html", "site_slides")]
    )
    links.append((f"{name}.md", "site_markdown"))
    if REPOSITORY:
        colab = f"https://colab.research.google.com/github/{REPOSITORY}/blob/{PUBLISHED}/colab/{name}.ipynb"
        links += [
            (colab, "site_open_colab"),
            (f"https://codespaces.new/{REPOSITORY}", "site_open_codespaces"),
        ]
    note = f"\n\n{ui('site_lab')}" if name.startswith("lab-") else ""
    shown = " · ".join(f"<a href={address!r}>{ui(key)}</a>" for address, key in links)
    return f"<p class='course-bar'>{shown}</p>{note}"


def edition(path: Path, extra: Path) -> None:
    """The notebook for Colab: the same, with a cell before it that installs the course where it is
    missing.
    """
    if not REPOSITORY:
        return
    page = json.loads(path.read_text(encoding="utf-8"))
    source = (
        f"# {ui('site_colab_setup')}\n"
        "import importlib.util, subprocess, sys\n"
        'if importlib.util.find_spec("course_utils") is None:\n'
        '    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", '
        f'"git+https://github.com/{REPOSITORY}"])\n'
    )
    cell = {
        "cell_type": "code",
        "id": "colab-setup",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": source,
    }
    page["cells"].insert(1, cell)
    target = extra / "colab" / path.relative_to(ROOT).name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(page, ensure_ascii=False, indent=1), encoding="utf-8")
