"""The READMEs of the package's folders: a row for each public module, and nothing that is not
there.
"""

import ast
import functools
import re

import pytest
from making import readmes

AGAIN = "make them anew: python docs/site/build.py --readmes"
ROW = re.compile(r"^\| `([\w.]+)`: (.*?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", re.MULTILINE)


@functools.cache
def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def wrong(package, text):
    """What a README says that is not so, and what it does not say."""
    home, said = readmes.PACKAGE / package, []
    names = {name.removeprefix(f"course_utils.{package}.") for name in readmes.modules(package)}
    rows = {row[0]: row[1:] for row in ROW.findall(text)}
    said += [f"{name}: one of row and module is missing" for name in names ^ set(rows)]
    for name in names & set(rows):
        _, papers, functions, lessons, tests = rows[name]
        file = home / f"{name.replace('.', '/')}.py"
        tree = parsed(file)
        defined = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        missing = set(re.findall(r"`(\w+)`", functions)) - defined
        public = {one for one in defined if not one.startswith("_")}
        if missing or (public and not functions):
            said.append(f"{name}: functions {functions or 'none'}")
        plain = re.sub(r"\s+", " ", file.read_text(encoding="utf-8"))
        for paper in filter(None, papers.split("; ")):
            who, year = paper.rsplit(", ", 1)
            if f"{who}, {year}" not in plain and f"{who} ({year}" not in plain:
                said.append(f"{name}: {paper}")
        for link in re.findall(r"\]\(([^)]+)\)", lessons + tests):
            target = (home / link).resolve()
            if not target.is_file():
                said.append(f"{name}: {link}")
    return said


def committed(package):
    return (readmes.PACKAGE / package / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", readmes.PACKAGES)
def test_what_a_readme_names_is_there(package):
    assert not wrong(package, committed(package)), AGAIN


@pytest.mark.parametrize(
    ("now", "then"),
    [
        (r"^\| `hqq`.*\n", ""),
        ("`hqq`:", "`hqp`:"),
        ("`outlier_channels`", "`outliers`"),
        (r"\| Frantar et al., 2023 \|", "| Frantar et al., 2022 |"),
        (r"3\.2-gptq\.ipynb", "3.2-gptqs.ipynb"),
        (r"test_hqq\.py", "test_hqqs.py"),
    ],
)  # fmt: skip
def test_a_readme_that_is_wrong_is_noticed(now, then):
    text = committed("quantization")
    changed = re.sub(now, then, text, count=1, flags=re.MULTILINE)
    assert changed != text and wrong("quantization", changed)
