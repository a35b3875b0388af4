"""The score of a file of the challenge that lies on the disk; what its gates are:
`course_utils.challenge.gates`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course_utils.challenge import file as container
from course_utils.challenge import gates, layout
from course_utils.errors import CompressionError

from . import decoding

SUFFIX, LARGEST = container.SUFFIX, layout.LARGEST


def score(file: Path | str, seeds: Sequence[int] = gates.OPEN_SEEDS) -> dict[str, Any]:
    """Plain values: bytes, sha256, valid, reason (one sentence if refused), seconds (of decoding),
    gates, passed.

    The file is read once and decoded in a process of its own; the model is run here. `gates` as in
    `challenge.gates.score`.
    """
    try:
        content = container.content(file)
    except CompressionError as error:
        return gates.refused(b"", str(error))
    return gates.score(content, seeds, read=decoding.decoded)
