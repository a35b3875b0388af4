"""A place in the page to write digits: four squares, a mouse, a pen or a finger, and an answer
below.

Plain HTML in an ipywidgets box: the canvas draws by itself and hands its dots, 0 or 1, to a hidden
text field, which Python watches. Nothing is loaded, and no extension is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_utils.errors import CompressionError

from . import show
from .texts import ui
from .widgets import show_widget

DOTS, SHOWN = 32, 128  # of the side of a square: dots that are kept, pixels on the page

# On each event of the pointer: a thick line from the last place. When it is lifted, the dots go to
# the hidden field. The button wipes canvas and field in the page itself: a stroke that follows at
# once is not lost to an answer of Python's.
_HAND = (
    "t=this.closest('.course-drawing').querySelector('.course-dots textarea');t.value=s;"
    "t.dispatchEvent(new Event('input',{bubbles:true}));t.dispatchEvent(new "
    "Event('change',{bubbles:true}))"
)
_SCRIPT = {
    "pointerdown": (
        "this.setPointerCapture(event.pointerId);"
        "this.down=1;this.last=null;this.onpointermove(event)"
    ),
    "pointermove": (
        "if(!this.down)return;"
        "var r=this.getBoundingClientRect(),k=this.width/r.width,c=this.getContext('2d'),"
        "p=[(event.clientX-r.left)*k,(event.clientY-r.top)*k],q=this.last||p;"
        "c.lineWidth=3.2;c.lineCap='round';c.strokeStyle='#000';c.beginPath();"
        "c.moveTo(q[0],q[1]);c.lineTo(p[0]+.01,p[1]);c.stroke();this.last=p"
    ),
    "pointerup": (
        "this.down=0;"
        "var d=this.getContext('2d').getImageData(0,0,this.width,this.height).data,s='',t;"
        f"for(var i=3;i<d.length;i+=4)s+=d[i]>100?'1':'0';{_HAND}"
    ),
}
_CLEAR = (
    "var c=this.closest('.course-drawing').querySelector('canvas'),s='',t;"
    f"c.getContext('2d').clearRect(0,0,c.width,c.height);{_HAND}"
)


def image(dots: Tensor) -> Tensor:
    """(64,) from 0 to 1 of a square of dots (32, 32), as the digits of the file were made: enlarged
    to the whole square, then the share of dots in each block of 4 × 4 (Alpaydin and Kaynak, 1998).

    Raises CompressionError for an empty square.
    """
    if dots.shape != (DOTS, DOTS) or not dots.any():
        raise CompressionError(
            f"dots: shape {tuple(dots.shape)}, {int(dots.count_nonzero())} dots; "
            f"draw a digit in a square of {DOTS} × {DOTS}."
        )
    rows, columns = (dots.any(axis).nonzero().flatten() for axis in (1, 0))
    cut = dots[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].float()
    scale = DOTS / max(cut.shape)
    size = [max(1, round(side * scale)) for side in cut.shape]
    grown = torch.nn.functional.interpolate(cut[None, None], size=size, mode="nearest")[0, 0]
    whole = torch.zeros(DOTS, DOTS)
    top, left = ((DOTS - side) // 2 for side in size)
    whole[top : top + size[0], left : left + size[1]] = grown
    return whole.view(8, 4, 8, 4).mean((1, 3)).flatten()


def squares(text: str, count: int) -> list[Tensor | None]:
    """The image of each of `count` squares side by side, from their dots row by row as 0 and 1;
    None for an empty one.
    """
    if len(text) != count * DOTS * DOTS or set(text) - {"0", "1"}:
        raise CompressionError(
            f"dots: {len(text)} characters; {count} squares have {count * DOTS * DOTS}, "
            "each 0 or 1."
        )
    dots = torch.tensor([c == "1" for c in text]).view(DOTS, count, DOTS).transpose(0, 1)
    return [image(square) if square.any() else None for square in dots]


def _canvas(count: int) -> str:
    events = " ".join(f'on{name}="{code}"' for name, code in _SCRIPT.items())
    lines = f"repeating-linear-gradient(90deg,#888 0 1px,#fff 1px {SHOWN}px)"
    style = (
        f"width:{count * SHOWN}px;height:{SHOWN}px;background:{lines};border:1px solid "
        "#888;touch-action:none;cursor:crosshair"
    )
    button = f'<button class="jupyter-button" onclick="{_CLEAR}">{ui("draw_clear")}</button>'
    return (
        f'<canvas role="img" aria-label="{ui("draw_here")}" width="{count * DOTS}" height="{DOTS}" '
        f'style="{style}" {events}></canvas><br>{button}'
    )


def draw(answer: Callable[[Tensor], str], *, count: int = 4) -> None:
    """Squares to write digits in.

    Once all are full, `answer(images (count, 64))` is shown below, a text in the small markup.

    Where nobody can draw (nbconvert, a terminal, the pages to read) one sentence stands in its
    place.
    """
    if not show.live():
        show.emit(f"<div style='{show.FONT}'><i>{ui('run_to_draw')}</i></div>", ui("run_to_draw"))
        return
    import ipywidgets as w

    canvas, dots = w.HTML(_canvas(count)), w.Textarea(continuous_update=True)
    dots.add_class("course-dots")
    dots.layout.display = "none"
    said = w.HTML(show.box("note", ui("draw_here")))

    def drawn(change: Any) -> None:
        if not change["new"]:
            said.value = show.box("note", ui("draw_here"))
            return
        try:
            images = squares(change["new"], count)
            left = sum(one is None for one in images)
            if left:
                said.value = show.box("note", ui("draw_more", left=left))
                return
            said.value = show.box(
                "right",
                ui("draw_read"),
                answer(torch.stack([one for one in images if one is not None])),
            )
        except Exception as error:  # a callback has no cell to show an error in
            said.value = show.box("wrong", ui("draw_failed"), f"`{type(error).__name__}: {error}`")

    dots.observe(drawn, names="value")
    box = w.VBox([canvas, dots, said])
    box.add_class("course-drawing")
    show_widget(box, f"<i>{ui('run_to_draw')}</i>")
