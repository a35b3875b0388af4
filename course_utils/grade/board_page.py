"""The board of the challenge as one page that loads nothing and as a table:
board.html, board.csv.
"""

import base64
import hashlib
import html
import math
from pathlib import Path
from typing import Any

from .board import Board
from .build import write
from .classroom import document
from .report import as_csv
from .standing import Entry, Row, standing

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 74, 24, 36, 58
LEAST, MOST = 0.01, 100.0  # of the allowance, in the figure
PLACES = {"instructor": "instructor", "baseline": "baseline"}
STYLE = (
    ":root{--front:#0b5fb0;--grey:#6b6b6b;--dot:#a3a3a3;--line:#d0d0d0;--bad:#a33c00}"
    "@media(prefers-color-scheme:dark){:root{--front:#7ab8ff;--grey:#a5a5a5;--dot:#777;"
    "--line:#444;--bad:#ff9d5c}}figure{margin:1em 0}svg{width:100%;height:auto;max-width:60em}"
    "svg text{fill:var(--ink);font-size:13px}.grid{stroke:var(--line);stroke-width:1}"
    ".gate{stroke:var(--bad);stroke-width:2;stroke-dasharray:6 4}"
    ".step{fill:none;stroke:var(--front);stroke-width:2}.dot{fill:var(--dot)}"
    ".hollow{fill:var(--page);stroke:var(--dot);stroke-width:1.5}.front{fill:var(--front);"
    "stroke:var(--front);stroke-width:1.5}.front.hollow{fill:var(--page)}.wide{overflow-x:auto}"
    "table{border-collapse:collapse}thead th{border-bottom:2px solid var(--line);"
    "vertical-align:bottom}th button{font:inherit;font-weight:bold;color:inherit;background:none;"
    "border:0;padding:0;text-align:inherit;cursor:pointer;text-decoration:underline dotted}"
    "th[aria-sort=ascending] button::after{content:' ▲'}th[aria-sort=descending] button::after{"
    "content:' ▼'}tbody th{font-weight:normal;overflow-wrap:anywhere;min-width:8em;"
    "max-width:16em;unicode-bidi:isolate}tr.front th,tr.front td.b{font-weight:bold}"
    "tr.dominated{color:var(--grey)}.bad{color:var(--bad)}td.g{white-space:nowrap}:focus-visible{"
    "outline:3px solid var(--front);outline-offset:2px}@media(max-width:40em){body{padding:0 .6em}"
    "svg text{font-size:22px}.minor{display:none}tbody th{max-width:8em}td,th{padding:.2em .4em}}"
)
SCRIPT = """for (const table of document.querySelectorAll('table.sort')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, i) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') === 'ascending', sign = down ? -1 : 1;
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const value = row => row.cells[i].dataset.v ?? row.cells[i].textContent;
      const rows = [...table.tBodies[0].rows].map(row => [value(row), row]);
      rows.sort(([a], [b]) => (a === '') - (b === '') || sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b));
      table.tBodies[0].append(...rows.map(pair => pair[1]));
    });
  });
}"""  # noqa: E501
RULES = (
    "<p>An entry is one file. Entries that pass every gate are ranked by their bytes; "
    "equal bytes share a rank. Of each learner's first {limit} files that could be scored, "
    "the best one counts: all gates passed with the fewest bytes. All gates are measured on hidden "
    "items. Their values are rounded: shares to half a per cent, others to two digits.</p>"
    "<p>An entry is on the <strong>Pareto front</strong> if no other has at most its bytes and its "
    "use of the worst gate, and less of one of them. A gate allows some loss against a perfect "
    "score; the part of it that is used is shown: 0 % is no loss, 100 % stands on the gate. "
    "A gate stops an entry only if its whole interval lies beyond. Where an entry of the front "
    "and a smaller one have intervals that meet, no difference in quality is seen between the two, "
    "and the row says so.</p>"
)


def write_all(out: Path, board: Board, limit: int) -> list[Path]:
    """board.html and board.csv in the folder `out`; their paths."""
    rows = standing(board.entries)
    write(out / "board.html", page(board, rows, limit).encode("utf-8", errors="replace"))
    write(out / "board.csv", table(board, rows).encode("utf-8", errors="replace"))
    return [out / "board.html", out / "board.csv"]


