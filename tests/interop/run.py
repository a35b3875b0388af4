"""Exchange GPTQ checkpoints with other tools and compare logits.

    make interop                     auto-gptq 0.7.1, in both directions
    make interop PEER=transformers   transformers' GPTQ loader, which uses GPTQModel's kernels; reads ours

Or: PYTHONPATH=tests/common python tests/interop/run.py [--peer NAME] [--kinds llama opt gpt2 qwen2]. Each peer has an
environment of its own, made on the first run in .interop beside pyproject.toml; auto-gptq is archived and needs
transformers 4. Prints tables and ends with status 1 if any case differs by more than LIMIT, or if a checkpoint that was
altered on purpose does not.
"""

import argparse
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from wide_models import MODELS
from wide_models import tiny as plain

from course_utils.checkpoints import gptq as layout
from course_utils.errors import CompressionError
from course_utils.quantization import QuantizedLinear, gptq

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / ".interop"
PEERS = {  # packages, and the script that runs beside them
    "auto-gptq": (
        (f"torch=={torch.__version__.split('+')[0]}", "auto-gptq==0.7.1", "transformers==4.49.0", "datasets==3.6.0",
         "peft==0.14.0", "accelerate==1.5.0", "huggingface-hub==0.36.2"), "theirs.py",
    ),
    "transformers": (("gptqmodel==7.7.0", "transformers==5.23.0", "optimum==2.3.0", "accelerate==1.15.0"), "loader.py"),
}  # fmt: skip
LIMIT = 1e-3  # ‖theirs − ours‖ / ‖ours‖ over all logits
REFUSED = "refused by our writer: a group has the zero point 0, which the format cannot hold"
# GPTQModel 7.7.0's kernel for 4 bits on AVX-512 gives other numbers for whole rows; other bits and auto-gptq do not
KNOWN = {("transformers", 4, -1)}
BITS, GROUPS, ORDERS, SYMMETRIES = (2, 3, 4, 8), (-1, 32, 64, 128), (False, True), (False, True)


def environment(peer: str) -> Path:
    """The Python of an environment that holds the peer; made once for a set of pins."""
    pins = PEERS[peer][0]
    wanted = hashlib.sha256("\0".join((sys.version, *pins)).encode()).hexdigest()
    folder = FOLDER / peer
    python, stamp = folder / "bin" / "python", folder / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {folder} (some minutes)", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        first = [pins[0]] if pins[0].startswith("torch==") else ["torch"]  # their builds look for it
        subprocess.run([*pip, *first, "numpy", "setuptools", "wheel"], check=True)
        subprocess.run([*pip, "--no-build-isolation", *pins], check=True, env={**os.environ, "BUILD_CUDA_EXT": "0"})
        stamp.write_text(wanted)
    return python


def tiny(kind: str) -> torch.nn.Module:
    """A random model in which biases and norms matter too."""
    model = plain(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def ask_them(peer: str, jobs: list[dict], work: Path) -> list[str]:
    """Let the peer's script do the jobs in one process; for each an empty string, or what went wrong."""
    (work / "jobs.json").write_text(json.dumps(jobs))
    environ = {
        **os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "TORCHDYNAMO_DISABLE": "1"
    }  # fmt: skip
    script = PEERS[peer][1]
    done = subprocess.run(
        [environment(peer), HERE / script, work / "jobs.json"], env=environ, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-3000:]}")
    return json.loads((work / "answers.json").read_text())


def gap(theirs: Path, ours: torch.Tensor) -> float:
    return float((load_file(theirs)["logits"] - ours).norm() / ours.norm())


@torch.no_grad()
def ours_read_by_them(peer: str, kind: str, ids: torch.Tensor, work: Path) -> dict:
    """(bits, symmetric, act-order, group) → relative difference, or what went wrong."""
    found: dict = {}
    model, cases, logits, jobs = tiny(kind), [], [], []
    for bits, symmetric, order, size in itertools.product(BITS, SYMMETRIES, ORDERS, GROUPS):
        result = gptq.quantize(model, ids, bits=bits, group_size=size, symmetric=symmetric, act_order=order)
        folder = work / f"{bits}-{symmetric}-{order}-{size}"
        if any((m.grid().zero_point == 0).any() for m in result.model.modules() if isinstance(m, QuantizedLinear)):
            found[bits, symmetric, order, size] = REFUSED
            try:
                layout.write(result, folder)
            except CompressionError:
                continue
            sys.exit(f"{folder.name}: a zero point of 0 was written, which auto-gptq reads as {2**bits}.")
        layout.write(result, folder, dtype=torch.float32)
        cases.append((bits, symmetric, order, size))
        logits.append(result.model(input_ids=ids).logits)
        jobs.append({"do": "read", "folder": str(folder), "out": f"{folder}.logits"})
    altered = work / "altered"  # a control: what is wrong must be seen
    shutil.copytree(jobs[-1]["folder"], altered)
    tensors = load_file(altered / "model.safetensors")
    name = next(key for key in tensors if key.endswith(".scales"))
    save_file({**tensors, name: 2 * tensors[name]}, altered / "model.safetensors", metadata={"format": "pt"})
    *errors, unread = ask_them(peer, [*jobs, {"do": "read", "folder": str(altered), "out": f"{altered}.logits"}], work)
    if unread or gap(Path(f"{altered}.logits"), logits[-1]) < 10 * LIMIT:
        sys.exit(f"{kind}: a checkpoint with doubled scales gave the same logits, or none ({unread}); this test sees nothing.")
    for case, job, exact, error in zip(cases, jobs, logits, errors, strict=True):
        found[case] = error or gap(Path(job["out"]), exact)
    return found


