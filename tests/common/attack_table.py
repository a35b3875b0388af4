"""One class in which nearly everyone cheats, graded in one run: attack | our score | right score.

python tests/common/attack_table.py --write docs/attacks.md
python tests/common/attack_table.py --labs --write docs/attacks.md  # only what needs no grading:
                                                                    # the labs' own attacks
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import attacks
import grading

from course_utils.grade import lab, run, sandbox

STRANGE = '=1+1, "學生" O\'Neil'
# or bwrap: the whole class inside bubblewrap
KIND = os.environ.get("COURSE_TEST_SANDBOX", "namespaces")
LIMITS = sandbox.Limits(cell=15, call=6, total=120, cpu=100)
FOLDERS = {  # name: (files beside the notebook, name of the notebook)
    "a module named like a package": (
        {"yaml.py": "raise SystemExit", "torch.py": "x = 1", "sitecustomize.py": "x = 1"},
        "lab-a.ipynb",
    ),
    "right, renamed": ({}, "my lab (2).ipynb"),
    STRANGE: ({}, "lab-a.ipynb"),
}
RIGHT = {
    name: right
    for name, (*_, right) in [
        *attacks.ANSWERS.items(),
        *attacks.NOTEBOOKS.items(),
        *attacks.BYTES.items(),
    ]
}
RIGHT |= {
    "a module named like a package": 7,
    "right, renamed": 12,
    STRANGE: 12,
    "a link to someone else's": 0,
    "a pipe": 0,
    "nothing": 0,
}
COLUMNS = [(kind, user) for kind in ("namespaces", "bwrap") for user in ("root", "user")]
TITLES = {
    "namespaces": "namespaces",
    "bwrap": "bubblewrap",
    "root": "root",
    "user": "an ordinary user",
}
MINE = (KIND, "root" if os.geteuid() == 0 else "user")
HEAD = """# Attacks on the grader

Made as root by `python tests/common/attack_table.py --write docs/attacks.md`, which grades the class four times: in each
sandbox, by root and by the user `nobody`. `make test` grades the same class once more and checks its column.

Each row is one submission to a small lab with exercises worth 5, 4 and 3 points (`tests/common/attacks.py`). An attack
is wrong work on the exercise of 5 points and right work on the others, so 7 is right; what begins with "right" is right
work in an unusual form. All of them are graded in one run, beside each other.

"""  # noqa: E501


def slug(name: str) -> str:
    return name.replace("/", "_")


def hand_in(folder: Path, opened: lab.Lab) -> None:
    """The whole class under folder/submitted."""
    for name, (source, _right) in attacks.ANSWERS.items():
        grading.hand_in(folder, opened, slug(name), grading.submit(opened, {"hessian": source}))
    for name, (source, change, _right) in attacks.NOTEBOOKS.items():
        grading.hand_in(
            folder,
            opened,
            slug(name),
            grading.changed(grading.submit(opened, {"hessian": source}), change),
        )
    for name, (change, _right) in attacks.BYTES.items():
        grading.hand_in(
            folder, opened, slug(name), change(json.dumps(grading.submit(opened, {})).encode())
        )
    for name, (files, notebook) in FOLDERS.items():
        wrong = {"hessian": "import yaml\n" + attacks.WRONG} if files else {}
        grading.hand_in(
            folder, opened, slug(name), grading.submit(opened, wrong), name=notebook, files=files
        )
    for name in ("a link to someone else's", "a pipe", "nothing"):
        (folder / "submitted" / name / "lab-a").mkdir(parents=True)
    other = folder / "submitted" / "right" / "lab-a" / "lab-a.ipynb"
    (folder / "submitted" / "a link to someone else's" / "lab-a" / "lab-a.ipynb").symlink_to(other)
    os.mkfifo(folder / "submitted" / "a pipe" / "lab-a" / "lab-a.ipynb")


def grade(folder: Path, opened: lab.Lab) -> dict[str, dict]:
    """Every learner's result. What the grader knows is in its environment, too."""
    os.environ["SECRET_OF_THE_GRADER"] = grading.SECRET
    try:
        root = opened.folder.parents[1]
        return run.run(
            root, folder, opened, jobs=2, seed=7, kind=KIND, limits=LIMITS, progress=False
        )
    finally:
        del os.environ["SECRET_OF_THE_GRADER"]


def scores(results: dict[str, dict]) -> dict[str, float | None]:
    return {name: results[slug(name)]["score"] for name in RIGHT}


