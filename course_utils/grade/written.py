"""What a learner wrote, as it may be shown to a person: nothing in it runs, loads or follows a link
by itself.

nbgrader's formgrader and feedback render a written answer as Markdown with HTML, scripts included,
inside a page that may do everything in the class folder. So whatever begins a tag, a picture, a
link to anything but the web, or a command of MathJax that can hold one is broken by a character
without width: it looks as it was written and means nothing.
"""

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable
from typing import Any

GAP = "\u200b"  # no letter, so `<` before it begins no tag; no line break, no width
HARMLESS = re.compile(r"</?(?:br|sub|sup)\s?/?>", re.IGNORECASE)
TAG = re.compile(r"<(?=[a-zA-Z/!?])")
LINK = re.compile(r"\](?=[ \t]*[(:\[])")
WEB = re.compile(r"\]\(https?://[^\s()<>\"'\\]{1,500}\)")
PICTURE = re.compile(r"!\[[^\]\n]{0,200}\]\(attachment:([^()\s\"'<>]{1,200})\)")
MATH = re.compile(
    r"\\(?=(?:href|url|require|style|class|cssId|data|toggle|action|enclose|html"
    r"|includegraphics|img|unicode|bbox|mmlToken|csname|def|let|newcommand|renewcommand"
    r"|newenvironment|begingroup|input|texttip|tooltip|mathtip)(?![a-z]))",
    re.IGNORECASE,
)
SIGNATURES = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
PICTURES, LARGEST = 20, 5 << 20  # in one answer: how many, and their bytes in base64 together


def inert(text: str, pictures: dict[str, str] | None = None) -> str:
    """Markdown that shows the text and does nothing.

    `pictures`: name of an attachment → the name that it is kept under.
    """

    def picture(found: re.Match[str]) -> str:
        kept = (pictures or {}).get(found[1])
        return f"\0{kept}\0" if kept else f"[the picture {found[1]} is not there]"

    text = PICTURE.sub(picture, readable(text.replace("\0", "")))
    text = _outside(HARMLESS, text, lambda part: TAG.sub("<" + GAP, part))
    text = _outside(WEB, text, lambda part: LINK.sub("]" + GAP, part))
    text = text.replace("![", f"!{GAP}[")
    text = re.sub(
        r"(?i)(javascript|vbscript|data|attachment|file|blob)(\s*):", rf"\1{GAP}\2:", text
    )
    text = re.sub(r"&(?=[#a-zA-Z])", "&" + GAP, text)  # else `&#58;` would be a colon again
    text = MATH.sub("\\\\" + GAP, text)
    return re.sub("\0([^\0]*)\0", r"![\1](attachment:\1)", text)


def _outside(kept: re.Pattern[str], text: str, change: Callable[[str], str]) -> str:
    """The text, changed everywhere but where `kept` matches."""
    out, place = [], 0
    for found in kept.finditer(text):
        out += [change(text[place : found.start()]), found[0]]
        place = found.end()
    return "".join([*out, change(text[place:])])


def attachments(sent: Any) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The pictures among a cell's attachments, as `nbformat` keeps them, and by what name each is
    kept.

    PNG, JPEG, GIF and WebP whose bytes are of that kind; at most PICTURES, and LARGEST bytes of
    them together.
    """
    kept: dict[str, dict[str, str]] = {}
    names: dict[str, str] = {}
    left = LARGEST
    for name, kinds in sent.items() if isinstance(sent, dict) else ():
        for kind, content in kinds.items() if isinstance(kinds, dict) else ():
            content = (
                "".join(content)
                if isinstance(content, list) and all(isinstance(c, str) for c in content)
                else content
            )
            if (
                kind not in SIGNATURES
                or not isinstance(content, str)
                or len(content) > left
                or len(kept) == PICTURES
            ):
                continue
            try:
                data = base64.b64decode(re.sub(r"\s+", "", content), validate=True)
            except (binascii.Error, ValueError):
                continue
            if data.startswith(SIGNATURES[kind]):
                names[str(name)] = own = f"picture-{len(kept) + 1}.{kind.partition('/')[2]}"
                kept[own] = {kind: base64.b64encode(data).decode()}
                left -= len(content)
                break
    return kept, names


def readable(text: str) -> str:
    """The text without halves of characters, which no file can hold, and without control characters
    but line ends and tabs.
    """
    text = text.encode("utf-8", errors="replace").decode()
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


def line(text: object, most: int = 200) -> str:
    """A text in one line of a report: no line end, no control, nothing that turns the direction of
    writing.
    """
    shown = readable(str(text)[: most + 1])
    shown = "".join(
        " "
        if c in "\n\t\r\u2028\u2029"
        else ""
        if unicodedata.category(c) == "Cf" and c not in "\u200c\u200d"
        else c
        for c in shown
    )
    return shown if len(shown) <= most else shown[: most - 1] + "…"
