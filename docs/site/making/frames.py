"""Draw the frames of every `explore` and the live answers of every `ask`, so that a page without
Python can show them.

    python docs/site/build.py --frames [LESSON …]

Only the cells run that an `explore` or an `ask(…, expected=…)` needs. The frames are committed,
docs/site/frames/<lesson>/, with a fingerprint of these cells; where a lesson has changed since, the
site leaves its widget out and says so.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import itertools
import json
import os
import symtable
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parents[1]
FRAMES = HERE / "frames"
MOST = 60  # frames of one widget
LEAST = 5  # positions of a slider whose combinations with the others are all drawn
DPI = 80
MUTE = ("check", "hint", "overview", "solution")  # what a slice need not show


def bound(tree: ast.Module) -> set[str]:
    """The names that a cell binds or changes in place, by a method or an index."""
    names = settled(tree) | {
        s.get_name() for s in _symbols(tree).get_symbols() if s.is_assigned() or s.is_imported()
    }
    for part in ast.walk(tree):
        if isinstance(part, (ast.Subscript, ast.Attribute)) and isinstance(part.ctx, ast.Store):
            names |= _base(part)
        elif (
            isinstance(part, ast.Expr)
            and isinstance(part.value, ast.Call)
            and isinstance(part.value.func, ast.Attribute)
        ):
            names |= _base(part.value.func)
    return names


def changes(trees: list[ast.Module]) -> dict[str, set[str]]:
    """For each function of the cells the names outside it that a call changes in place."""
    functions = {
        part.name: part for tree in trees for part in tree.body if isinstance(part, ast.FunctionDef)
    }
    found = {}
    for name, function in functions.items():
        body = ast.Module(function.body, [])
        inside = {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
        found[name] = bound(body) - settled(body) - inside
    return found


def settled(tree: ast.Module) -> set[str]:
    """The names that a cell gives a new value, whatever they were before."""
    names: set[str] = set()
    for part in tree.body:
        if isinstance(part, (ast.FunctionDef, ast.ClassDef)):
            names.add(part.name)
        elif isinstance(part, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in part.names}
        elif isinstance(part, ast.Assign):
            names |= {
                n.id
                for target in part.targets
                for n in ast.walk(target)
                if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
    return names


def _symbols(tree: ast.Module) -> symtable.SymbolTable:
    return symtable.symtable(ast.unparse(tree), "cell", "exec")


def _base(node: ast.AST) -> set[str]:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def used(tree: ast.Module) -> set[str]:
    """The global names that a cell reads, also inside its functions."""
    top = _symbols(tree)
    names = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    inner = list(top.get_children())
    while inner:
        table = inner.pop()
        names |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_global() and symbol.is_referenced()
        }
        inner += table.get_children()
    return names


def _calls(tree: ast.AST) -> bool:
    """True for a cell with an `explore`, or an `ask` whose answer is computed."""
    for part in ast.walk(tree):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
            if part.func.id == "explore":
                return True
            if part.func.id == "ask" and (part.keywords or len(part.args) > 1):
                return True
    return False


def code_cells(path: Path) -> list[tuple[str, str]]:
    """(id, source) of the code cells of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["id"], "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]


def needed(cells: list[tuple[str, str]]) -> dict[str, list[str]]:
    """For each cell with a widget the ids of the cells that it needs, itself last."""
    trees = [ast.parse(source) for _, source in cells]
    by_calls = changes(trees)
    given = [
        bound(tree).union(*(by_calls[name] for name in used(tree) & set(by_calls)))
        for tree in trees
    ]
    found = {}
    for last, tree in enumerate(trees):
        if not _calls(tree):
            continue
        chosen, wanted = {last}, used(tree)
        for i in range(last - 1, -1, -1):
            if given[i] & wanted:
                chosen.add(i)
                wanted = wanted - settled(trees[i]) | used(trees[i])
        found[cells[last][0]] = [cells[i][0] for i in sorted(chosen)]
    return found


def fingerprint(cells: list[tuple[str, str]], ids: list[str]) -> str:
    source = dict(cells)
    return hashlib.sha256("\0".join(source[name] for name in ids).encode()).hexdigest()[:16]


def values_of(control: Any) -> list[Any]:
    """All values of a control, in order."""
    if control.kind == "checkbox":
        return [False, True]
    if control.kind != "slider":
        return list(control.choices)
    low, high, step = control.choices
    count = int((high - low) / step + 1e-6) + 1
    values = [low + i * step for i in range(count)]
    values = (
        values
        if all(isinstance(x, int) for x in (low, high, step))
        else [round(x, 6) for x in values]
    )
    return sorted({*values, control.value})


def thinned(values: list[Any], first: Any, count: int) -> list[Any]:
    """At most `count` of the values: the ends, `first`, 0 if it is one,
    and others evenly between.
    """
    if len(values) <= count:
        return values
    last = len(values) - 1
    places = {round(i * last / (count - 1)) for i in range(count)}
    kept = {0, last}
    for at in [values.index(value) for value in (first, 0) if value in values]:
        kept.add(at)
        if at not in places and (free := places - kept):
            places.remove(min(free, key=lambda place: abs(place - at)))
            places.add(at)
    return [values[i] for i in sorted(places)]