@torch.no_grad()
def theirs_read_by_us(peer: str, kind: str, ids: torch.Tensor, work: Path) -> dict:
    tiny(kind).save_pretrained(work / "plain")
    cases = list(itertools.product((2, 3, 4, 8), (False, True), (False, True), (-1, 64)))
    jobs = [
        {"do": "make", "plain": str(work / "plain"), "folder": str(work / f"theirs-{i}"), "out": str(work / f"theirs-{i}.logits"),
         "bits": bits, "symmetric": symmetric, "order": order, "group": size}
        for i, (bits, symmetric, order, size) in enumerate(cases)
    ]  # fmt: skip
    found: dict = {}
    for case, job, error in zip(cases, jobs, ask_them(peer, jobs, work), strict=True):
        try:
            found[case] = error or gap(Path(job["out"]), layout.read(job["folder"])(input_ids=ids).logits)
        except ValueError as problem:
            found[case] = str(problem)
    return found


def cell(found: float | str) -> str:
    if isinstance(found, str):
        return "refused" if found == REFUSED else "FAILED"
    return f"{found:.1e}{'' if found < LIMIT else ' !'}"


def show(title: str, found: dict, peer: str) -> tuple[int, int]:
    """Print a line for each (bits, symmetric, order), a column for each group size.

    Returns how many cases differ without being known to, and how many were refused or are known to differ.
    """
    sizes = sorted({case[3] for case in found})
    print(f"\n{title}\nbits  grid        act-order  " + "".join(f"group {size:<6}" for size in sizes))
    for bits, symmetric, order in sorted({case[:3] for case in found}):
        cells = "".join(f"{cell(found[bits, symmetric, order, size]):<12}" for size in sizes)
        print(f"{bits:<6}{'symmetric' if symmetric else 'asymmetric':<12}{'yes' if order else 'no':<11}{cells}")
    for message in sorted({c for c in found.values() if isinstance(c, str)}):
        print(f"  {sum(c == message for c in found.values())} × {message}")
    known = {case for case in found if (peer, case[0], case[3]) in KNOWN}
    if known:
        print(f"  {len(known)} × known to differ, see docs/interop.md")
    set_aside = {case for case, c in found.items() if c == REFUSED} | known
    return sum(isinstance(c, str) or not c < LIMIT for case, c in found.items() if case not in set_aside), len(set_aside)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="auto-gptq", choices=list(PEERS))
    parser.add_argument("--kinds", nargs="+", default=list(MODELS), choices=list(MODELS))
    asked, began = parser.parse_args(), time.perf_counter()
    environment(asked.peer)
    print(f"environment ready after {time.perf_counter() - began:.0f} s", flush=True)
    ids = torch.randint(64, (8, 32), generator=torch.Generator().manual_seed(0))
    directions = {f"ours, read by {asked.peer}": ours_read_by_them}
    if asked.peer == "auto-gptq":
        directions["auto-gptq's, read here"] = theirs_read_by_us
    failures = aside = total = 0
    for kind, (what, run) in itertools.product(asked.kinds, directions.items()):
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            save_file({"ids": ids}, work / "ids.safetensors")
            found = run(asked.peer, kind, ids, work)
        differ, set_aside = show(f"{kind}: {what}; relative difference of the logits", found, asked.peer)
        failures, aside, total = failures + differ, aside + set_aside, total + len(found)
    agree = total - failures - aside
    seconds = time.perf_counter() - began
    print(f"\n{agree} of {total} cases agree within {LIMIT:g}, {aside} refused or known, {failures} differ ({seconds:.0f} s)")
    return int(failures > 0 or agree < 0.9 * total)


if __name__ == "__main__":
    sys.exit(main())
