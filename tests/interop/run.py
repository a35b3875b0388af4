"""Exchange checkpoints and weights with other tools, and compare.

    make interop                     auto-gptq 0.7.1, in both directions
    make interop PEER=transformers   transformers' GPTQ and AWQ loaders and GPTQModel
    make interop PEER=compressed-tensors   transformers reads our MXFP4 and NVFP4 files, and we
                                           those of compressed-tensors
    make interop PEER=autoawq        AutoAWQ 0.2.9 unpacks the weights of our AWQ checkpoints
    make interop PEER=llama.cpp      llama.cpp runs our GGUF files: the same tokens and the same
                                     greedy text (greedy.py)
    make interop PEER=torchao        INT8 and INT4 weights of the bundled model: codes, scales,
                                     outputs (weights.py)

Or: PYTHONPATH=tests/common python tests/interop/run.py [--peer NAME] [--kinds llama opt gpt2
qwen2]. Each peer has an environment of its own (peers.py); auto-gptq is archived and needs
transformers 4. Prints tables and ends with status 1 if any case differs by more than its limit, or
if a checkpoint that was altered on purpose does not.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import greedy
import microscaled
import torch
import weights
from peers import PEERS, ask, environment, gap, tiny
from safetensors.torch import load_file, save_file
from wide_models import MODELS

from course_utils import models
from course_utils.checkpoints import awq as awq_layout
from course_utils.checkpoints import gptq as layout
from course_utils.errors import CompressionError
from course_utils.quantization import QuantizedLinear, awq, gptq

LIMIT = 1e-3  # ‖theirs − ours‖ / ‖ours‖ over all logits
HALF = 2e-3  # the same where they compute everything in half precision
REFUSED = (
    "refused by our writer in the format 'gptq', which cannot hold a zero point of 0 "
    "(by default it writes 'gptq_v2')"
)
KNOWN = (
    "known: GPTQModel 7.7.0's kernels for whole rows of 4 bits give other numbers; "
    "auto-gptq and AutoAWQ read them rightly"
)
CANNOT = "known: transformers 5.23.0 does not load GPT-2 in this format"
NO_AWQ_GPT2 = (
    "known: GPTQModel 7.7.0 cannot make AWQ of GPT-2; its process ends with 'The size of "
    "tensor a (128) must match'"
)
# how each message of transformers' loader ends that does not know GPT-2's Conv1D; the first depends
# on the kernel
MESSAGES = {
    "gptq": ("has no attribute 'normal_'", "object has no attribute 'weight'"),
    "awq": (
        "cannot access local variable 'has_been_replaced' where it is not associated with a value",
    ),
}
BITS, GROUPS, ORDERS, SYMMETRIES = (2, 3, 4, 8), (-1, 32, 64, 128), (False, True), (False, True)


@torch.no_grad()
def ours_read_by_them(peer: str, kind: str, ids: torch.Tensor, work: Path) -> dict:
    """(bits, symmetric, act-order, group) → relative difference, or what went wrong."""
    found: dict = {}
    model, cases, logits, jobs = tiny(kind), [], [], []
    grid = (
        [(4, True, False, 64)]
        if peer == "transformers" and kind == "gpt2"
        else itertools.product(BITS, SYMMETRIES, ORDERS, GROUPS)
    )
    for bits, symmetric, order, size in grid:
        result = gptq.quantize(
            model, ids, bits=bits, group_size=size, symmetric=symmetric, act_order=order
        )
        folder = work / f"{bits}-{symmetric}-{order}-{size}"
        if any(
            (m.grid().zero_point == 0).any()
            for m in result.model.modules()
            if isinstance(m, QuantizedLinear)
        ):
            found[bits, symmetric, order, size] = REFUSED
            try:
                layout.write(result, folder, checkpoint_format="gptq")
            except CompressionError:
                continue
            sys.exit(
                f"{folder.name}: a zero point of 0 was written, which auto-gptq reads as {2**bits}."
            )
        layout.write(result, folder, dtype=torch.float32, checkpoint_format="gptq")
        cases.append((bits, symmetric, order, size))
        logits.append(result.model(input_ids=ids).logits)
        jobs.append({"do": "read", "folder": str(folder), "out": f"{folder}.logits"})
    altered = work / "altered"  # a control: what is wrong must be seen
    shutil.copytree(jobs[-1]["folder"], altered)
    tensors = load_file(altered / "model.safetensors")
    name = next(key for key in tensors if key.endswith(".scales"))
    save_file(
        {**tensors, name: 2 * tensors[name]},
        altered / "model.safetensors",
        metadata={"format": "pt"},
    )
    *errors, unread = ask(
        peer, [*jobs, {"do": "read", "folder": str(altered), "out": f"{altered}.logits"}], work
    )
    if (peer, kind) == ("transformers", "gpt2"):
        return {
            cases[0]: CANNOT
            if errors[0].endswith(MESSAGES["gptq"])
            else errors[0] or "GPT-2 is read now: compare it"
        }
    if unread or gap(Path(f"{altered}.logits"), logits[-1]) < 10 * LIMIT:
        sys.exit(
            f"{kind}: a checkpoint with doubled scales gave the same logits, or none ({unread}); "
            "this test sees nothing."
        )
    for case, job, exact, error in zip(cases, jobs, logits, errors, strict=True):
        found[case] = error or gap(Path(job["out"]), exact)
        # GPTQModel 7.7.0's kernel for 4 bits on AVX-512 gives other numbers for whole rows
        if (
            peer == "transformers"
            and case[0] == 4
            and case[3] == -1
            and not error
            and found[case] > LIMIT
        ):
            found[case] = KNOWN
    return found


@torch.no_grad()
def awq_read_by_them(peer: str, kind: str, ids: torch.Tensor, work: Path) -> dict:
    model, found, cases, jobs = tiny(kind), {}, [], []
    for symmetric, size in itertools.product(SYMMETRIES, (64,) if kind == "gpt2" else GROUPS):
        result = awq.quantize(model, ids, group_size=size, symmetric=symmetric)
        folder = work / f"awq-{symmetric}-{size}"
        awq_layout.write(result, folder, dtype=torch.float32)
        cases.append(((4, symmetric, False, size), result.model(input_ids=ids).logits))
        jobs.append({"do": "read", "folder": str(folder), "out": f"{folder}.logits"})
    for (case, exact), job, error in zip(cases, jobs, ask(peer, jobs, work), strict=True):
        found[case] = error or gap(Path(job["out"]), exact)
        if kind == "gpt2":
            found[case] = (
                CANNOT
                if error.endswith(MESSAGES["awq"])
                else error or "GPT-2 is read now: compare it"
            )
        elif case[3] == -1 and not error and found[case] > LIMIT:
            found[case] = KNOWN
    return found


@torch.no_grad()
def words_read_by_autoawq(peer: str, kind: str, ids: torch.Tensor, work: Path) -> dict:
    """The largest ‖theirs − ours‖ / ‖ours‖ of a layer's weight."""
    model, found, cases, jobs = tiny(kind), {}, [], []
    for symmetric, size in itertools.product(SYMMETRIES, GROUPS):
        result = awq.quantize(model, ids, group_size=size, symmetric=symmetric)
        folder = work / f"words-{symmetric}-{size}"
        awq_layout.write(result, folder)
        cases.append(((4, symmetric, False, size), result.model))
        jobs.append({"folder": str(folder), "out": f"{folder}.weights"})
    for (case, ours), job, error in zip(cases, jobs, ask(peer, jobs, work), strict=True):
        if error:
            found[case] = error
            continue
        layers = {
            name: m.weight for name, m in ours.named_modules() if isinstance(m, QuantizedLinear)
        }
        theirs = load_file(job["out"])
        assert theirs.keys() == layers.keys(), f"{kind}: other layers are quantized"
        found[case] = max(float((theirs[name] - w).norm() / w.norm()) for name, w in layers.items())
    return found


