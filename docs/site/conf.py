"""Sphinx's settings; `build.py` makes the folder that it reads."""

import itertools
import os
import re
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from making import forms  # noqa: E402

from course_utils.learn import texts  # noqa: E402

project = html_title = texts.load("course")["title"]
author = copyright = ""
language = texts.language().replace("-", "_")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_static", "**/.ipynb_checkpoints"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # no widget of Jupyter's is left, and nothing is loaded from elsewhere
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 5
myst_links_external_new_tab = False
mathjax_path = "mathjax/tex-mml-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}
myst_heading_slug_func = "making.forms.anchor"

html_theme = "sphinx_book_theme"
html_static_path = [os.environ["COURSE_SITE_SOURCE"] + "/_static"]
html_extra_path = [os.environ["COURSE_SITE_EXTRA"]]
html_css_files = ["site.css"]
html_js_files = [
    (None, {"body": f"window.COURSE_WORDS = {forms._json(forms.sentences())};"}),
    ("site.js", {"defer": "defer"}),
]
html_copy_source = html_show_sourcelink = False
html_show_copyright = html_show_sphinx = False
html_theme_options = {
    "navbar_persistent": [],
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"
autodoc_preserve_defaults = True
default_role = "code"


def as_written(app, what, name, obj, options, lines):
    """Docstrings are plain text with `code`: nothing else in them is markup."""
    parts = re.split(r"`+([^`]*)`+", "\n".join(lines))
    code = (f"\\ ``{' '.join(part.split())}``\\ " if part.strip() else "" for part in parts[1::2])
    text = (re.sub(r"([\\*|_`])", r"\\\1", part) for part in parts[::2])
    lines[:] = "".join(a + b for a, b in itertools.zip_longest(text, code, fillvalue="")).split(
        "\n"
    )
    if any(line.startswith(" ") for line in lines[1:]):  # columns and drawings keep their shape
        lines[:] = [f"| {line}" if line.strip() else "" for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", as_written)
