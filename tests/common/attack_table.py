"""One class in which nearly everyone cheats, graded in one run: attack | our score | right score.

    python tests/common/attack_table.py --write docs/attacks.md
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import attacks
import grading

from course_utils.grade import lab, run, sandbox

STRANGE = '=1+1, "學生" O\'Neil'
KIND = os.environ.get("COURSE_TEST_SANDBOX", "namespaces")  # or bwrap: the whole class inside bubblewrap
LIMITS = sandbox.Limits(cell=15, call=15, total=120, cpu=100)
FOLDERS = {  # name: (files beside the notebook, name of the notebook)
    "a module named like a package": (
        {"yaml.py": "raise SystemExit", "torch.py": "x = 1", "sitecustomize.py": "x = 1"},
        "lab-a.ipynb",
    ),
    "right, renamed": ({}, "my lab (2).ipynb"),
    STRANGE: ({}, "lab-a.ipynb"),
}
RIGHT = {
    name: right for name, (*_, right) in [*attacks.ANSWERS.items(), *attacks.NOTEBOOKS.items(), *attacks.BYTES.items()]
}
RIGHT |= {
    "a module named like a package": 7,
    "right, renamed": 12,
    STRANGE: 12,
    "a link to someone else's": 0,
    "a pipe": 0,
    "nothing": 0,
}
HEAD = """# Attacks on the grader

Made by `python tests/common/attack_table.py --write docs/attacks.md`; `make test` grades the same class and checks this table.

Each row is one submission to a small lab with exercises worth 5, 4 and 3 points (`tests/common/attacks.py`). An attack
is wrong work on the exercise of 5 points and right work on the others, so 7 is right; what begins with "right" is right
work in an unusual form. All of them are graded in one run, beside each other.

| attack | our score | right score |
|---|---|---|
"""


def slug(name: str) -> str:
    return name.replace("/", "_")


def hand_in(folder: Path, opened: lab.Lab) -> None:
    """The whole class under folder/submitted."""
    for name, (source, _right) in attacks.ANSWERS.items():
        grading.hand_in(folder, opened, slug(name), grading.submit(opened, {"hessian": source}))
    for name, (source, change, _right) in attacks.NOTEBOOKS.items():
        grading.hand_in(
            folder, opened, slug(name), grading.changed(grading.submit(opened, {"hessian": source}), change)
        )
    for name, (change, _right) in attacks.BYTES.items():
        grading.hand_in(folder, opened, slug(name), change(json.dumps(grading.submit(opened, {})).encode()))
    for name, (files, notebook) in FOLDERS.items():
        wrong = {"hessian": "import yaml\n" + attacks.WRONG} if files else {}
        grading.hand_in(folder, opened, slug(name), grading.submit(opened, wrong), name=notebook, files=files)
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
        return run.run(root, folder, opened, jobs=2, seed=7, kind=KIND, limits=LIMITS, progress=False)
    finally:
        del os.environ["SECRET_OF_THE_GRADER"]


def document(results: dict[str, dict]) -> str:
    scores = {name: (results[slug(name)]["score"], right) for name, right in RIGHT.items()}
    rows = [f"| {name} | {'none' if ours is None else f'{ours:g}'} | {right} |" for name, (ours, right) in scores.items()]
    differences = sum(ours != right for ours, right in scores.values())
    return HEAD + "\n".join(rows) + f"\n\n{len(rows)} submissions, {differences} differences.\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        opened = lab.load(grading.make_root(Path(folder, "root")), grading.LAB)
        hand_in(Path(folder, "class"), opened)
        text = document(grade(Path(folder, "class"), opened))
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    return 0 if " 0 differences" in text else 1


if __name__ == "__main__":
    sys.exit(main())