def table(board: Board, rows: list[Row]) -> str:
    """The board as CSV: every entry in its order, then what is not on it."""
    gates = gates_of(rows)
    columns = [
        "rank",
        "entry",
        "kind",
        "bytes",
        "on the front",
        "worst gate",
        "allowance used, %",
        "gates failed",
        *gates,
        "files scored",
        "note",
    ]
    lines: list[list[Any]] = []
    for row in rows:
        entry = row.entry
        values = [
            None
            if (gate := entry.gates.get(name)) is None or math.isnan(gate["value"])
            else gate["value"]
            for name in gates
        ]
        lines.append(
            [row.rank, entry.name, entry.kind, entry.bytes, "yes" if row.on_front else "no",
             entry.worst[0], percent(entry.worst[1]), "; ".join(entry.failed), *values,
             board.scored.get(entry.name) if entry.kind == "learner" else None, note(row)]
        )  # fmt: skip
    lines += [
        [None, name, f"refused {number}".strip(), *[None] * (len(columns) - 4), why]
        for name, number, why in board.refused
    ]
    return as_csv(columns, lines)


def page(board: Board, rows: list[Row], limit: int) -> str:
    """The board as one file of HTML that asks for nothing from anywhere."""
    mark = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{mark}'; "
        "base-uri 'none'; form-action 'none'"
    )
    passed = sum(row.rank is not None for row in rows)
    body = [
        f"<p>{board.learners} learners, {passed} of them with an entry that passes every gate.</p>"
    ]
    if rows:
        body += [RULES.format(limit=limit), figure(rows), _table(board, rows)]
    if board.refused:
        body += [f"<h2>Not on the board</h2>{_refused(board.refused)}"]
    body.append(f"<script>{SCRIPT}</script>")
    return document(
        "Challenge: the board",
        f"<main>{''.join(body)}</main>",
        style=STYLE,
        head=f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
    )


def gates_of(rows: list[Row]) -> list[str]:
    """The names of all gates, in the order of the scorer."""
    return list(dict.fromkeys(name for row in rows for name in row.entry.gates))


def percent(used: float) -> float | None:
    """A part of an allowance in per cent; None where it is no number."""
    return round(100 * used) if math.isfinite(used) else None


def note(row: Row) -> str:
    """What is to be said of a row beside its numbers."""
    said = [
        PLACES.get(row.entry.kind, ""),
        f"equal in quality to the smaller {row.equal_to}" if row.equal_to else "",
        row.entry.note,
    ]
    return "; ".join(filter(None, said))