def plan(controls: dict[str, Any]) -> tuple[dict[str, list[Any]], bool]:
    """The values of each control that are drawn, and whether all their combinations are (else one
    control moves at a time).
    """
    every = {name: values_of(control) for name, control in controls.items()}
    counts = {name: len(values) for name, values in every.items()}
    sliders = [name for name, control in controls.items() if control.kind == "slider"]

    def product() -> int:
        total = 1
        for count in counts.values():
            total *= count
        return total

    while product() > MOST and (long := [name for name in sliders if counts[name] > LEAST]):
        counts[max(long, key=lambda name: counts[name])] -= 1
    together = product() <= MOST
    if not together:
        rest = sum(counts[name] for name in every if name not in sliders)
        each = (MOST - rest) // max(1, len(sliders))
        counts = {
            name: min(len(values), each) if name in sliders else len(values)
            for name, values in every.items()
        }
    return {
        name: thinned(values, controls[name].value, max(3, counts[name]))
        for name, values in every.items()
    }, together


def combinations(
    values: dict[str, list[Any]], first: dict[str, Any], together: bool
) -> Iterator[dict[str, Any]]:
    """The settings that are drawn, in the order that the page counts them in."""
    if together:
        for chosen in itertools.product(*values.values()):
            yield dict(zip(values, chosen, strict=True))
        return
    for name, choices in values.items():
        for choice in choices:
            yield {**first, name: choice}


class Recorder:
    """Stands in for `explore` and `ask` while a slice runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cell = ""
        self.widgets: dict[str, list[dict[str, Any]]] = {}
        self.expected: dict[str, dict[str, float]] = {}

    def ask(self, name: str, expected: float | None = None) -> None:
        if expected is not None:
            self.expected.setdefault(self.cell, {})[name] = float(expected)

    def explore(self, draw: Any, **controls: Any) -> None:
        first = {name: control.value for name, control in controls.items()}
        values, together = plan(controls)
        drawn: dict[str, str] = {}
        said_of: dict[str, str] = {}
        frames, alts = [], []
        for setting in combinations(values, first, together):
            key = json.dumps(setting)
            if key not in drawn:
                data, said = _webp(_drawn(draw, setting), setting)
                name = f"{hashlib.sha256(data).hexdigest()[:12]}.webp"
                (self.folder / name).write_bytes(data)
                drawn[key] = name
                said_of[key] = said
            frames.append(drawn[key])
            alts.append(said_of[key])
        shown = {
            name: {
                "kind": control.kind,
                "label": control.label or name.replace("_", " "),
                "values": values[name],
                "first": first[name],
            }
            for name, control in controls.items()
        }
        self.widgets.setdefault(self.cell, []).append(
            {"controls": shown, "together": together, "frames": frames, "alts": alts}
        )


def _drawn(draw: Any, setting: dict[str, Any]) -> Any:
    """The figure of a setting; one that says why where the lesson refuses it."""
    from course_utils.errors import CompressionError
    from course_utils.learn import plots

    try:
        return draw(**setting)
    except CompressionError as error:
        figure, axes = plots.figure(title="", size=(7, 3))
        axes.axis("off")
        axes.text(0.5, 0.5, "\n".join(textwrap.wrap(str(error), 60)), ha="center", va="center")
        return figure


def _webp(figure: Any, setting: dict[str, Any]) -> tuple[bytes, str]:
    """The figure as WebP, and what it shows in words."""
    import matplotlib.pyplot as plt
    from PIL import Image

    from course_utils.learn.widgets import titles

    held, out = io.BytesIO(), io.BytesIO()
    figure.savefig(held, format="png", bbox_inches="tight", dpi=DPI)
    plt.close(figure)
    few = Image.open(held).convert("RGB").quantize(32, dither=Image.Dither.NONE).convert("RGB")
    few.save(out, "WEBP", lossless=True, method=4)
    return out.getvalue(), "; ".join(
        [*titles(figure), *(f"{name} = {value}" for name, value in setting.items())]
    )


def fresh(path: Path) -> dict[str, dict[str, Any]]:
    """What is drawn of the cells of a notebook, where it fits them as they are now."""
    file = FRAMES / path.stem / "frames.json"
    if not file.is_file():
        return {}
    cells = code_cells(path)
    slices = needed(cells)
    drawn = json.loads(file.read_text(encoding="utf-8"))
    return {
        name: one
        for name, one in drawn.items()
        if name in slices and fingerprint(cells, slices[name]) == one["fingerprint"]
    }


def record(path: Path) -> None:
    """Run what the widgets of a notebook need, write their frames and what the page must know of
    them.
    """
    import matplotlib

    matplotlib.use("Agg")
    import course_utils.learn as learn

    cells = code_cells(path)
    slices = needed(cells)
    wanted = {name for ids in slices.values() for name in ids}
    folder = FRAMES / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(folder)
    learn.explore, learn.ask = recorder.explore, recorder.ask  # type: ignore[assignment]
    learn.predict = lambda name: _Silent()  # type: ignore[assignment]
    for name in MUTE:
        setattr(learn, name, lambda *args, **keywords: None)
    space: dict[str, Any] = {"__name__": "__main__", "display": lambda *args, **keywords: None}
    os.chdir(path.parent)
    for name, source in cells:
        if name in wanted:
            recorder.cell = name
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, f"{path.stem}:{name}", "exec"), space)
    found = {
        name: {
            "fingerprint": fingerprint(cells, slices[name]),
            "widgets": recorder.widgets.get(name, []),
            "expected": recorder.expected.get(name, {}),
        }
        for name in slices
    }
    kept = {
        frame for one in found.values() for widget in one["widgets"] for frame in widget["frames"]
    }
    for old in folder.glob("*.webp"):
        if old.name not in kept:
            old.unlink()
    (folder / "frames.json").write_text(
        json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


class _Silent:
    def result(self, measured: Any, shown: Any = None) -> None:
        """Nothing is shown while frames are drawn."""


def main(lessons: list[str]) -> None:
    """Draw anew what these lessons move, or all."""
    for path in sorted((ROOT / "notebooks").glob("*/*.ipynb")):
        if (not lessons or path.stem in lessons) and needed(code_cells(path)):
            record(path)
