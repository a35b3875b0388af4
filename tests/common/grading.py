"""A small lab with three exercises, and submissions to it."""

import copy
import json
import time

import nbformat
import psutil
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

LAB = "lab-a"
META = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
SECRET = "marker_of_what_is_hidden"
POINTS = {"hessian": 5, "pack": 4, "double": 3}
IMPORTS = "import math\n\nimport torch\n\nfrom course_utils.learn import check, hint"
ANSWERS = {
    "hessian": "def hessian(x):\n    return 2 / len(x) * (x.T @ x)",
    "pack": "def pack_int4(codes):\n    return codes[:, 0::2] | (codes[:, 1::2] << 4)",
    "double": "def double(x):\n    return 2 * x",
}
TESTS = {
    "hessian": (
        'verdict = check("gptq.hessian", hessian, seed=1, show=False)\n'
        "assert verdict, verdict.message"
    ),
    "pack": (
        'verdict = check("gptq.pack_int4", pack_int4, seed=1, show=False)\n'
        "assert verdict, verdict.message"
    ),
    "double": "assert double(1) == 2",
}
HIDDEN = {
    "hessian": (
        f"{SECRET} = [[10.0, 2.0], [2.0, 4.0]]\n"
        f"assert hessian(torch.tensor([[1.0, 2.0], [3.0, 0.0]])).tolist() == {SECRET}"
    ),
    "pack": (
        "assert pack_int4(torch.tensor([[15, 0, 0, 15]], dtype=torch.uint8)).tolist() == [[15, "
        "240]]"
    ),
    "double": "assert double(21) == 42\nassert double([1, 2]) == [1, 2, 1, 2]",
}


def cell(make, name, source, **nbgrader):
    made = make(source)
    made.id = name
    if nbgrader:
        made.metadata["nbgrader"] = {**META, "grade_id": name, **nbgrader}
    return made


def solution(answers=ANSWERS):
    """The notebook with its answers and hidden tests."""
    cells = [
        cell(new_markdown_cell, "title", "# Lab A"),
        cell(new_code_cell, "imports", IMPORTS, locked=True),
    ]
    for name, source in answers.items():
        head, _, body = source.partition("\n")
        answer = f"{head}\n    ### BEGIN SOLUTION\n    # {SECRET}\n{body}\n    ### END SOLUTION"
        cells.append(cell(new_code_cell, name, answer, solution=True))
        test = f"{TESTS[name]}\n### BEGIN HIDDEN TESTS\n{HIDDEN[name]}\n### END HIDDEN TESTS"
        cells.append(
            cell(new_code_cell, f"{name}-test", test, grade=True, locked=True, points=POINTS[name])
        )
    prose = "### BEGIN SOLUTION\nAny answer.\n### END SOLUTION"
    cells.append(cell(new_markdown_cell, "written", prose, grade=True, solution=True, points=2))
    return new_notebook(cells=cells)


def make_root(folder):
    """A checkout with solutions/lab-a."""
    path = folder / "solutions" / LAB / f"{LAB}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(solution(), path)
    return folder


def submit(lab, answers):
    """The released notebook with the given answers, others right; as a plain dict of JSON."""
    notebook = json.loads(lab.released)
    sources = {**ANSWERS, **answers}
    for entry in notebook["cells"]:
        entry["source"] = sources.get(entry["id"], "".join(entry["source"]))
    return notebook


def hand_in(course, lab, student, content, *, name=f"{LAB}.ipynb", files=()):
    """submitted/<student>/lab-a/, with other files beside the notebook."""
    folder = course / "submitted" / student / lab.name
    folder.mkdir(parents=True)
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    (folder / name).write_bytes(content)
    for path, text in dict(files).items():
        (folder / path).write_text(text)
    return folder


def by_id(notebook):
    return {entry["id"]: entry for entry in notebook["cells"]}


def changed(notebook, change):
    notebook = copy.deepcopy(notebook)
    change(notebook)
    return notebook


def ended(pids, seconds=60):
    """Whether all these processes end in time.

    One that nobody has waited for yet counts as ended.
    """

    def runs(pid):
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    until = time.monotonic() + seconds
    while any(map(runs, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(runs, pids))