@torch.no_grad()
def ours_loaded_by_gptqmodel(peer: str, kind: str, ids: torch.Tensor, work: Path) -> dict:
    """GPTQModel.load wants a tokenizer in the folder; of others' files it takes asymmetric grids as
    'gptq_v2' only.
    """
    model, (_, tokenizer), found, cases, jobs = tiny(kind), models.load("bundled"), {}, [], []
    for bits, symmetric in itertools.product((4, 8), SYMMETRIES):
        result = gptq.quantize(model, ids, bits=bits, group_size=64, symmetric=symmetric)
        folder = work / f"load-{bits}-{symmetric}"
        layout.write(
            result, folder, tokenizer, checkpoint_format="gptq" if symmetric else "gptq_v2"
        )
        cases.append(((bits, symmetric, False, 64), result.model(input_ids=ids).logits))
        jobs.append({"do": "load", "folder": str(folder), "out": f"{folder}.logits"})
    for (case, exact), job, error in zip(cases, jobs, ask(peer, jobs, work), strict=True):
        found[case] = error or gap(Path(job["out"]), exact)
    return found


@torch.no_grad()
def theirs_read_by_us(
    peer: str, kind: str, ids: torch.Tensor, work: Path, method: str = "gptq"
) -> dict:
    cases = list(itertools.product((2, 3, 4, 8), (False, True), (False, True), (-1, 64)))
    tokenizer = None
    if peer == "transformers":  # GPTQModel takes long, and wants a tokenizer
        cases, tokenizer = [(4, method == "gptq", method == "gptq", 64)], models.load("bundled")[1]
    if (method, kind) == ("awq", "gpt2"):
        return {cases[0]: NO_AWQ_GPT2}
    tiny(kind).save_pretrained(work / "plain")
    if tokenizer is not None:
        tokenizer.save_pretrained(work / "plain")
    jobs = [
        {"do": "make", "plain": str(work / "plain"), "folder": str(work / f"theirs-{i}"),
         "out": str(work / f"theirs-{i}.logits"),
         "bits": bits, "symmetric": symmetric, "order": order, "group": size}
        for i, (bits, symmetric, order, size) in enumerate(cases)
    ]  # fmt: skip
    if peer == "transformers":
        jobs = [{**job, "method": method} for job in jobs]
    found: dict = {}
    for case, job, error in zip(cases, jobs, ask(peer, jobs, work), strict=True):
        try:
            read = awq_layout.read if method == "awq" else layout.read
            found[case] = error or gap(Path(job["out"]), read(job["folder"])(input_ids=ids).logits)
        except ValueError as problem:
            found[case] = str(problem)
    return found


