"""The commands of docs/instructor.md."""

import re

from browsing import ROOT

PAGE = (ROOT / "docs" / "instructor.md").read_text(encoding="utf-8")


def section(heading: str) -> list[str]:
    """The commands of a section's blocks, in order, without comments; the picture of a folder is
    none.
    """
    text = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    lines = "".join(re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)).splitlines()
    return [re.sub(r"\s+#.*", "", line) for line in lines if not re.match(r"\s|my-class/", line)]