def cell(score: float | None) -> str:
    return "none" if score is None else f"{score:g}"


def document(columns: dict[tuple[str, str], dict[str, float | None]]) -> str:
    """The page, from the scores of each (sandbox, user) that was tried."""
    titles = [f"{TITLES[kind]}, {TITLES[user]}" for kind, user in columns]
    lines = [
        f"| attack | {' | '.join(titles)} | right score |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    lines += [
        f"| {name} | {' | '.join(cell(found[name]) for found in columns.values())} | {right} |"
        for name, right in RIGHT.items()
    ]
    differences = sum(
        found[name] != right for found in columns.values() for name, right in RIGHT.items()
    )
    return (
        HEAD
        + "\n".join(lines)
        + f"\n\n{len(RIGHT)} submissions, {len(columns)} times, {differences} differences.\n"
    )


def column(text: str, mine: tuple[str, str]) -> dict[str, str]:
    """The cells of one column of the page, by attack."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    place = rows[0].index(", ".join(TITLES[word] for word in mine))
    return {row[0]: row[place] for row in rows[1:] if len(row) == len(rows[0])}


def with_labs(text: str) -> str:
    """The page with the sections of single labs as they are now, before the last one, which
    `hostile.py` writes.
    """
    import kernel_attacks
    import lab_attacks

    for part in (kernel_attacks, lab_attacks):
        heading = re.escape(part.SECTION)
        text = re.sub(rf"\n{heading}\n.*?(?=\n## |\Z)", "", text, flags=re.DOTALL)
        before, mark, rest = text.partition("\n## What hostile")
        text = f"{before.rstrip()}\n\n{part.section()}{mark}{rest}"
    return text


def graded() -> dict[str, float | None]:
    """The class graded in this process's sandbox, by its user."""
    with tempfile.TemporaryDirectory() as folder:
        opened = lab.load(grading.make_root(Path(folder, "root")), grading.LAB)
        hand_in(Path(folder, "class"), opened)
        return scores(grade(Path(folder, "class"), opened))


def graded_by(kind: str, user: str) -> dict[str, float | None]:
    """The same in another process; Python is shown to the ordinary user also where it lies in
    root's own folder.
    """
    command = [sys.executable, __file__, "--scores"]
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o777)
        environment = {
            **os.environ,
            "COURSE_TEST_SANDBOX": kind,
            "HOME": home,
            "MPLCONFIGDIR": home,
            "TQDM_DISABLE": "1",
        }
        if user != "root":
            command = [
                "unshare",
                "--mount",
                "bash",
                "-ec",
                AS_NOBODY,
                "-",
                str(Path(sys.base_prefix).resolve()),
                *command,
            ]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd="/"
        )
    return json.loads(done.stdout.splitlines()[-1])


AS_NOBODY = """
python=$1; shift
shut=$(p=$python; while [ "$p" != / ]; do p=$(dirname "$p"); find "$p" -maxdepth 0 ! -perm -o=x; done | tail -1)
if [ -n "$shut" ]; then  # a folder that others may not enter: an empty one in its place, with Python in it
    aside=$(mktemp -d); mount --bind "$python" "$aside"
    mount -t tmpfs -o mode=755 none "$shut"; mkdir -p "$python"; mount --bind "$aside" "$python"
fi
exec setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"
"""  # noqa: E501


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path)
    parser.add_argument(
        "--scores", action="store_true", help="only this process's sandbox and user, as JSON"
    )
    parser.add_argument("--labs", action="store_true", help="only the sections of single labs")
    options = parser.parse_args()
    if options.labs:
        options.write.write_text(with_labs(options.write.read_text(encoding="utf-8")), "utf-8")
        return 0
    if options.scores:
        print(json.dumps(graded()))
        return 0
    columns = {}
    for kind, user in COLUMNS if os.geteuid() == 0 else [MINE]:
        columns[kind, user] = found = graded_by(kind, user)
        wrong = {name: found[name] for name, right in RIGHT.items() if found[name] != right}
        print(
            f"{kind}, {user}: {len(found)} submissions, {len(wrong)} differences {wrong or ''}",
            flush=True,
        )
    text = document(columns)
    if options.write:
        before = options.write.read_text(encoding="utf-8") if options.write.exists() else ""
        _, mark, rest = before.partition("\n## ")  # what `hostile.py` writes
        options.write.write_text(with_labs(text + mark + rest), encoding="utf-8")
    return 0 if " 0 differences" in text else 1


if __name__ == "__main__":
    sys.exit(main())
