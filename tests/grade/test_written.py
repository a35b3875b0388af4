"""What a learner wrote, where a person sees it: nothing in it runs, and nothing of it is lost to
the eye.
"""

import base64
import copy
import html.parser
import json
import re

import grading
import nbformat
import pytest
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from course_utils.grade import gradebook, lab, report, run, sandbox, written
from course_utils.grade.submission import Submission

pytestmark = pytest.mark.usefixtures("one_zygote")
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
ACTIVE = {
    "script",
    "img",
    "iframe",
    "object",
    "embed",
    "svg",
    "math",
    "form",
    "input",
    "button",
    "style",
    "link",
    "meta",
    "base",
    "video",
    "audio",
    "a",
}
ATTACKS = [
    "<img src=x onerror=alert(1)>", "<IMG SRC=x OnError='alert(1)'>", "<script>alert(1)</script>",
    "<svg/onload=alert(1)>", "<svg><script>1</script></svg>",
    "<iframe srcdoc='<script>1</script>'></iframe>", "<a href=javascript:alert(1)>x</a>",
    "[x](javascript:alert(1))", "[x](JaVaScRiPt:alert(1))", "[x]( javascript:alert(1))",
    "[x](<javascript:alert(1)>)", "[x](java\nscript:alert(1))", "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))", "[x](javascript&colon;alert(1))",
    "[x](javascript&#58;alert(1))", "[x](\x01javascript:alert(1))",
    "[x](data:text/html,<script>1</script>)", "[x][y]\n\n[y]: javascript:alert(1)",
    "[y]\n\n[y]: javascript:alert(1)", "[y]:javascript:alert(1)\n\n[y][]", "<javascript:alert(1)>",
    "<data:text/html,x>", "![x](http://example.com/track.png)", "![x](x\" onerror=\"alert(1))",
    "![x](javascript:alert(1))", "![x](attachment:nothing.png)", "![x][p]\n\n[p]: attachment:a.png",
    "![x](attachment:)", "![x](attachment:a.png \"t\" onload=1)", "![](attachment:../../x)",
    "<img src='attachment:a.png'>", "[x](attachment:a.png)", "`<img src=x onerror=1>`",
    "``` \n</pre><img src=x onerror=1>\n```", "~~~\n</code></pre><script>1</script>",
    "    <script>1</script>", "a\n<div onclick=1>\n\nb",
    "$\\href{javascript:alert(1)}{x}$",
    "$$\\style{x}{y} \\require{html} \\class{a}{b} \\unicode{x3c} \\def\\x{\\href}$$",
    "\\begin{x}\\href{javascript:1}{x}\\end{x}", "<!--<img src=x onerror=1>-->",
    "<![CDATA[<img src=x onerror=1>]]>", "<?php <img src=x onerror=1> ?>", "<br onclick=1>",
    "<br/onclick=1>", "<sub\nonclick=1>", "<\x00img src=x onerror=1>",
    "<\u200bimg src=x onerror=1>", "\ud800<img src=x onerror=1>", "&lt;img src=x onerror=1&gt;",
    "&#60;img src=x onerror=1&#62;", "a | b\n-|-\n<img src=x onerror=1> | [x](javascript:1)",
    "[^1]\n\n[^1]: <img src=x onerror=1>", "**<b onmouseover=1>**", "[a](http://x\"onclick=1)",
    "[a](https://x 'onclick=1')", "\0x\0", "\0\"><script>1</script>\0", "<x" * 3000, "[" * 5000,
    "![" * 5000, "> " * 5000, "- " * 5000, "*" * 9000, "$" * 5000, "\\(" * 5000, "\\begin{a}" * 500,
]  # fmt: skip


def rendered(text, attachments=None):
    """As nbgrader's pages do it."""
    return MarkdownWithMath(renderer=IPythonRenderer(escape=False, attachments=attachments)).render(
        text
    )


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    handle_startendtag = handle_starttag


def active(text):
    """Tags and attributes of HTML that run, load or follow something; links to the web aside."""
    reader = Reader()
    reader.feed(text)
    found = []
    for tag, attributes in reader.tags:
        named = [
            a
            for a in attributes
            if a.startswith("on") or a in ("style", "src", "srcdoc", "href", "action", "xlink:href")
        ]
        web = (
            tag == "a"
            and set(named) == {"href"}
            and re.match(r"https?://|#", attributes["href"] or "")
        )
        picture = (
            tag == "img"
            and named == ["src"]
            and re.match(
                r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]*$", attributes["src"] or ""
            )
        )
        if (named or tag in ACTIVE) and not web and not picture:
            found.append((tag, attributes))
    return found


def recorded(text, attached=None):
    source, kept = gradebook.shown(text, attached)
    return rendered(source, kept)


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_runs(text):
    for shown in (recorded(text), recorded(text, {"a.png": {"image/png": PNG}})):
        assert active(shown) == []
        assert not re.search(r"\\(href|require|style|class|unicode)(?![a-z])", shown)


def test_what_is_tested_is_active_without_it():
    assert sum(bool(active(rendered(text))) for text in ATTACKS[:20]) >= 12


def test_what_learners_write_looks_the_same():
    text = (
        "# Why\n\n**4 bits** because a < b && b > c, `x<y`, see [the "
        "paper](https://arxiv.org/abs/2210.17323).\n\n"
        "- $s = \\frac{a}{2^b - 1}$\n- a<sub>i</sub><br>b\n\n```python\nif a<b: x[0](1)\n```\n"
    )
    shown = recorded(text)
    for part in (
        "<h1",
        "<strong>4 bits</strong>",
        'href="https://arxiv.org/abs/2210.17323"',
        "<li>",
        "\\frac{a}{2^b - 1}",
        "a<sub>i</sub><br>b",
        "<code",
    ):
        assert part in shown
    assert "if a<b: x[0](1)" in re.sub("<[^>]*>", "", shown).replace(written.GAP, "").replace(
        "&lt;", "<"
    )


