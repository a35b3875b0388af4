"""Compare rows fairly: the same seeds and windows for all, paired differences, and an interval
beside each number.

    table = compare("Three bits", {"RTN": rtn_nats, "GPTQ": gptq_nats}, against="RTN", unit="nats",
                    protocol="64 windows …")

Each row is a function of a seed that returns one number, or one number for each evaluation window;
a row without chance may be given as these numbers themselves. The interval (95 %) is
`theory.intervals.crossed_interval`: from the windows where a row is the same for every seed, from
the seeds where a row gives one number, from both where both vary.
Two rows are compared by the interval of their differences, seed by seed and window by window: where
it holds 0, no difference is seen.
"""

from __future__ import annotations

import json
import math
import numbers
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from course_utils.errors import CompressionError
from course_utils.theory.intervals import crossed_interval

MIME = "application/vnd.course.comparison+json"  # the machine-readable part of an output
TABLES = Path(__file__).parents[1] / "learn" / "tables"  # what benchmarks/ have made
Row = Callable[[int], Any] | Tensor | Sequence[float] | float


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """What `compare` found.

    `values[label]` is (seeds, windows), one column where a row gave one number for each seed.
    """

    title: str
    values: dict[str, Tensor]
    seeds: tuple[int, ...]
    against: str | None = None
    unit: str = ""
    better: str = "lower"
    protocol: str = ""
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    command: str = ""
    date: str = ""

    def mean(self, label: str) -> float:
        """The mean of a row over its seeds and windows."""
        return float(self._row(label).mean())

    def half_width(self, label: str) -> float:
        """Half the width of the 95 % interval of a row's mean; NaN for a single number."""
        return crossed_interval(self._row(label))[1]

    def interval(self, label: str) -> tuple[float, float]:
        """(low, high): the 95 % interval of a row's mean."""
        mean, half = crossed_interval(self._row(label))
        return mean - half, mean + half

    def difference(self, a: str, b: str) -> tuple[float, float]:
        """(mean, half width) of a − b, paired by seed and window."""
        return crossed_interval(self._row(a) - self._row(b))

    def order(self, a: str, b: str) -> str:
        """ "<" if a is lower than b, ">" if it is higher, "=" where the interval of their
        difference holds 0.

        Rows that are equal for every seed and window are "=" too: however wide an interval, it
        would hold their difference of 0.
        Raises CompressionError if two single numbers that differ are compared: nothing tells how
        far they may be off.
        """
        mean, half = self.difference(a, b)
        if bool((self._row(a) == self._row(b)).all()):
            return "="
        if math.isnan(half):
            raise CompressionError(
                f"{self.title!r}: {a!r} and {b!r} are one number each, which has no interval; "
                "give one for each evaluation window, or rows that depend on the seed."
            )
        return "=" if abs(mean) <= half else "<" if mean < 0 else ">"

    def _row(self, label: str) -> Tensor:
        if label not in self.values:
            raise CompressionError(
                f"{self.title!r} has no row {label!r}; its rows are "
                f"{', '.join(map(repr, self.values))}."
            )
        return self.values[label]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON takes it; numbers with nine digits, one text of numbers for each
        seed.
        """
        lines = {
            label: [" ".join(f"{x:.9g}" for x in line) for line in v.tolist()]
            for label, v in self.values.items()
        }
        # a list: notebooks sort the keys of a mapping
        rows = [{"label": label, "values": line} for label, line in lines.items()]
        held = {name: getattr(self, name) for name in TEXTS}
        return {**held, "seeds": list(self.seeds), "columns": self.columns, "rows": rows}

    def save(self, path: str | Path, *, command: str) -> Path:
        """Write the table as JSON, with the command that makes it and today's date, which are shown
        below it.

        A bare name is written to `course_utils/learn/tables/`, where `load` finds it.
        """
        file = _file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        made = replace(self, command=command, date=time.strftime("%Y-%m-%d"))
        file.write_text(
            json.dumps(made.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        return file

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        from .comparison_page import as_html

        return {"text/html": as_html(self), "text/plain": str(self), MIME: self.to_json()}

    def __str__(self) -> str:
        from .comparison_page import as_text

        return as_text(self)

    __repr__ = __str__


TEXTS = ("title", "against", "unit", "better", "protocol", "command", "date")


def compare(
    title: str, rows: Mapping[str, Row], *, seeds: Sequence[int] = (0, 1, 2),
    against: str | None = None, unit: str = "", better: str = "lower", protocol: str = "",
    columns: Mapping[str, Mapping[str, Any]] | None = None,
    progress: bool = True,
) -> Comparison:  # fmt: skip
    """Run each row once for each seed and compare them; see the head of this module.

    `against` names the row that the others are compared with; `better` is "lower" or "higher";
    `protocol` says what all rows have in common (tokens, steps, windows, context). What rows do not
    have in common belongs in `columns`:
    {"MB": {"RTN": 1.2, …}}. PyTorch's own generator starts from the seed before each call, so that
    rows draw alike.
    Raises CompressionError for numbers that are not finite, rows of unlike lengths, and an unknown
    `against`.
    """
    from tqdm.auto import tqdm

    if better not in ("lower", "higher"):
        raise CompressionError(f"better={better!r}: say 'lower' or 'higher'.")
    if not rows or not seeds or len(set(seeds)) != len(seeds):
        raise CompressionError(
            "rows, seeds: give at least one row, and at least one seed, each once."
        )
    if against is not None and against not in rows:
        raise CompressionError(
            f"against={against!r}: there is no such row; rows are {', '.join(map(repr, rows))}."
        )
    extra = {name: dict(column) for name, column in (columns or {}).items()}
    if unknown := sorted({label for column in extra.values() for label in column} - set(rows)):
        raise CompressionError(f"columns: there are no rows {unknown}.")
    values: dict[str, Tensor] = {}
    with tqdm(total=len(rows) * len(seeds), desc=title, leave=False, disable=not progress) as bar:
        for label, row in rows.items():
            found = []
            for seed in seeds:
                found.append(_numbers(_run(row, seed), label, seed))
                bar.update()
            if len({len(v) for v in found}) > 1:
                raise CompressionError(
                    f"row {label!r}: it gives {[len(v) for v in found]} numbers; "
                    "give as many for every seed."
                )
            values[label] = torch.stack(found)
    if len({v.shape[1] for v in values.values()}) > 1:
        lengths = {label: v.shape[1] for label, v in values.items()}
        raise CompressionError(
            f"rows: numbers for each seed are {lengths}; evaluate all rows on the same windows."
        )
    return Comparison(title, values, tuple(seeds), against, unit, better, protocol, extra)


def _run(row: Row, seed: int) -> Any:
    if not callable(row):
        return row
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return row(seed)


def _numbers(value: Any, label: str, seed: int) -> Tensor:
    """One number, or a 1-D row of them, in double precision."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        value = [value]
    try:
        if not isinstance(value, Tensor) and not hasattr(value, "__len__"):
            raise TypeError
        found = torch.as_tensor(value).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        raise CompressionError(
            f"row {label!r}, seed {seed}: it gives {type(value).__name__}; "
            "return a number, or a 1-D tensor with one number for each window."
        ) from None
    found = found.reshape(1) if found.dim() == 0 else found
    if found.dim() != 1 or not len(found):
        raise CompressionError(
            f"row {label!r}, seed {seed}: shape {tuple(found.shape)}; "
            "return one number for each window."
        )
    if not torch.isfinite(found).all():
        raise CompressionError(
            f"row {label!r}, seed {seed}: {found[~torch.isfinite(found)][0]} is not finite; "
            "look at the run itself."
        )
    return found


