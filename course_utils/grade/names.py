"""Learners' names, which are names of folders that anybody may have made, as names of files and as
texts.
"""

import hashlib
import os

from . import written

LONGEST = 200  # bytes of a file's name, its ending aside


def stem(student: str) -> str:
    """The name of the learner's files: the learner's own, or its beginning and a hash where that is
    too long for a file.
    """
    encoded = os.fsencode(student)
    if len(encoded) <= LONGEST:
        return student.replace("/", "_")
    return f"{os.fsdecode(encoded[:120])}-{hashlib.sha256(encoded).hexdigest()[:16]}".replace(
        "/", "_"
    )


def is_text(student: str) -> bool:
    """False for a folder whose name is no UTF-8: no database takes it."""
    try:
        student.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(student: str) -> str:
    """The learner's name in one line of a report."""
    return written.line(student, 120)