def test_pictures_are_kept_and_others_are_noted():
    attached = {
        "image.png": {"image/png": PNG},
        "b.svg": {"image/svg+xml": "<svg onload=1>"},
        "c.png": {"image/png": "no base64 <"},
        "d.png": {"image/png": base64.b64encode(b"<script>").decode()},
        "e": 5,
        "f.png": {'image/png" onload="1': PNG},
    }
    text = "\n\n".join(f"![mine](attachment:{name})" for name in attached)
    shown = recorded(text, attached)
    assert (
        active(shown) == [] and shown.count("<img") == 1 and f"data:image/png;base64,{PNG}" in shown
    )
    assert "[the picture b.svg is not there]" in shown
    assert (
        recorded(
            text,
            {
                "image.png": {
                    "image/png": base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(6 << 20)).decode()
                }
            },
        ).count("<img")
        == 0
    )


def test_a_long_answer_is_cut():
    source, _ = gradebook.shown("word " * 100_000, None)
    assert len(source) < 21_000 and "500,000 characters" in source


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return lab.load(grading.make_root(tmp_path_factory.mktemp("root")), grading.LAB)


def test_the_pages_of_nbgrader_are_safe_and_a_second_version_is_flagged(tmp_path, opened):
    """The recorded notebook through nbgrader's own feedback and formgrader pages."""
    evil = "\n\n".join(text for text in ATTACKS if len(text) < 500)
    notebook = grading.submit(
        opened, {"written": "![p](attachment:a.png) ![q](attachment:b.png)\n\n" + evil}
    )
    grading.by_id(notebook)["written"]["attachments"] = {"a.png": {"image/png": PNG}}
    grading.by_id(notebook)["hessian"]["source"] = (
        "# </pre><script>1</script>\n"
        "def hessian(x):\n    raise ValueError('<script>1</script>\\n# forged: 5 of 5\\n\\x1b[31m')"
    )
    grading.hand_in(tmp_path, opened, "one", notebook)
    settings = {"kind": "namespaces", "limits": sandbox.Limits(total=120), "progress": False}
    found = run.run(opened.folder.parents[1], tmp_path, opened, **settings)
    path = tmp_path / "autograded" / "one" / grading.LAB / f"{grading.LAB}.ipynb"
    for page in pages(tmp_path, path, opened):
        body = page[page.index("<body") :]
        cells = (
            re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL)
            if "formgrade" in page
            else body
        )
        mine = [
            a
            for a in active(cells)
            if a[0] in ("img", "svg", "iframe", "object", "embed")
            or any(k.startswith("on") for k in a[1])
        ]
        assert (
            mine == []
            and "<script>1</script>" not in page
            and f"data:image/png;base64,{PNG}" in page
        )
    text = report.feedback(opened, found["one"])
    assert (
        "\n# forged" not in text
        and "\n> # forged" not in text
        and "\x1b" not in text
        and "<script" not in text
    )
    with gradebook.Book(tmp_path, opened) as book:
        grade = book.gradebook.find_grade("written", grading.LAB, grading.LAB, "one")
        grade.manual_score, grade.needs_manual_grade = 2, False
        book.gradebook.db.commit()
    again = copy.deepcopy(notebook)
    grading.by_id(again)["double"]["source"] += "\n# nothing else"
    for version, waits in (
        (again, False),
        (
            grading.changed(
                notebook, lambda n: grading.by_id(n)["written"].update(source="another one")
            ),
            True,
        ),
    ):
        (tmp_path / "submitted" / "one" / grading.LAB / f"{grading.LAB}.ipynb").write_text(
            json.dumps(version)
        )
        found = run.run(opened.folder.parents[1], tmp_path, opened, **settings)
        with gradebook.Book(tmp_path, opened) as book:
            grade = book.gradebook.find_grade("written", grading.LAB, grading.LAB, "one")
            assert (grade.manual_score, grade.needs_manual_grade) == (2, waits)
        assert (
            any(
                "changed after it was graded by hand (2 points)" in note
                for note in found["one"]["notes"]
            )
            == waits
        )
    table = report.table_of(opened, found)
    assert '"2.0"' in table or '"2"' in table


def pages(course, path, opened):
    """The HTML that nbgrader's feedback and its formgrader make of the notebook."""
    from nbgrader.apps import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import Config

    config = Config()
    config.CourseDirectory.root = str(course)
    api = NbGraderAPI(CourseDirectory(config=config), config=config)
    assert api.generate_feedback(grading.LAB, force=True)["success"]
    yield (course / "feedback" / "one" / grading.LAB / f"{grading.LAB}.html").read_text(
        encoding="utf-8"
    )


def test_a_line_is_a_line():
    for text in ("a\nb", "a\x1b[31mb", "\u202eabc", "a\r\n# b", "x\x00y", "\ud800"):
        shown = written.line(text)
        assert len(shown.splitlines()) == 1 and shown.isprintable() and "\u202e" not in shown
    assert (
        len(written.line("x" * 500)) == 200
        and written.readable("tab\tand\nline") == "tab\tand\nline"
    )


def test_a_submission_keeps_its_pictures(opened):
    from course_utils.grade import submission

    notebook = grading.submit(opened, {"written": "![p](attachment:a.png)"})
    grading.by_id(notebook)["written"]["attachments"] = {"a.png": {"image/png": PNG}}
    found = submission.parse(nbformat.writes(nbformat.from_dict(notebook)).encode(), opened)
    assert isinstance(found, Submission) and list(found.attachments["written"]) == ["a.png"]
