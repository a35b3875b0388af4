"""The four parts of the assessment and the checklist behind them, for the whole class and for each
learner.
"""

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_utils.errors import CompressionError
from course_utils.learn import texts
from course_utils.learn.page import catalogue

from . import names, written
from .build import write
from .report import as_csv, points, remark


@dataclass
class Classroom:
    """Scores from the gradebook, so that those given by hand count; the rest from
    grades/<lab>/<learner>.json.
    """

    # lab → learner → part of the points, 0 to 1
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    learners: list[str] = field(default_factory=list)
    # lab: exercise → parts of its points
    exercises: dict[str, list[float]] = field(default_factory=dict)
    mistakes: Counter[str] = field(default_factory=Counter)
    pending: dict[str, list[str]] = field(default_factory=dict)  # learner → what is not counted yet


def load(course: Path) -> Classroom:
    """Read a course folder. Raises CompressionError if nothing has been graded there."""
    from nbgrader.api import Gradebook

    from .gradebook import course_id, without_alembic

    database = course / "gradebook.db"
    if not database.is_file():
        raise CompressionError(
            f"{database}: is missing; grade a lab first: course grade LAB --course {course}."
        )
    without_alembic()
    room = Classroom()
    with Gradebook(f"sqlite:///{database}", course_id(database)) as book:
        for assignment in book.assignments:
            found = {
                s["student"]: s["score"] / s["max_score"]
                for s in book.submission_dicts(assignment.name)
                if s["max_score"]
            }
            if found:
                room.scores[assignment.name] = found
        room.learners = [student.id for student in book.students]
    for path in sorted((course / "grades").glob("*/*.json")):
        try:
            result = json.loads(path.read_bytes())
            cells, student = result["cells"], result.get("student", path.stem)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CompressionError(
                f"{path}: is no result of the grader ({type(error).__name__}); "
                "grade the lab with --again."
            ) from error
        room.learners.append(student)
        waits = sum(c["points"] for c in cells if c["manual"] and c.get("score_by_hand") is None)
        why = (
            ["not graded"] if "fault" in result else [f"{waits:g} points by hand"] if waits else []
        )
        room.pending.setdefault(student, []).extend(f"{path.parent.name}: {text}" for text in why)
        for cell in cells:
            if not cell.get("by_hand"):
                room.exercises.setdefault(f"{path.parent.name}: {cell['grade_id']}", []).append(
                    cell["score"] / cell["points"]
                )
            if cell["mistake"]:
                room.mistakes[f"{path.parent.name}: {cell['grade_id']}: {cell['mistake']}"] += 1
    room.learners = sorted(set(room.learners))
    return room


def checklist(room: Classroom, learner: str) -> dict[str, dict[str, float | None]]:
    """Part of the assessment → item of the checklist → share reached, 0 to 1; None where no lab of
    it was graded.

    An item is the mean of its labs that were graded in this class, where a lab that is not handed
    in counts 0.
    """
    return {
        name: {
            item: mean(room.scores[lab].get(learner, 0.0) for lab in places if lab in room.scores)
            for item, places in part["items"].items()
        }
        for name, part in catalogue.structure()["assessment"].items()
    }


def parts(room: Classroom, learner: str) -> dict[str, float | None]:
    """Each part of the assessment, 0 to 1, and "total".

    A part is the mean of its items; the total weighs the parts. What no graded lab shows is None,
    and the weights of the others are scaled up.
    """
    out: dict[str, float | None] = {
        name: mean(share for share in items.values() if share is not None)
        for name, items in checklist(room, learner).items()
    }
    weights = {
        name: part["weight"]
        for name, part in catalogue.structure()["assessment"].items()
        if out[name] is not None
    }
    earned = sum(weight * (out[name] or 0.0) for name, weight in weights.items())
    out["total"] = earned / sum(weights.values()) if weights else None
    return out


