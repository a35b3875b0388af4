"""No line of a solution, of its outputs or of a hidden test is in a lab's folder: not in a cell, a
comment, metadata, an output, an attachment or another file, nor encoded in base64 or spaced
otherwise.

Planted leaks are found.
"""

import base64
import copy
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from course_utils.grade import lab, release

ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS = sorted((ROOT / "solutions").glob("*/*.ipynb"))
PLAIN = 8  # a hidden line with fewer characters, such as `else:`, gives nothing away
ENCODED = re.compile(r"[A-Za-z0-9+/\s]{12,}={0,2}")

solutions = pytest.mark.parametrize("solution", SOLUTIONS, ids=lambda path: path.stem)


def squeezed(text):
    return re.sub(r"[\s\\]+", "", text)


def strings(value):
    """Every string anywhere in a notebook, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (key, *strings(item))
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def decoded(text):
    """What is in base64 in a text, as far as it can be read."""
    for found in ENCODED.findall(text):
        data = squeezed(found).rstrip("=")
        yield base64.b64decode(
            data + "=" * (-len(data) % 4) if len(data) % 4 != 1 else data[:-1]
        ).decode(errors="replace")


def contents(folder):
    """All that is readable in a folder, hidden files too, without white space."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            text = path.read_bytes().decode(errors="replace")
            if path.suffix == ".ipynb":
                text = "\n".join(strings(json.loads(text)))
            yield path.name
            yield squeezed(text)
            if path.suffix != ".safetensors":
                yield from map(squeezed, decoded(text))


def hidden(solution):
    """Lines of solutions and hidden tests, and of the outputs of answer and test cells."""
    for cell in nbformat.read(solution, as_version=4).cells:
        for kind in release.REGIONS:
            for region in re.findall(
                rf"### BEGIN {kind}\n(.*?)\n\s*### END {kind}", cell.source, re.DOTALL
            ):
                yield from region.split("\n")
        if "nbgrader" in cell.metadata:
            for text in strings([dict(output) for output in cell.get("outputs", [])]):
                yield from text.split("\n") if "\n" in text else ()


def leaks(solution, folder):
    everything = list(contents(folder))
    lines = {squeezed(line) for line in hidden(solution)}
    return sorted(
        line for line in lines if len(line) >= PLAIN and any(line in text for text in everything)
    )


@solutions
def test_nothing_hidden_is_in_the_lab(solution):
    assert len({squeezed(line) for line in hidden(solution) if len(squeezed(line)) >= PLAIN}) > 20
    folder = ROOT / "labs" / solution.parent.name
    assert leaks(solution, folder) == []
    assert not [
        text for text in contents(folder) if re.search("(BEGIN|END)(SOLUTION|HIDDEN|MARK)", text)
    ]
    code = [
        cell
        for cell in nbformat.read(folder / solution.name, as_version=4).cells
        if cell.cell_type == "code"
    ]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@solutions
def test_what_the_grader_releases_is_the_lab(solution):
    """The worker is given the cells of this text, and the folder's data without notebooks."""
    released = lab.load(ROOT, solution.parent.name).released
    assert released == (ROOT / "labs" / solution.parent.name / solution.name).read_text(
        encoding="utf-8"
    )


def in_markdown(notebook, line):
    notebook["cells"][0]["source"] = ["# Lab\n", f"Hint: {line}"]


def in_a_comment(notebook, line):
    cell = next(c for c in notebook["cells"] if c["cell_type"] == "code")
    cell["source"] = f"x = 1\n#   {line}"


def spaced(notebook, line):
    in_a_comment(notebook, "  ".join(line.split(" ")))


def in_cell_metadata(notebook, line):
    notebook["cells"][-1]["metadata"]["was"] = {"source": [line]}


def in_notebook_metadata(notebook, line):
    notebook["metadata"]["widgets"] = {"state": {line: 1}}


def in_an_output(notebook, line):
    cell = next(c for c in notebook["cells"] if c["cell_type"] == "code")
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["ok\n", line]}]


def in_an_attachment(notebook, line):
    data = base64.encodebytes(b"some text before\n" + line.encode() + b"\nand after").decode()
    notebook["cells"][0]["attachments"] = {"picture.png": {"image/png": data}}


def nowhere(notebook, line):
    pass


PLACES = [
    in_markdown,
    in_a_comment,
    spaced,
    in_cell_metadata,
    in_notebook_metadata,
    in_an_output,
    in_an_attachment,
]


@pytest.mark.parametrize("plant", PLACES, ids=lambda plant: plant.__name__)
def test_a_leak_in_the_notebook_is_found(plant, tmp_path):
    solution = SOLUTIONS[0]
    given = json.loads(
        (ROOT / "labs" / solution.parent.name / solution.name).read_text(encoding="utf-8")
    )
    line = max(hidden(solution), key=len).strip()
    for change, found in ((nowhere, []), (plant, [squeezed(line)])):
        changed = copy.deepcopy(given)
        change(changed, line)
        (tmp_path / "lab.ipynb").write_text(json.dumps(changed), encoding="utf-8")
        assert leaks(solution, tmp_path) == found


@pytest.mark.parametrize(
    "name", ["notes.txt", ".ipynb_checkpoints/lab-checkpoint.ipynb", "__pycache__/answers.pyc"]
)
def test_a_leak_in_another_file_is_found(name, tmp_path):
    solution = SOLUTIONS[0]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    if name.endswith(".ipynb"):
        shutil.copy(solution, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(b"\xff\x00" + max(hidden(solution), key=len).encode())
    assert leaks(solution, tmp_path)
