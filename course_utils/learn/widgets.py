"""Controls for a lesson: `explore(draw, bits=slider(2, 8, 4))` draws again whenever a control
moves.

The figure is an ordinary PNG output under one display id, so that it is in the committed notebook
and is replaced in place. ipywidgets and matplotlib are imported where they are used.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from course_utils.errors import CompressionError

from . import show
from .texts import ui

WIDTH = "30em"  # of a slider or a list


@dataclass(frozen=True)
class Control:
    """One control: its kind, its first value, and what it may be."""

    kind: str  # slider | dropdown | checkbox | toggle
    value: Any
    choices: tuple[Any, ...] = ()  # dropdown and toggle; of a slider: low, high, step
    label: str | None = None


def slider(
    low: float,
    high: float,
    value: float | None = None,
    *,
    step: float | None = None,
    label: str | None = None,
) -> Control:
    """A number between `low` and `high`; whole numbers when all are whole."""
    value = low if value is None else value
    whole = all(isinstance(x, int) for x in (low, high, value)) and (
        step is None or isinstance(step, int)
    )
    step = step or (1 if whole else (high - low) / 100)
    if not low <= value <= high:
        raise CompressionError(
            f"slider: value {value} is outside {low} to {high}; choose one within."
        )
    return Control("slider", value, (low, high, step), label)


def dropdown(options: Sequence[Any], value: Any = None, *, label: str | None = None) -> Control:
    """One of several values, in a list that opens."""
    return _choice("dropdown", options, value, label)


def toggle(options: Sequence[Any], value: Any = None, *, label: str | None = None) -> Control:
    """One of a few values, as a row of buttons."""
    return _choice("toggle", options, value, label)


def checkbox(value: bool = False, *, label: str | None = None) -> Control:
    """Yes or no."""
    return Control("checkbox", bool(value), (), label)


def _choice(kind: str, options: Sequence[Any], value: Any, label: str | None) -> Control:
    options = tuple(options)
    value = options[0] if value is None and options else value
    if value not in options:
        raise CompressionError(
            f"{kind}: value {value!r} is not among the options {list(options)}; choose one of them."
        )
    return Control(kind, value, options, label)


def explore(draw: Callable[..., Any], **controls: Control) -> None:
    """Show `draw(**values)`, a matplotlib Figure, and controls that draw it again.

    Where nobody can move a control (nbconvert, papermill, a terminal) the figure of the first
    values is drawn once.
    """
    for name, control in controls.items():
        if not isinstance(control, Control):
            raise CompressionError(
                f"explore: {name} must be a control, such as {name}=slider(2, 8, 4)."
            )
    values = {name: control.value for name, control in controls.items()}
    if not show.in_notebook():
        _close(draw(**values))
        return
    from IPython.display import display

    if not show.live():
        if controls:
            show.emit(_described(controls), "")
        display(picture(draw(**values), values), raw=True)
        return
    box, made = _build(controls)
    show_widget(box, _described(controls))
    handle = display(picture(draw(**values), values), raw=True, display_id=True)

    def moved(_change: object) -> None:
        now = {name: widget.value for name, widget in made.items()}
        try:
            drawn = picture(draw(**now), now)
        except Exception as error:  # a callback has no cell to show an error in
            said = show.box("wrong", ui("draw_failed"), f"`{type(error).__name__}: {error}`")
            drawn = {"text/html": said, "text/plain": show.plain(str(error))}
        handle.update(drawn, raw=True)

    for widget in made.values():
        widget.observe(moved, names="value")


def show_widget(widget: Any, fallback: str) -> None:
    """Show a widget, with HTML for readers that have no live kernel."""
    from IPython.display import display

    view = {"model_id": widget.model_id, "version_major": 2, "version_minor": 0}
    bundle = {
        "application/vnd.jupyter.widget-view+json": view,
        "text/html": fallback,
        "text/plain": show.plain(type(widget).__name__),
    }
    display(bundle, raw=True)


def _build(controls: dict[str, Control]) -> tuple[Any, dict[str, Any]]:
    """A column of controls, the label of each above it, so that a long one leaves a slider its
    track.
    """
    import ipywidgets as w

    made: dict[str, Any] = {}
    rows = []
    for name, control in controls.items():
        label = _label(name, control)
        common = {"tooltip": label, "layout": {"width": WIDTH, "max_width": "100%"}}
        if control.kind == "slider":
            low, high, step = control.choices
            whole = all(isinstance(x, int) for x in (*control.choices, control.value))
            kind = w.IntSlider if whole else w.FloatSlider
            more = {} if whole else {"readout_format": ".3g"}
            made[name] = kind(
                value=control.value,
                min=low,
                max=high,
                step=step,
                continuous_update=False,
                **common,
                **more,
            )
        elif control.kind == "dropdown":
            made[name] = w.Dropdown(options=control.choices, value=control.value, **common)
        elif control.kind == "toggle":
            common["layout"] = {"width": "auto"}
            made[name] = w.ToggleButtons(
                options=control.choices,
                value=control.value,
                style={"button_width": "auto"},
                **common,
            )
        else:
            common["layout"] = {"width": "max-content", "max_width": "100%"}
            made[name] = w.Checkbox(value=control.value, indent=False, description=label, **common)
        if control.kind != "checkbox":
            rows.append(
                w.HTML(f"<div style='line-height:1.3;margin-top:.3em'>{show.inline(label)}</div>")
            )
        rows.append(made[name])
    box = w.VBox(rows)
    box.add_class("course-controls")
    return box, made


def _label(name: str, control: Control) -> str:
    return control.label or name.replace("_", " ")


def _described(controls: dict[str, Control]) -> str:
    """The controls in words, for a page on which they cannot be moved."""
    said = []
    for name, control in controls.items():
        span = ""
        if control.kind == "slider":
            span = f" ({control.choices[0]:g} – {control.choices[1]:g})"
        elif control.choices:
            span = f" ({', '.join(map(str, control.choices))})"
        said.append(f"{_label(name, control)}: `{control.value}`{span}")
    return (
        f"<div style='{show.FONT}'>{show.inline(' · '.join(said))}<br>"
        f"<i>{ui('run_to_move')}</i></div>"
    )


def picture(figure: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The figure as a PNG of an output; it is closed, so that it is not shown twice."""
    if not hasattr(figure, "savefig"):
        raise CompressionError(
            f"explore: draw returned {type(figure).__name__}; return the matplotlib Figure."
        )
    held = io.BytesIO()
    figure.savefig(held, format="png", bbox_inches="tight", dpi=100)
    _close(figure)
    words = "; ".join([*titles(figure), *(f"{name} = {value}" for name, value in values.items())])
    return {"image/png": base64.b64encode(held.getvalue()).decode(), "text/plain": words}


def titles(figure: Any) -> list[str]:
    """The titles of a figure's axes, for those who do not see it."""
    return [
        title
        for axes in figure.axes
        for side in ("left", "center", "right")
        if (title := axes.get_title(loc=side))
    ]


def _close(figure: Any) -> None:
    import matplotlib.pyplot as plt

    plt.close(figure)