def _file(path: str | Path) -> Path:
    """A path as it is; a bare name is a table of the course."""
    bare = isinstance(path, str) and "/" not in path and not path.endswith(".json")
    return TABLES / f"{path}.json" if bare else Path(path)


def plain(name: str) -> dict[str, Any]:
    """A table of another form, `course_utils/learn/tables/plain/<name>.json`.

    Raises FileNotFoundError where there is none.
    """
    return json.loads((TABLES / "plain" / f"{name}.json").read_text(encoding="utf-8"))


def load(path: str | Path) -> Comparison:
    """A table that `save` has written, by path, or by name for one of `course_utils/learn/tables/`.

    Raises CompressionError where there is none or it cannot be read.
    """
    file = _file(path)
    try:
        return from_json(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = ", ".join(sorted(f.stem for f in file.parent.glob("*.json"))) or "none"
        raise CompressionError(f"there is no table {file.name}; beside it are: {known}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompressionError(
            f"{file.name}: this is not a saved comparison ({type(error).__name__}: "
            f"{error}); make it again."
        ) from error


def from_json(data: Mapping[str, Any]) -> Comparison:
    """The comparison that `to_json` has described:
    what stands in an executed notebook under MIME.
    """
    rows = data["rows"]
    # dict: until 2026-11
    pairs = (
        rows.items() if isinstance(rows, dict) else [(row["label"], row["values"]) for row in rows]
    )
    values = {
        label: torch.tensor(
            [[float(x) for x in line.split()] for line in lines], dtype=torch.float64
        )
        for label, lines in pairs
    }
    return Comparison(
        values=values,
        seeds=tuple(data["seeds"]),
        columns=data["columns"],
        **{name: data[name] for name in TEXTS},
    )
