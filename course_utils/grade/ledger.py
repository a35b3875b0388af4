"""What the board of the challenge remembers of a class: scores by SHA-256, each learner's attempts
in order, seeds, a key.

All of it lies in `<class>/.board`, which only its owner may enter: names, hidden seeds and the key
of the pseudonyms. It is not for publishing. Every file is replaced whole, so a run that is killed
leaves the former one.
"""

import base64
import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_utils.errors import CompressionError

from . import build, names, scratch

FOLDER, SCORES, KEY, SEEDS, OWN, LOCK = ".board", "scores.json", "key", "seeds", "own", "lock"
FORMAT = 2  # of scores; those of another one are made anew
LETTERS = 8  # of a pseudonym: 40 bits
Score = dict[str, Any]


class Ledger:
    """The board's memory of one class.

    Changes are on the disk when a method returns; threads may share it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scores: dict[str, dict[str, Score]] = {}  # seeds' digest → SHA-256 → score
        # learner → SHA-256 of each file, in the order in which the board saw them
        self.attempts: dict[str, list[str]] = {}
        self.own: dict[str, str] = {}  # the instructor's entries: name → SHA-256
        self.guard = threading.RLock()
        path = folder / SCORES
        if path.exists():
            try:
                data = json.loads(path.read_bytes())
                self.scores = data["scores"] if data["format"] == FORMAT else {}
                self.attempts, self.own = data["attempts"], data["own"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CompressionError(
                    f"{path}: is no file of the board ({type(error).__name__}); "
                    "move it away, and all entries are scored again."
                ) from error
        self.seeds = self._seeds()

    def save(self) -> None:
        """Write all of it."""
        with self.guard:
            data = {
                "format": FORMAT,
                "scores": self.scores,
                "attempts": self.attempts,
                "own": self.own,
            }
            replace(self.folder / SCORES, json.dumps(data).encode())

    def known(self, sha: str) -> Score | None:
        """The score of a file with the seeds of now."""
        return self.scores.get(self._digest(), {}).get(sha)

    def keep(self, sha: str, score: Score) -> None:
        """Remember a score."""
        with self.guard:
            self.scores.setdefault(self._digest(), {})[sha] = score
            self.save()

    def number(self, learner: str, found: list[str]) -> None:
        """Give files that are new for a learner the next numbers.

        What has a number keeps it, whatever its date says later.
        """
        with self.guard:
            there = self.attempts.setdefault(learner, [])
            if new := [sha for sha in dict.fromkeys(found) if sha not in there]:
                there += new
                self.save()

    def keep_own(self, name: str, sha: str, content: bytes) -> None:
        """The instructor's own entry: it stays on the board in later runs."""
        with self.guard:
            replace(self.folder / OWN / sha, content)
            self.own[name] = sha
            self.save()

    def use(self, seeds: tuple[int, ...]) -> None:
        """Score with these seeds from now on; scores with other seeds are kept, and come back with
        them.
        """
        if not seeds:
            raise CompressionError("seeds: give at least one whole number.")
        self.seeds = seeds
        replace(self.folder / SEEDS, " ".join(map(str, seeds)).encode())

    def pseudonym(self, learner: str) -> str:
        """The learner's name under the key of this class: HMAC-SHA256, 40 bits of it; the same in
        every run.
        """
        digest = hmac.new(self._key(), os.fsencode(learner), hashlib.sha256).digest()
        word = base64.b32encode(digest).decode().lower()[:LETTERS]
        return f"p-{word[:4]}-{word[4:]}"

    def _key(self) -> bytes:
        path = self.folder / KEY
        with self.guard:
            if not path.exists():
                replace(path, secrets.token_bytes(32))
            key = path.read_bytes()
        if len(key) != 32:
            raise CompressionError(
                f"{path}: is no key of 32 bytes; move it away, and all pseudonyms will be new ones."
            )
        return key

    def _seeds(self) -> tuple[int, ...]:
        path = self.folder / SEEDS
        if not path.exists():
            replace(path, str(secrets.randbits(40)).encode())
        return read_seeds(path)

    def _digest(self) -> str:
        return hashlib.sha256(" ".join(map(str, self.seeds)).encode()).hexdigest()[:16]


def read_seeds(path: Path) -> tuple[int, ...]:
    """Whole numbers of at least 0 from a text file, between spaces or lines.

    Raises CompressionError for anything else.
    """
    try:
        words = path.read_text(encoding="utf-8").split()
        if not words or not all(
            word.isascii() and word.isdigit() and len(word) <= 18 for word in words
        ):
            raise ValueError
    except (UnicodeDecodeError, ValueError):
        raise CompressionError(
            f"{path}: holds no seeds; write whole numbers of at most 18 digits, "
            "between spaces or lines."
        ) from None
    return tuple(map(int, words))


@contextlib.contextmanager
def opened(course: Path) -> Iterator[Ledger]:
    """The ledger of a class, for one run at a time.

    Raises CompressionError if another run holds it.
    """
    folder = course / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or not folder.is_dir():
        raise CompressionError(f"{folder}: is no folder; the board keeps scores and its key there.")
    folder.chmod(0o700)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CompressionError(
                f"{folder}: another `course board` works on this class; wait until it ends."
            ) from None
        for place in (folder, folder / OWN):
            scratch.sweep_unfinished(place)
        yield Ledger(folder)


def replace(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all, and on the disk."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    build.replace(path, content, mode=0o600, sync=True)


def shown(ledger: Ledger, learners: list[str], pseudonyms: bool) -> dict[str, str]:
    """Learner → the name on the board, all different: pseudonyms, or names in one line each."""
    out: dict[str, str] = {}
    for learner in learners:
        name = ledger.pseudonym(learner) if pseudonyms else names.shown(learner)
        mark = hashlib.sha256(os.fsencode(learner)).hexdigest()[:6] if not pseudonyms else ""
        out[learner] = f"{name} ({mark})" if name in out.values() else name
    return out