DIRECTIONS = {
    "auto-gptq": {
        "ours, read by auto-gptq": (ours_read_by_them, LIMIT),
        "auto-gptq's, read here": (theirs_read_by_us, LIMIT),
    },
    "autoawq": {"weights of ours, unpacked by AutoAWQ": (words_read_by_autoawq, LIMIT)},
    "transformers": {
        "ours, read by transformers": (ours_read_by_them, LIMIT),
        "ours in AWQ's layout, read by transformers": (awq_read_by_them, LIMIT),
        "ours, loaded by GPTQModel": (ours_loaded_by_gptqmodel, HALF),
        "GPTQModel's, read here and by GPTQModel": (theirs_read_by_us, HALF),
        "GPTQModel's AWQ, read here and by GPTQModel": (
            partial(theirs_read_by_us, method="awq"),
            HALF,
        ),
    },
}


def cell(found: float | str, limit: float) -> str:
    if isinstance(found, str):
        return "refused" if found == REFUSED else "known" if found.startswith("known") else "FAILED"
    return f"{found:.1e}{'' if found < limit else ' !'}"


def show(title: str, found: dict, limit: float) -> tuple[int, int]:
    """Print a line for each (bits, symmetric, order), a column for each group size.

    Returns how many cases differ without being known to, and how many were refused or are known to
    differ.
    """
    sizes = sorted({case[3] for case in found})
    print(
        f"\n{title}\nbits  grid        act-order  " + "".join(f"group {size:<6}" for size in sizes)
    )
    for bits, symmetric, order in sorted({case[:3] for case in found}):
        cells = "".join(f"{cell(found[bits, symmetric, order, size], limit):<12}" for size in sizes)
        print(
            f"{bits:<6}{'symmetric' if symmetric else 'asymmetric':<12}"
            f"{'yes' if order else 'no':<11}{cells}",
            flush=True,
        )
    for message in sorted({c for c in found.values() if isinstance(c, str)}):
        print(f"  {sum(c == message for c in found.values())} × {message}")
    aside = sum(isinstance(c, str) and c.startswith(("known", REFUSED)) for c in found.values())
    return sum(isinstance(c, str) or not c < limit for c in found.values()) - aside, aside


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer", default="auto-gptq", choices=[name for name in PEERS if name != "llm-compressor"]
    )
    parser.add_argument("--kinds", nargs="+", default=list(MODELS), choices=list(MODELS))
    asked, began = parser.parse_args(), time.perf_counter()
    environment(asked.peer)
    print(f"environment ready after {time.perf_counter() - began:.0f} s", flush=True)
    if asked.peer == "llama.cpp":
        with tempfile.TemporaryDirectory() as temporary:
            return greedy.run(partial(ask, "llama.cpp"), Path(temporary))
    others = {
        "torchao": (weights.compare, "layers"),
        "compressed-tensors": (microscaled.compare, "cases"),
    }
    if asked.peer in others:
        run, what = others[asked.peer]
        with tempfile.TemporaryDirectory() as temporary:
            total, failures = run(partial(ask, asked.peer), Path(temporary))
        print(f"\n{total - failures} of {total} {what} agree, {failures} differ")
        return int(failures > 0)
    ids = torch.randint(64, (8, 32), generator=torch.Generator().manual_seed(0))
    failures = aside = total = 0
    for kind, (what, (run, limit)) in itertools.product(
        asked.kinds, DIRECTIONS[asked.peer].items()
    ):
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            save_file({"ids": ids}, work / "ids.safetensors")
            found = run(asked.peer, kind, ids, work)
        differ, set_aside = show(
            f"{kind}: {what}; relative difference, limit {limit:g}", found, limit
        )
        failures, aside, total = failures + differ, aside + set_aside, total + len(found)
    agree = total - failures - aside
    print(
        f"\n{agree} of {total} cases agree, {aside} refused or known, {failures} differ "
        f"({time.perf_counter() - began:.0f} s)"
    )
    return int(failures > 0 or agree == 0)


if __name__ == "__main__":
    sys.exit(main())
