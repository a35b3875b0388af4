"""Grade a synthetic class of lab-3.1-gptq: killed half-way, resumed, once more in one go, and
beside stock nbgrader.

    python benchmarks/grading.py [--submissions 300] [--stock 20] [--jobs 2] [--log FILE]
        (default: 20 and 4)

Asserts that no submission is lost or graded twice and that the scores equal those of the run that
was not killed.
Prints submissions per minute of `course grade --jobs` and of `nbgrader autograde`, which grades one
after the other, and their ratio. Stock nbgrader grades the first `--stock` of the same files, in
four parts that alternate with our runs, so that other programs on the machine slow down both. Its
set-up (the release into its database) is not timed; ours (Python, torch, the model, grading the
solution) is. Stock nbgrader also runs the lab's own figures and comparisons, so all files say `fast
= True`: these are small then.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from course_utils.grade import lab as labs

ROOT = Path(__file__).resolve().parents[1]
LAB = "lab-3.1-gptq"
GOAL = 4.0
NAMES = ["ann", "李雷", "bo", "王芳", "chiara", "zoë", "張偉", "dmitri", "o'neil", "三毛"]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "TQDM_DISABLE": "1",
}

OTHERS = {  # exercise: (another right answer, a wrong one)
    "hessian": (
        "def hessian(x):\n    return 2 * torch.einsum('ti,tj->ij', x, x) / x.shape[0]",
        "def hessian(x):\n    return x.T @ x / len(x)",
    ),
    "inverse-cholesky": (
        (
            "def inverse_cholesky(H):\n"
            "    return torch.linalg.cholesky(torch.linalg.inv(H)).T.contiguous()"
        ),
        "def inverse_cholesky(H):\n    return torch.linalg.cholesky(torch.linalg.inv(H))",
    ),
    "column-update": (
        (
            "def column_update(weight, U, i, quantized):\n    weight = weight.clone()\n"
            "    error = (weight[:, i] - quantized) / U[i, i]\n"
            "    weight[:, i:] -= error[:, None] * U[i, i:][None, :]\n"
            "    weight[:, i] = quantized\n    return weight"
        ),
        (
            "def column_update(weight, U, i, quantized):\n"
            "    moved = weight.clone()\n    moved[:, i] = quantized\n    return moved"
        ),
    ),
    "quantize-layer": (
        (
            "def quantize_layer(weight, H, bits, group_size):\n"
            "    W, U = weight.clone(), torch.linalg.cholesky(torch.linalg.inv(H), upper=True)\n"
            "    codes, scales, zeros = torch.empty_like(W), [], []\n"
            "    for i in range(W.shape[1]):\n"
            "        if i % group_size == 0:\n            part = W[:, i:i + group_size]\n"
            "            s, z = scale_and_zero(part.amin(1), part.amax(1), bits, False)\n"
            "            scales.append(s)\n            zeros.append(z)\n"
            "        codes[:, i] = torch.clamp(torch.round(W[:, i] / s) + z, 0, 2**bits - 1)\n"
            "        error = (W[:, i] - s * (codes[:, i] - z)) / U[i, i]\n"
            "        W[:, i:] -= torch.outer(error, U[i, i:])\n"
            "    return codes.byte(), torch.stack(scales, 1), torch.stack(zeros, 1)"
        ),
        (
            "def quantize_layer(weight, H, bits, group_size):\n"
            "    made = rtn.quantize_layer(weight, bits=bits, group_size=group_size)\n"
            "    return made.codes, made.grid.scale, made.grid.zero_point"
        ),
    ),
    "pack-int4": (
        "def pack_int4(codes):\n    return (codes[:, ::2] + 16 * codes[:, 1::2]).to(torch.uint8)",
        "def pack_int4(codes):\n    return codes[:, 1::2] | (codes[:, 0::2] << 4)",
    ),
    "packed-linear": (
        (
            "def packed_linear(x, packed, scale, zero):\n"
            "    codes = torch.empty(len(packed), 2 * packed.shape[1], dtype=x.dtype)\n"
            "    codes[:, ::2], codes[:, 1::2] = packed % 16, packed // 16\n"
            "    group = torch.arange(codes.shape[1]) // (codes.shape[1] // scale.shape[1])\n"
            "    return x @ ((codes - zero[:, group]) * scale[:, group]).to(x.dtype).T"
        ),
        (
            "def packed_linear(x, packed, scale, zero):\n"
            "    return x @ unpack(packed, 4, 2 * packed.shape[1]).to(x.dtype).T"
        ),
    ),
    "make-checkpoint": (
        (
            "def make_checkpoint(model, calibration, folder, bits, group_size, layer):\n"
            "    made = gptq.quantize(model, calibration, quantize_layer=layer, "
            "group_size=group_size, bits=bits)\n"
            "    made.save(folder)\n"
            "    return sum(f.stat().st_size for f in Path(folder).iterdir()), load(str(folder))"
        ),
        (
            "def make_checkpoint(model, calibration, folder, bits, group_size, layer):\n"
            "    return 0, model"
        ),
    ),
    "act-order": (
        (
            "def act_order(weight, H, bits, group_size):\n"
            "    order = H.diag().sort(descending=True).indices\n"
            "    codes, scale, zero = quantize_layer(weight[:, order], H[order, :][:, order], "
            "bits, group_size)\n"
            "    place = torch.empty_like(order)\n    place[order] = torch.arange(len(order))\n"
            "    return codes[:, place], scale, zero, place // group_size"
        ),
        (
            "def act_order(weight, H, bits, group_size):\n    return (*quantize_layer(weight, H, "
            "bits, group_size), torch.arange(len(H)) // group_size)"
        ),
    ),
}
KINDS = ("the solution", "other right", "one wrong", "three wrong", "half missing", "crashing",
         "noisy", "damaged", "mixed", "no metadata")  # fmt: skip


def submission(lab, n: int) -> bytes:
    """The notebook of learner n: kinds take turns, what varies inside a kind is drawn from n."""
    rng, kind = random.Random(n), KINDS[n % len(KINDS)]
    code = [a.grade_id for a in lab.answers if a.code]
    sources = {a.grade_id: a.source for a in lab.answers}
    if kind in ("other right", "no metadata"):
        sources |= {name: right for name, (right, _) in OTHERS.items()}
    elif kind in ("one wrong", "three wrong"):
        sources |= {
            name: OTHERS[name][1] for name in rng.sample(code, 1 if kind == "one wrong" else 3)
        }
    elif kind == "half missing":
        sources |= {a.grade_id: a.released for a in rng.sample(lab.answers, len(lab.answers) // 2)}
    elif kind == "crashing":
        first, second, third = rng.sample(code, 3)
        sources |= {
            first: "undefined_name + 1",
            second: f"def {second.replace('-', '_')}(*args, **named):\n    return 1 / 0",
        }
        sources[third] += "\n)"
    elif kind == "noisy":
        sources |= {
            name: f"import sys\n{sources[name]}\nprint('x' * 5000, file=sys.stderr)"
            for name in rng.sample(code, 2)
        }
    elif kind == "mixed":
        sources |= {name: rng.choice(pair) for name, pair in OTHERS.items()}
    notebook = json.loads(lab.released)
    for cell in notebook["cells"]:
        name = cell["metadata"].get("nbgrader", {}).get("grade_id")
        cell["source"] = (
            f"{sources[name]}\n# learner {n}"
            if name in code
            else sources.get(name, "".join(cell["source"]))
        )
        cell["source"] = cell["source"].replace("fast = False", "fast = True")
        if kind == "no metadata":
            cell["metadata"] = {}
    content = json.dumps(notebook, ensure_ascii=False, indent=1).encode()
    return content[: int(len(content) * rng.uniform(0.5, 0.9))] if kind == "damaged" else content


def hand_in(course: Path, lab, learners: dict[str, int]) -> None:
    for name, n in learners.items():
        folder = course / "submitted" / name / LAB
        shutil.copytree(lab.folder, folder, ignore=shutil.ignore_patterns("*.ipynb", ".*"))
        (folder / f"{LAB}.ipynb").write_bytes(submission(lab, n))


def results(course: Path) -> dict[str, dict]:
    return {
        path.stem: json.loads(path.read_bytes())
        for path in (course / "grades" / LAB).glob("*.json")
    }


def ours(course: Path, jobs: int, log, stop_at: int = 0) -> float:
    """Seconds of `course grade`; its whole process group is killed when `stop_at` results are on
    the disk.
    """
    command = [
        sys.executable,
        "-m",
        "course_utils.cli",
        "grade",
        LAB,
        "--course",
        str(course),
        "--jobs",
        str(jobs),
        "--seed",
        "1",
    ]
    began = time.monotonic()
    running = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    while stop_at and running.poll() is None:
        if len(list((course / "grades" / LAB).glob("*.json"))) >= stop_at:
            started = psutil.Process(running.pid).children(recursive=True)
            os.killpg(running.pid, signal.SIGKILL)
            assert not psutil.wait_procs(started, timeout=30)[1], "something outlives the grader"
            break
        time.sleep(0.05)
    code = running.wait()
    assert code == (-signal.SIGKILL if stop_at else 0), code
    return time.monotonic() - began


def prepare_stock(course: Path, lab, log) -> None:
    shutil.copytree(lab.folder, course / "source" / LAB, ignore=shutil.ignore_patterns(".*"))
    nbgrader(course, log, "generate_assignment", LAB)


def nbgrader(course: Path, log, *arguments: str) -> float:
    """Seconds of an nbgrader command.

    A submission that it cannot grade is its business, and it goes on with the next.
    """
    began = time.monotonic()
    subprocess.run(
        ["nbgrader", *arguments], cwd=course, stdout=log, stderr=log, env=ENVIRONMENT, check=False
    )
    return time.monotonic() - began


def main(submissions: int, stock: int, jobs: int, log) -> int:
    lab = labs.load(ROOT, LAB)
    learners = {f"{NAMES[n % len(NAMES)]}-{n:03}": n for n in range(submissions)}
    beside = list(learners)[:stock]
    with tempfile.TemporaryDirectory(prefix="class-") as place:
        killed, whole, theirs = (Path(place, name) for name in ("killed", "whole", "theirs"))
        for course, names in ((killed, learners), (whole, learners), (theirs, beside)):
            hand_in(course, lab, {name: learners[name] for name in names})
        prepare_stock(theirs, lab, log)
        parts = [beside[i * stock // 4 : (i + 1) * stock // 4] for i in range(4)]

        def stock_part(i: int) -> float:
            return sum(
                nbgrader(theirs, log, "autograde", LAB, "--student", name) for name in parts[i]
            )

        def timed(what: str, seconds: float) -> float:
            print(f"{what}: {seconds:.0f} s; load average {os.getloadavg()[0]:.1f}", flush=True)
            return seconds

        slow = [timed(f"stock, {len(parts[0])} submissions", stock_part(0))]
        quick = [timed("ours, until killed", ours(killed, jobs, log, stop_at=submissions // 2))]
        kept = {
            p: (p.read_bytes(), p.stat().st_mtime_ns)
            for p in (killed / "grades" / LAB).glob("*.json")
        }
        slow.append(timed(f"stock, {len(parts[1])} submissions", stock_part(1)))
        quick.append(timed(f"ours, the other {submissions - len(kept)}", ours(killed, jobs, log)))
        assert all(
            (p.read_bytes(), p.stat().st_mtime_ns) == before for p, before in kept.items()
        ), "graded twice"
        slow.append(timed(f"stock, {len(parts[2])} submissions", stock_part(2)))
        quick.append(timed(f"ours, all {submissions} in one run", ours(whole, jobs, log)))
        slow.append(timed(f"stock, {len(parts[3])} submissions", stock_part(3)))
        found, again = results(killed), results(whole)
        graded = len(list((theirs / "autograded").glob(f"*/{LAB}/*.ipynb")))
    assert set(found) == set(again) == set(learners), "lost"
    different = [
        name
        for name in learners
        if [c["score"] for c in found[name]["cells"]] != [c["score"] for c in again[name]["cells"]]
    ]
    assert not different and not any("fault" in result for result in found.values()), different
    print(
        f"{submissions} submissions, killed when {len(kept)} were graded, resumed: "
        "none lost, none graded twice, scores as in one run"
    )
    rates = {"ours": 2 * submissions / sum(quick) * 60, "stock": stock / sum(slow) * 60}
    print(
        f"course grade --jobs {jobs}: {rates['ours']:.1f} submissions/minute, "
        "the start of each run included"
    )
    print(
        f"nbgrader autograde: {rates['stock']:.2f} submissions/minute ({stock} submissions, "
        f"of which {graded} did not fail)"
    )
    ratio = rates["ours"] / rates["stock"]
    print(
        f"{'goal met' if ratio >= GOAL else 'goal missed'}: {ratio:.1f} times as many as stock "
        f"nbgrader (goal {GOAL:g})"
    )
    return int(ratio < GOAL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--submissions", type=int, default=20)
    parser.add_argument(
        "--stock", type=int, default=4, help="how many of them stock nbgrader grades; at least 4"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--log",
        type=argparse.FileType("w"),
        default=subprocess.DEVNULL,
        help="what the graders say",
    )
    chosen = parser.parse_args()
    raise SystemExit(main(chosen.submissions, chosen.stock, chosen.jobs, chosen.log))