def gate_text(gate: dict[str, Any]) -> str:
    """A gate's value and interval as they are shown."""
    if math.isnan(gate["value"]):
        return "no number"
    low, high = gate["interval"]
    if low == gate["value"] == high and not gate["lower"]:  # all of its items were asked
        return f"{100 * low:.1f} %"
    if gate["lower"]:
        return f"{gate['value']:g} ({low:g} to {high:g})"
    return f"{100 * gate['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _table(board: Board, rows: list[Row]) -> str:
    gates = gates_of(rows)
    needed = {name: gate for row in reversed(rows) for name, gate in row.entry.gates.items()}
    limits = [
        f"≤ {needed[g]['needed']:g}" if needed[g]["lower"] else f"≥ {100 * needed[g]['needed']:g} %"
        for g in gates
    ]
    heads = [
        "rank",
        "entry",
        "bytes",
        "front",
        "worst gate",
        "gates failed",
        *(f"{g} {limit}" for g, limit in zip(gates, limits, strict=True)),
        "files",
        "note",
    ]
    lines = []
    for row in rows:
        entry = row.entry
        used = percent(entry.worst[1])
        cells = [
            _cell("" if row.rank is None else str(row.rank), row.rank, "n"),
            f"<th scope='row'>{_text(entry.name)}</th>",
            _cell(f"{entry.bytes:,}", entry.bytes, "n b"),
            _cell("front" if row.on_front else "", "front" if row.on_front else None),
            _cell(
                f"{entry.worst[0]}: {'no number' if used is None else f'{used:,} %'}",
                10**9 if used is None else used,
                "g",
            ),
            _cell(", ".join(entry.failed), ", ".join(entry.failed) or None, "bad"),
            *(
                _cell(gate_text(entry.gates[g]), _number(entry.gates[g]["value"]), "g")
                if g in entry.gates
                else _cell("", None)
                for g in gates
            ),
            _cell(str(files), files, "n")
            if entry.kind == "learner" and (files := board.scored.get(entry.name))
            else _cell("", None),
            _cell(note(row), note(row) or None),
        ]
        lines.append(
            f"<tr class='{'front' if row.on_front else 'dominated'} "
            f"{entry.kind}'>{''.join(cells)}</tr>"
        )
    head = "".join(f"<th scope='col'>{_text(name)}</th>" for name in heads)
    return (
        "<h2>Entries</h2><p id='key'>Bold: on the Pareto front. Grey: "
        "another entry is at least as small and as good, and better in one. In brackets: "
        "95 % intervals, where items were drawn.</p>"
        "<div class='wide' role='region' aria-label='Entries' tabindex='0'><table class='sort' "
        "aria-label='Entries' aria-describedby='key'>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _refused(refused: list[tuple[str, str, str]]) -> str:
    lines = "".join(
        f"<tr><th scope='row'>{_text(name)}</th>"
        f"<td>{_text(number or '–')}</td><td>{_text(why)}</td></tr>"
        for name, number, why in refused
    )
    return (
        "<div class='wide' role='region' aria-label='Not on the board' tabindex='0'><table><thead>"
        "<tr><th scope='col'>entry</th><th scope='col'>file</th><th scope='col'>why</th></tr>"
        f"</thead><tbody>{lines}</tbody></table></div>"
    )


def _text(text: str) -> str:
    return html.escape(text.encode("utf-8", errors="replace").decode())


def _cell(text: str, value: Any, kind: str = "") -> str:
    return (
        f"<td class='{kind}' "
        f"data-v='{_text('' if value is None else str(value))}'>{_text(text)}</td>"
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


# --- the figure ---


def figure(rows: list[Row]) -> str:
    """Bytes against the use of the worst gate, both on logarithmic scales, with the front as a
    staircase, in SVG.
    """
    sizes = [row.entry.bytes for row in rows]
    low, high = min(sizes) / 1.15, max(sizes) * 1.15
    used = [min(MOST, max(LEAST, row.entry.worst[1])) for row in rows]
    bottom, top = min([*used, 0.2]) / 1.25, max([*used, 1.0]) * 1.25

    def x(size: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(size / low) / math.log(high / low)

    def y(use: float) -> float:
        share = math.log(use / bottom) / math.log(top / bottom)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [*_ticks_x(low, high, x), *_ticks_y(bottom, top, y)]
    points = sorted(
        ((x(row.entry.bytes), y(use), row) for row, use in zip(rows, used, strict=True)),
        key=lambda point: (point[2].on_front, point[2].entry.name),
    )
    stairs = sorted({(round(px, 1), round(py, 1)) for px, py, row in points if row.on_front})
    path = "".join(
        f"{'M' if i == 0 else f'H{px}V'}{f'{px} {py}' if i == 0 else py}"
        for i, (px, py) in enumerate(stairs)
    )
    parts.append(f"<path class='step' d='{path}H{WIDTH - RIGHT}'/>")
    parts += [_mark(px, py, row) for px, py, row in points]
    parts += _labels(
        [point for point in points if point[2].on_front or point[2].entry.kind != "learner"]
    )
    fronts = [row for row in rows if row.on_front]
    said = (
        f"Bytes against the use of the worst gate, of {len(rows)} entries; "
        f"{len(fronts)} are on the Pareto front. The table below has all numbers."
    )
    return (
        f"<figure><svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
        f"aria-label='{_text(said)}'>{''.join(parts)}</svg><figcaption>"
        "Which entries are worth having? Left and low is better. Blue: the Pareto front. "
        "Hollow: stopped by a gate. Dashed: the gates. Circles are learners, diamonds "
        "the instructor's entries, squares the course's baselines, measured on items of their "
        "own.</figcaption></figure>"
    )


def _ticks_x(low: float, high: float, x: Any) -> list[str]:
    parts = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for step in (1, 1.5, 2, 3, 5, 7):
            size = step * 10**power
            if low <= size <= high and (high / low < 30 or step in (1, 2, 5)):
                kind = "" if step in (1, 2, 5) else " class='minor'"
                text = (
                    f"{size / 1e6:g} MB"
                    if size >= 1e6
                    else f"{size / 1e3:g} kB"
                    if size >= 1e3
                    else f"{size:g} B"
                )
                parts.append(
                    f"<g{kind}><line class='grid' x1='{x(size):.1f}' x2='{x(size):.1f}' y1='{TOP}' "
                    f"y2='{HEIGHT - BOTTOM}'/>"
                    f"<text x='{x(size):.1f}' y='{HEIGHT - BOTTOM + 20}' "
                    f"text-anchor='middle'>{text}</text></g>"
                )
    return [
        *parts,
        f"<text x='{(LEFT + WIDTH - RIGHT) / 2}' y='{HEIGHT - 8}' text-anchor='middle'>"
        "size of the file (logarithmic)</text>",
    ]


def _ticks_y(bottom: float, top: float, y: Any) -> list[str]:
    parts = []
    for power in range(-3, 3):
        for step in (1, 2, 5):
            use = step * 10.0**power
            if bottom <= use <= top:
                kind = " class='minor'" if step != 1 else ""
                line = "gate" if use == 1 else "grid"
                parts.append(
                    f"<g{kind}><line class='{line}' x1='{LEFT}' x2='{WIDTH - RIGHT}' "
                    f"y1='{y(use):.1f}' y2='{y(use):.1f}'/>"
                    f"<text x='{LEFT - 8}' y='{y(use) + 4:.1f}' "
                    f"text-anchor='end'>{'≤ ' if use == LEAST else ''}{100 * use:g} %</text></g>"
                )
    return [
        *parts,
        f"<text x='4' y='{TOP - 16}'>used of the worst gate's allowance (logarithmic)</text>",
    ]


def _mark(x: float, y: float, row: Row) -> str:
    entry = row.entry
    kind = f"{'front' if row.on_front else 'dot'}{' hollow' if entry.failed else ''}"
    used = percent(entry.worst[1])
    title = (
        f"<title>{_text(f'{entry.name}: {entry.bytes:,} bytes, {entry.worst[0]} {used} %')}</title>"
    )
    if entry.kind == "baseline":
        return (
            f"<rect class='{kind}' x='{x - 5:.1f}' y='{y - 5:.1f}' width='10' "
            f"height='10'>{title}</rect>"
        )
    if entry.kind == "instructor":
        return f"<path class='{kind}' d='M{x:.1f} {y - 8:.1f}l8 8l-8 8l-8-8z'>{title}</path>"
    return (
        f"<circle class='{kind}' cx='{x:.1f}' cy='{y:.1f}' "
        f"r='{5 if row.on_front else 4}'>{title}</circle>"
    )


def _labels(points: list[tuple[float, float, Row]]) -> list[str]:
    """Names beside points, the front's first: left out where there is no room, rather than one over
    the other.
    """
    placed: list[tuple[float, float, float]] = []
    parts = []
    for x, y, row in sorted(points, key=lambda point: (not point[2].on_front, point[0])):
        text = short(row.entry)
        wide = 7.5 * len(text)
        left = x + 9 if x + 9 + wide < WIDTH - RIGHT else x - 9 - wide
        if all(
            abs(y - 7 - other) > 15 or left > end or left + wide < begin
            for begin, end, other in placed
        ):
            placed.append((left, left + wide, y - 7))
            parts.append(f"<text class='minor' x='{left:.1f}' y='{y - 7:.1f}'>{_text(text)}</text>")
    return parts


def short(entry: Entry, most: int = 28) -> str:
    """A name for the figure."""
    return entry.name if len(entry.name) <= most else f"{entry.name[: most - 1]}…"