def mean(values: Iterable[Any]) -> float | None:
    """The mean, None of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def write_report(course: Path) -> list[Path]:
    """grades/class.csv, grades/class.html and grades/learners/<learner>.html; the paths of the two
    files and the folder.
    """
    room = load(course)
    structure, words = catalogue.structure()["assessment"], texts.load("course")["assessment"]
    titles = {
        name: f"{words[name]['title']} ({part['weight']} %)" for name, part in structure.items()
    } | {"total": "total"}
    labs = sorted(room.scores)
    rows = []
    for learner in room.learners:
        found = parts(room, learner)
        shares = [room.scores[lab].get(learner) for lab in labs] + [found[name] for name in titles]
        shares += [share for items in checklist(room, learner).values() for share in items.values()]
        rows.append(
            [
                learner,
                *(percent(share) for share in shares),
                "; ".join(room.pending.get(learner, [])),
            ]
        )
    columns = ["student_id", *labs, *titles.values()]
    items = [f"{name}: {item}" for name, part in structure.items() for item in part["items"]]
    pages = {
        "class.csv": as_csv([*columns, *items, "not counted yet"], rows),
        "class.html": page(room, columns, [row[: len(columns)] for row in rows]),
    }
    for learner in room.learners:
        pages[f"learners/{names.stem(learner)}.html"] = learner_page(room, course, learner, titles)
    for name, text in pages.items():
        write(course / "grades" / name, text.encode())
    return [course / "grades" / name for name in ("class.csv", "class.html", "learners")]


def percent(share: float | None) -> float | None:
    """A share in per cent, to one digit."""
    return None if share is None else round(100 * share, 1)


def learner_page(room: Classroom, course: Path, learner: str, titles: dict[str, str]) -> str:
    """What one learner has reached: the parts, the checklist, and each lab with what was found in
    it.
    """
    words, found = texts.load("course")["assessment"], parts(room, learner)
    body = [
        _table(["part", "%"], [[title, percent(found[name])] for name, title in titles.items()]),
        "<h2>Checklist</h2>",
    ]
    rows = [
        [words[name]["items"][item], percent(share)]
        for name, items in checklist(room, learner).items()
        for item, share in items.items()
    ]
    body.append(_table(["item", "%"], rows))
    for lab in sorted(room.scores):
        share = room.scores[lab].get(learner)
        body.append(
            f"<h2>{html.escape(lab)}: "
            f"{'not handed in' if share is None else f'{100 * share:.1f} %'}</h2>"
        )
        path = course / "grades" / lab / f"{names.stem(learner)}.json"
        if path.is_file():
            cells = json.loads(path.read_bytes())["cells"]
            found_in = [[c["grade_id"], points(c), remark(c)] for c in cells]
            body.append(_table(["exercise", "points", "what was found"], found_in))
    return document(learner, "".join(body))


def page(room: Classroom, columns: list[str], rows: list[list[Any]]) -> str:
    """The report as one file of HTML with its pictures inside."""
    totals = [row[-1] for row in rows if row[-1] is not None]
    hardest = sorted(((mean(v) or 0.0, k) for k, v in room.exercises.items()))[:12]
    common = room.mistakes.most_common(12)
    pictures = [
        _bars("Hardest exercises", "mean share of the points, %",
              [(name, 100 * share) for share, name in hardest]),
        _bars("Commonest named mistakes", "learners", common),
    ]  # fmt: skip
    body = (
        f"<p>{len(rows)} learners. Numbers are per cent of the "
        f"points.</p>{_histogram(totals)}{''.join(pictures)}"
    )
    return document("Class report", body + _table(columns, rows))


def _number(value: float | None) -> str:
    return "–" if value is None else str(value)


def _table(columns: list[str], rows: list[list[Any]]) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(written.readable(v))}</td>" if isinstance(v,
            str) else f"<td class='n'>{_number(v)}</td>" for v in row) + "</tr>"
        for row in rows
    )  # fmt: skip
    return f"<table><tr>{head}</tr>{body}</table>"


STYLE = (
    ":root{color-scheme:light dark;--page:#fff;--ink:#1a1a1a;--band:#f3f3f3}"
    "@media(prefers-color-scheme:dark){:root{--page:#16181d;--ink:#e8e8e8;--band:#22252c}}"
    "body{font-family:sans-serif;max-width:70em;margin:2em auto;padding:0 1em;"
    "background:var(--page);color:var(--ink)}"
    "td,th{padding:.2em .6em;text-align:left;vertical-align:top}"
    "td{white-space:pre-wrap;unicode-bidi:isolate}.n{text-align:right}"
    "tr:nth-child(even){background:var(--band)}img{background:#fff}"
)


def document(title: str, body: str, *, style: str = "", head: str = "") -> str:
    """A page of the reports as one file of HTML; `body`, `style` and `head` are HTML already, the
    title is text.
    """
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'>{head}"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style>"
        f"<h1>{html.escape(title)}</h1>{body}</html>\n"
    )


def _histogram(totals: list[float]) -> str:
    if not totals:
        return ""
    from matplotlib.ticker import MaxNLocator

    from course_utils.learn import plots

    figure, axes = plots.figure(
        title="Distribution of the total", xlabel="total, %", ylabel="learners"
    )
    axes.hist(totals, bins=range(0, 101, 10), color=plots.BLUE, edgecolor="white")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _picture(figure, "Distribution of the total")


def _bars(title: str, xlabel: str, found: Sequence[tuple[str, float]]) -> str:
    if not found:
        return ""
    from course_utils.learn import plots

    figure, axes = plots.figure(
        title=title, xlabel=xlabel, ylabel="", size=(9, 0.8 + 0.35 * len(found))
    )
    axes.barh(
        [name for name, _ in found][::-1], [value for _, value in found][::-1], color=plots.BLUE
    )
    return _picture(figure, title)


def _picture(figure: Any, title: str) -> str:
    import matplotlib.pyplot as plt

    out = io.BytesIO()
    figure.savefig(out, format="png", bbox_inches="tight")
    plt.close(figure)
    return (
        f"<p><img alt='{html.escape(title)}' "
        f"src='data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}'></p>"
    )
