"""Show HTML in a notebook and plain text elsewhere; one small markup serves both.

Markup of the text files: a blank line parts paragraphs, `code`, **bold**, three backticks for a
block of code, $formula$ as it is. Colours follow the light or dark theme of JupyterLab.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# of bars, 3 to 1 or more on white and on JupyterLab's dark page; no text stands in them
COLOURS = {
    "right": "#009E73",
    "wrong": "#D55E00",
    "hint": "#CC79A7",
    "question": "#0072B2",
    "note": "#767676",
}
FONT = "line-height:1.5;max-width:52em"
RUNNERS = re.compile(
    r"exec\(eval\(sys\.stdin|nbconvert|nbclient|papermill|pytest"
    r"|py\.test|jupyter-execute|jupyter-run"
)
_bold = re.compile(r"\*\*(.+?)\*\*")
_slanted = re.compile(r"(?<![^\s(“\"])\*(?=\w)([^*\n]*\w)\*(?![\w*])")  # *word*, no product
_block = re.compile(r"```[a-z]*\n?(.*?)```", re.DOTALL)


def in_notebook() -> bool:
    """True where HTML is shown: in a kernel, not in a terminal."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module else None
    return getattr(shell, "kernel", None) is not None


def live() -> bool:
    """True where somebody can move a control: a notebook that no batch tool is running.

    A committed notebook then holds readable HTML instead of references to controls that are gone.
    COURSE_STATIC=1 or 0 decides it by hand.
    """
    if chosen := os.environ.get("COURSE_STATIC"):
        return chosen == "0" and in_notebook()
    return in_notebook() and (
        "JPY_SESSION_NAME" in os.environ or not RUNNERS.search(_parent_command())
    )


def _parent_command() -> str:
    """The command line of the process that started this kernel,
    or nothing where it cannot be told.
    """
    parent = os.environ.get("JPY_PARENT_PID", "")
    if not parent.isdigit() or os.name == "nt":
        return ""
    try:
        return (
            Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        )
    except OSError:
        pass
    try:
        command = ["ps", "-o", "command=", "-p", parent]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def markup(text: str) -> str:
    """HTML of a text in the small markup; everything else in it is escaped."""
    parts = _block.split(text.strip())
    return "".join(_paragraphs(part) if i % 2 == 0 else _code(part) for i, part in enumerate(parts))


def _code(text: str) -> str:
    return f"<pre style='margin:.4em 0;padding:.4em .8em'>{html.escape(text.rstrip())}</pre>"


def _paragraphs(text: str) -> str:
    paragraphs = [inline(p.strip()) for p in re.split(r"\n\s*\n", text) if p.strip()]
    return "".join(f"<p style='margin:.3em 0'>{p}</p>" for p in paragraphs)


def inline(text: str) -> str:
    """HTML of one line in the small markup."""
    return _outside_code(
        html.escape(text, quote=False),
        lambda code: f"<code>{code}</code>",
        lambda rest: _slanted.sub(r"<i>\1</i>", _bold.sub(r"<b>\1</b>", rest)),
    )


def plain(text: str) -> str:
    """The same text for a terminal."""
    text = re.sub(r"```[a-z]*\n?", "", text.strip())
    return _outside_code(
        text, lambda code: code, lambda rest: _slanted.sub(r"\1", _bold.sub(r"\1", rest))
    )


def _outside_code(text: str, code: Callable[[str], str], rest: Callable[[str], str]) -> str:
    """Two stars in `code` mean a power; they are bold only outside it."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(code(part) if i % 2 else rest(part) for i, part in enumerate(parts))


def box(kind: str, title: str, body: str = "") -> str:
    """HTML of a message: a coloured bar, a title, the body in markup."""
    head = f"<b>{inline(title)}</b>"
    style = f"border-left:4px solid {COLOURS[kind]};padding:.2em .9em;margin:.4em 0;{FONT}"
    return f"<div style='{style}'>{head}{markup(body)}</div>"


def message(kind: str, title: str, body: str = "") -> None:
    """Show a message; kind is one of COLOURS."""
    emit(box(kind, title, body), f"{plain(title)}\n{plain(body)}".strip())


def emit(as_html: str, as_text: str, **more: Any) -> None:
    """Show HTML in a notebook (with the text beside it for other readers), the text elsewhere."""
    if not in_notebook():
        print(as_text)
        return
    emit_bundle({"text/html": as_html, "text/plain": as_text, **more})


def emit_bundle(bundle: dict[str, Any]) -> None:
    """Show one output, given by mime type, in a notebook; its plain text elsewhere."""
    if not in_notebook():
        print(bundle.get("text/plain", ""))
        return
    from IPython.display import display

    display(bundle, raw=True)


def bundles(shown: Any) -> list[dict[str, Any]]:
    """What a notebook would show of a figure, a text in markup, any object, a list of these, or a
    function that draws.
    """
    if isinstance(shown, (list, tuple)):
        return [bundle for part in shown for bundle in bundles(part)]
    if isinstance(shown, str):
        return [{"text/html": markup(shown), "text/plain": plain(shown)}]
    if hasattr(shown, "savefig"):
        from .widgets import picture

        return [picture(shown, {})]
    if callable(shown):
        from IPython.utils.capture import capture_output

        with capture_output() as held:
            value = shown()
        printed = [{"text/plain": held.stdout}] if held.stdout else []
        return [
            *printed,
            *(output.data for output in held.outputs),
            *([] if value is None else bundles(value)),
        ]
    if in_notebook():
        return [sys.modules["IPython"].get_ipython().display_formatter.format(shown)[0]]
    return [{"text/plain": str(shown)}]


def join(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Several outputs as one, for a place that holds one."""
    if len(parts) == 1:
        return parts[0]
    drawn = []
    for part in parts:
        if "text/html" in part:
            drawn.append(part["text/html"])
        elif "image/png" in part:
            drawn.append(f"<img src='data:image/png;base64,{part['image/png']}'>")
        else:
            drawn.append(f"<pre>{html.escape(part.get('text/plain', ''))}</pre>")
    return {
        "text/html": "".join(drawn),
        "text/plain": "\n".join(part.get("text/plain", "") for part in parts),
    }
