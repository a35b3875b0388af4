"""The Pareto board of the challenge (lab 5.4): score what is new in a class folder, and write
board.html and board.csv.

What counts: of a learner's first `limit` files that can be scored, in the order in which the board
saw them, the best one: the one that passes all gates with the fewest bytes; if none passes, the one
that passes the most gates. The same file handed in twice is one attempt. A file that is refused
(damaged, too large, too slow) is named with its reason and uses up no attempt, but at most OPENED ×
`limit` files of a learner are opened. Scores are kept by SHA-256 and seeds (`ledger`): nothing is
scored twice.
"""

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from course_utils.errors import CompressionError

from . import apart, handed_in, ledger, names, run, standing
from .ledger import Ledger, Score
from .standing import Entry

LAB = "lab-5.4-challenge"
OPENED = 3
TRIES = 2  # of a file over which the scoring process died
MEMORY = 12 << 30  # bytes of address space


@dataclass
class Options:
    """What `course board` was asked for; `work` scores one file, `suffix` and `largest` say which
    files are taken.
    """

    work: Callable[..., Score]
    suffix: str
    largest: int  # bytes of a file
    limit: int = 5
    jobs: int = 1
    seconds: float = 300  # for one file
    pseudonyms: bool = False
    again: bool = False  # score anew what could not be scored
    progress: bool = True
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass
class Board:
    """All that the page shows: entries that count, (name, attempt, reason) of the others, and how
    many files each learner used.
    """

    entries: list[Entry] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    scored: dict[str, int] = field(default_factory=dict)  # shown name → attempts that were scored
    faults: int = 0
    learners: int = 0


def make(
    course: Path,
    options: Options,
    baselines: list[Entry],
    *,
    seeds: Path | None = None,
    own: tuple[str, Path] | None = None,
) -> Board:
    """Score what is new under course/submitted, and the instructor's own entry (name, file); return
    the board.

    Raises CompressionError for a class without entries, for seeds that are none, and for an own
    entry that cannot be scored.
    """
    with ledger.opened(course) as book:
        if seeds:
            book.use(ledger.read_seeds(seeds))
        if own:
            _keep_own(book, own, options)
        folders = (
            run.submissions(course, LAB) if (course / "submitted").is_dir() or not book.own else {}
        )
        if not folders and not book.own:
            raise CompressionError(
                f"nobody has handed in {LAB}: there is no submitted/<learner>/{LAB}/."
            )
        return _scored(book, folders, options, baselines)


def _scored(
    book: Ledger, folders: dict[str, Path], options: Options, baselines: list[Entry]
) -> Board:
    scorer = Scorer(book, options)
    shown = ledger.shown(book, list(folders), options.pseudonyms)
    with (
        ThreadPoolExecutor(options.jobs) as pool,
        tqdm(total=len(folders), desc=LAB, unit="learner", disable=not options.progress) as bar,
    ):
        try:
            waiting = []
            for learner, folder in folders.items():
                waiting.append(pool.submit(scorer.learner, learner, folder))
                waiting[-1].add_done_callback(lambda _: bar.update())
            found = {learner: each.result() for learner, each in zip(folders, waiting, strict=True)}
            own = {
                name: scorer.score(sha, book.folder / ledger.OWN / sha)
                for name, sha in book.own.items()
            }
        except BaseException:
            options.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    board = Board([*baselines], learners=len(folders))
    for name, score in own.items():
        if score["valid"]:
            board.entries.append(entry_of(name, score, "instructor"))
        else:
            board.refused.append((name, "instructor", score["reason"]))
    owners: dict[str, list[str]] = {}
    for learner in folders:
        for sha in book.attempts.get(learner, []):
            owners.setdefault(sha, []).append(learner)
    for learner, (scores, refused) in found.items():
        name = shown[learner]
        board.scored[name] = len(scores)
        board.refused += [
            (name, number, handed_in.shown_reason(why, list(folders), options.pseudonyms))
            for number, why in refused
        ]
        if scores:
            sha, score = min(
                scores, key=lambda pair: standing.merit(pair[1]["gates"], pair[1]["bytes"])
            )
            others = [shown[other] for other in owners[sha] if other != learner]
            board.entries.append(
                entry_of(
                    name,
                    score,
                    "learner",
                    f"the same file as {', '.join(sorted(others)[:3])}" if others else "",
                )
            )
    board.refused.sort()
    board.faults = scorer.faults
    return board


def entry_of(name: str, score: Score, kind: str, note: str = "") -> Entry:
    """A score as an entry of the board, its numbers rounded."""
    return Entry(
        name,
        score["bytes"],
        {gate: standing.shown_gate(found) for gate, found in score["gates"].items()},
        kind,
        note,
    )


