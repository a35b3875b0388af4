"""Submissions that take what they can of the grader, and what each costs: memory of its processes,
and time.

python tests/common/hostile.py --write docs/attacks.md
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import attacks
import grading

from course_utils.grade import lab, sandbox

LIMITS = sandbox.Limits(cell=15, call=15, total=60, cpu=100)
MOST = 1024  # megabytes
HOSTILE = {  # the answer to hessian is wrong and takes what it can; pack and double are right
    "the solution's function on a wide matrix": {
        "hessian": "raise ValueError",
        "double": (
            "def double(x):\n    try:\n        hessian(torch.ones(1, 14000))\n"
            "    except ValueError:\n        pass\n    return 2 * x"
        ),
    },
    "the solution's function on many matrices": {
        "hessian": "raise ValueError",
        "double": (
            "def double(x):\n"
            "    for n in range(200):\n        try:\n            hessian(torch.ones(2000, 2000))\n"
            "        except Exception:\n            pass\n    return 2 * x"
        ),
    },
    "a result that is large": {
        "hessian": "def hessian(x):\n    return torch.ones(15_000_000, dtype=torch.float32)"
    },
    "a result that is larger": {
        "hessian": "def hessian(x):\n    return torch.ones(40_000_000, dtype=torch.float64)"
    },
    "a result that is widened": {
        "hessian": "def hessian(x):\n    return torch.ones(63_000_000, dtype=torch.uint8)"
    },
    "results that are large": {
        "hessian": "def hessian(x):\n    return [torch.ones(3_000_000) for _ in range(5)]"
    },
    "a list of ones": {"hessian": "def hessian(x):\n    return [1.0] * 4_000_000"},
    "a large mapping": {
        "hessian": "def hessian(x):\n    return {n * (2**61 - 1): 1 for n in range(300_000)}"
    },
    "a mapping that collides": {
        "hessian": "def hessian(x):\n    return {n * (2**61 - 1): 1 for n in range(4_000)}"
    },
    "a deep nest": {
        "hessian": (
            "def hessian(x):\n"
            "    nest = []\n    for _ in range(800):\n        nest = [nest]\n    return nest"
        )
    },
    "names of functions that there are none of": {
        "hessian": "raise ValueError",
        "double": (
            "import gc\nfrom course_utils.grade.worker import Worker\n"
            "(mine,) = [o for o in gc.get_objects() if isinstance(o, Worker)]\n"
            "def double(x):\n    for n in range(15):\n"
            "        try:\n            mine._call_back('x' * (7 << 20) + str(n), (), {})\n"
            "        except ValueError:\n            pass\n    return 2 * x"
        ),
    },
    "a storm of calls": {
        "hessian": "raise ValueError",
        "double": (
            "def double(x):\n"
            "    for n in range(10**6):\n        hessian(torch.ones(2, 2))\n    return 2 * x"
        ),
    },
}
SENT = (
    "from course_utils.grade import worker\n{change}\ndef hessian(x):\n    raise ValueError('x')\n"
)
FORGED = {
    "an error without its parts": "worker.explain = lambda error: {}",
    "an error that is none": "worker.explain = lambda error: 5",
    "an error with parts of other kinds": (
        "worker.explain = lambda error: {'type': [], 'said': {}, 'line': 'x', 'source': 3}"
    ),
    "a line that is a flood": (
        "worker.explain = lambda error: {'type': 'V' * 10**6, 'said': 's' * 10**6, 'line': "
        "10**30, 'source': 'q' * 10**6}"
    ),
    "a name of 30 MB": "worker.signature = lambda f: [['n' * (30 << 20), 1, False]]",
    "a nest 100,000 deep": (
        "import json\nworker.wire.json.dumps = lambda c, real=json.dumps: real({**c, 'value': "
        "0}).replace('\"value\": 0', '\"value\": ' + '[\"list\", [' * 100_000 + ']]' * 100_000)"
    ),
    "a name of 7 MB": "worker.signature = lambda f: [['n' * (7 << 20), 1, False]]",
    "a kind of 7 MB": (
        "worker.Worker._encode = lambda self, value, given: ['function', 0, 'k' * (7 << 20), None]"
    ),
    "nothing but brackets": (
        "import json\nworker.wire.json.dumps = lambda c, real=json.dumps: "
        "'[' * 100_000 if 'error' in c else real(c)"
    ),
    "a dataclass of nothing": (
        "worker.Worker._encode = lambda self, value, given: ['dataclass', 'Grid', {}]"
    ),
    "a dataclass that is none": (
        "worker.Worker._encode = lambda self, value, given: ['dataclass', 'nothing', {}]"
    ),
    "tensors that are none": (
        "worker.wire.save_tensors = lambda t: [b'\\xff' * 64]\nworker.explain = lambda e: {}"
    ),
}

FILES = {  # changes of a notebook that is right otherwise
    "500,000 empty lines in each cell": attacks.newlines,
    "900,000 spaces in a line": attacks.spaces,
    "90,000 helpers in a cell": attacks.many_helpers,
    "3,000 copies of a cell": attacks.answers_marked_often,
    "80 MB of outputs": attacks.much_output,
    "300,000 cells": lambda notebook: notebook["cells"].extend(
        [{**grading.by_id(notebook)["imports"], "metadata": {}}] * 300_000
    ),
    "49 MB in one cell": lambda notebook: grading.by_id(notebook)["written"].update(
        source="word " * 9_800_000
    ),
    "49 MB of metadata": lambda notebook: notebook["metadata"].update(x=[[]] * 12_000_000),
}
SECTION = "## What hostile submissions cost"
HEAD = f"""{SECTION}
Made by `python tests/common/hostile.py --write docs/attacks.md` with {LIMITS.total:g} s for a submission and {LIMITS.call:g} s for a call;
`make test` grades the first table's submissions and holds them to 1 GB and their time.
Memory is the largest resident size of the process of the grader that looks at the submission (what it has in common with the
others counts, about 450 MB), not of the sandboxed worker. The seconds under "learner" were spent waiting for the learner's
code; each result says so.