class Scorer:
    """Scores files, each once, and remembers them; threads share it."""

    def __init__(self, book: Ledger, options: Options) -> None:
        self.book, self.options = book, options
        self.faults = 0
        self.guard, self.locks = threading.Lock(), dict[str, threading.Lock]()

    def learner(
        self, learner: str, folder: Path
    ) -> tuple[list[tuple[str, Score]], list[tuple[str, str]]]:
        """A learner's scored files as (SHA-256, score), and (attempt, reason) of those that are not
        scored.
        """
        handed = handed_in.of(folder, self.options.suffix, self.options.largest)
        self.book.number(learner, list(handed.files))
        scores: list[tuple[str, Score]] = []
        refused: list[tuple[str, str]] = []
        for number, sha in enumerate(self.book.attempts[learner], start=1):
            path, known = handed.files.get(sha), self.book.known(sha)
            if len(scores) == self.options.limit or number > OPENED * self.options.limit:
                why = f"not scored: {self.options.limit} attempts are scored"
            elif path is None and known is None:
                why = "not scored with these seeds: the file was replaced before"
            else:
                score = self.score(sha, path)
                if score["valid"]:
                    scores.append((sha, score))
                    continue
                why = score["reason"]
            refused.append((str(number), why))
        return scores, refused + [("", why) for why in handed.refused]

    def score(self, sha: str, path: Path | None) -> Score:
        """The score of a file: the one that is known, or a new one."""
        with self.guard:
            mine = self.locks.setdefault(sha, threading.Lock())
        with mine:
            known = self.book.known(sha)
            if known is not None and not (self.options.again and known.get("fault") and path):
                return known
            assert path
            score = self._score(sha, path)
            if not score.pop("passing", False):
                self.book.keep(sha, score)
            return score

    def _score(self, sha: str, path: Path) -> Score:
        """Scored from a copy under a name that says nothing,
        which nobody can exchange meanwhile.
        """
        options = self.options
        if options.stop.is_set():
            raise apart.Stopped
        with tempfile.TemporaryDirectory(prefix="course-board-") as folder:
            copy = Path(folder) / f"entry{options.suffix}"
            try:
                copy.write_bytes(data := handed_in.content(path, options.largest))
            except handed_in.Refused as error:
                return refusal(str(error)) | {"passing": True}
            if hashlib.sha256(data).hexdigest() != sha:
                return refusal("the file changed while it was read; start the board again") | {
                    "passing": True
                }
            why = ""
            for _ in range(TRIES):
                try:
                    found = apart.score(
                        options.work, copy, self.book.seeds, seconds=options.seconds, memory=MEMORY,
                        threads=max(1, (os.cpu_count() or 1) // options.jobs), stop=options.stop,
                    )  # fmt: skip
                    return checked(found, len(data))
                except apart.Fault as error:
                    why = str(error)
                    if "seconds" in why:
                        break
        with self.guard:
            self.faults += 1
        return refusal(why, fault=True)


def refusal(reason: str, fault: bool = False) -> Score:
    """The score of a file that is refused; `fault`: by no decision of the scorer, so that --again
    tries it once more.
    """
    return {"valid": False, "reason": reason, "fault": fault}


def checked(found: Score, size: int) -> Score:
    """A score as it is kept: only what the board needs, with gates that hold numbers.

    Raises apart.Fault if it is none.
    """
    try:
        if not found["valid"]:
            return refusal(str(found["reason"]))
        # not all gates were asked
        stopped = not found["passed"] and all(gate["passed"] for gate in found["gates"].values())
        gates = {
            str(name): {
                "value": float(gate["value"]),
                "interval": [float(edge) for edge in gate["interval"]],
                "needed": float(gate["needed"]),
                "lower": gate["lower"] is True,
                "passed": bool(gate["passed"]) and not stopped,
            }
            for name, gate in found["gates"].items()
        }
        if not gates or any(len(gate["interval"]) != 2 for gate in gates.values()):  # type: ignore[arg-type]
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise apart.Fault("the scorer's answer is no score") from None
    return {
        "valid": True,
        "reason": "",
        "bytes": size,
        "seconds": float(found.get("seconds") or 0),
        "gates": gates,
    }


def _keep_own(book: Ledger, own: tuple[str, Path], options: Options) -> None:
    name, path = names.shown(own[0]), own[1]
    try:
        data = handed_in.content(path.resolve(), options.largest)
    except handed_in.Refused as error:
        raise CompressionError(f"--entry {path}: {error}.") from None
    sha = hashlib.sha256(data).hexdigest()
    score = Scorer(book, options).score(sha, path.resolve())
    if not score["valid"]:
        raise CompressionError(f"--entry {path}: {score['reason']}.")
    book.keep_own(name, sha, data)


def overlooked(course: Path) -> Iterator[str]:
    """What lies in submitted/ and is not taken, though somebody may have meant it to be; for the
    instructor's screen.
    """
    with contextlib.suppress(OSError):
        yield from run.overlooked(course, LAB)