"""  # noqa: E501
GRADER = """
import json, re, sys, time
from pathlib import Path
from course_utils.grade import lab, run, sandbox

root, course, name, limits = sys.argv[1:]
began = time.monotonic()
run.run(Path(root), Path(course), lab.load(Path(root), name), jobs=2, seed=7, limits=sandbox.Limits(**json.loads(limits)),
        kind="namespaces", book=False, progress=False)
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10  # getrusage counts who started it, too
print(json.dumps([peak, time.monotonic() - began]))
"""  # noqa: E501


def hand_in(course: Path, opened: lab.Lab) -> None:
    for name, answers in HOSTILE.items():
        grading.hand_in(course, opened, name, grading.submit(opened, answers))
    for name, change in FORGED.items():
        grading.hand_in(
            course, opened, name, grading.submit(opened, {"hessian": SENT.format(change=change)})
        )


def grade(
    course: Path, opened: lab.Lab, limits: sandbox.Limits = LIMITS
) -> tuple[dict[str, dict], int, float]:
    """Results, megabytes and seconds of a grader as it is started: this process may be large
    already.
    """
    words = [
        sys.executable,
        "-c",
        GRADER,
        str(opened.folder.parents[1]),
        str(course),
        opened.name,
        json.dumps(asdict(limits)),
    ]
    done = subprocess.run(words, check=True, timeout=900, stdout=subprocess.PIPE, text=True)
    megabytes, seconds = json.loads(done.stdout.splitlines()[-1])
    found = {
        p.stem: json.loads(p.read_bytes()) for p in (course / "grades" / opened.name).glob("*.json")
    }
    return found, megabytes, seconds


def row(name: str, result: dict) -> str:
    learner = sum(result["used"]["learner's seconds"].values())
    return (
        f"| {name} | {result['used']['megabytes of the grader']} | {result['seconds']:.1f} | "
        f"{learner:.1f} | {result['score']:g} |"
    )


def section() -> str:
    with tempfile.TemporaryDirectory() as folder:
        opened = lab.load(grading.make_root(Path(folder, "root")), grading.LAB)
        hand_in(Path(folder, "class"), opened)
        found, megabytes, _ = grade(Path(folder, "class"), opened)
        lines = ["| reply or answer | MB | seconds | learner | score |", "|---|---|---|---|---|"]
        lines += [row(name, found[name]) for name in HOSTILE | FORGED]
        lines += [
            "",
            f"The process that starts the judges and keeps their results: {megabytes} MB.",
            "",
        ]
        lines += [
            (
                "| file | MB of the process that reads it | MB of its judge | "
                "seconds of the run | score |"
            ),
            "|---|---|---|---|---|",
        ]
        for n, (name, change) in enumerate(FILES.items()):
            course = Path(folder, f"file-{n}")
            grading.hand_in(
                course, opened, "one", grading.changed(grading.submit(opened, {}), change)
            )
            found, megabytes, seconds = grade(course, opened)
            judge = found["one"]["used"]["megabytes of the grader"]
            lines.append(
                f"| {name} | {megabytes} | {judge} | {seconds:.1f} | {found['one']['score']:g} |"
            )
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    text = section()
    print(text)
    if options.write:
        before = options.write.read_text(encoding="utf-8").partition(f"\n{SECTION}")[0]
        options.write.write_text(f"{before.rstrip()}\n\n{text}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
