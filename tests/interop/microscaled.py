"""MXFP4 and NVFP4 files and compressed-tensors, with which transformers reads them.

Called by run.py.

Both ways: transformers loads ours, the weights expanded at once in FP32 or at the first pass in
BF16; and files that compressed-tensors made are read here. The package computes weights in BF16:
those of MXFP4 are exact there, those of NVFP4 are not.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from greedy import PROMPTS
from peers import tiny
from safetensors.torch import load_file, save_file

from course_utils import models
from course_utils.checkpoints import compressed_tensors as layout
from course_utils.errors import CompressionError
from course_utils.evaluation import answers
from course_utils.models import walk
from course_utils.quantization import microscaling

KINDS, SCHEMES = ("llama", "opt", "qwen2"), ("MXFP4", "NVFP4")
# ‖theirs − ours‖ / ‖ours‖ of logits: with the same weights in FP32, and with all of it in BF16
EXACT, BF16 = 1e-6, 2e-2
HALF_ULP = 2.0**-8  # what rounding a weight to BF16 may change, relative to it


@torch.no_grad()
def compare(ask: Callable[[list[dict], Path], list[str]], work: Path) -> tuple[int, int]:
    """Print a line for each case; (cases, failures)."""
    ids = torch.randint(64, (4, 32), generator=torch.Generator().manual_seed(0))
    save_file({"ids": ids}, work / "ids.safetensors")
    jobs, cases = [], []
    for kind in KINDS:
        model = tiny(kind)
        model.save_pretrained(work / kind)
        for scheme in SCHEMES:
            folder = work / f"{kind}-{scheme}"
            made = microscaling.quantize(
                model, scheme=scheme, four_over_six=scheme == "NVFP4"
            ).model
            layout.write(made, folder, dtype=torch.float32)
            for at_once in (True, False):
                jobs.append(
                    {"folder": str(folder), "out": f"{folder}-{at_once}.out", "dequantize": at_once}
                )
                cases.append(
                    (
                        f"{kind} {scheme} ours, {'FP32' if at_once else 'BF16'}",
                        lambda made=made: made,
                        scheme,
                        at_once,
                    )
                )
            folder = work / f"theirs-{kind}-{scheme}"
            jobs.append(
                {
                    "make": f"{scheme}A16",
                    "plain": str(work / kind),
                    "folder": str(folder),
                    "out": f"{folder}.out",
                }
            )
            cases.append(
                (
                    f"{kind} {scheme} theirs, read here",
                    lambda folder=folder: layout.read(folder),
                    scheme,
                    True,
                )
            )
    real, expected = smollm2(work)
    jobs += real
    cases += [("smollm2 MXFP4 ours, greedy text", lambda: None, "", True) for _ in real]
    altered = work / "altered"  # a control: what is wrong must be seen
    shutil.copytree(jobs[0]["folder"], altered)
    tensors = load_file(altered / "model.safetensors")
    name = next(key for key in tensors if key.endswith(".weight_scale"))
    save_file(
        {**tensors, name: tensors[name] + 1},
        altered / "model.safetensors",
        metadata={"format": "pt"},
    )
    *errors, unread = ask([*jobs, {"folder": str(altered), "out": f"{altered}.out"}], work)
    failures, first = 0, cases[0][1]()
    for job, answer, (case, model_of, scheme, at_once) in zip(jobs, errors, cases, strict=True):
        if job in real:
            wrong = answer or otherwise(load_file(job["out"])["greedy"], expected[job["folder"]])
        else:
            wrong = answer or apart(load_file(job["out"]), model_of(), ids, scheme, at_once)
        print(f"{case:36} {wrong or 'agrees'}", flush=True)
        failures += bool(wrong)
    if unread or not apart(load_file(f"{altered}.out"), first, ids, "MXFP4", True):
        print(
            f"a checkpoint with doubled scales gave the same weights, or none ({unread}); "
            "this test sees nothing"
        )
        failures += 1
    return len(jobs), failures


@torch.no_grad()
def smollm2(work: Path, n: int = 50) -> tuple[list[dict], dict[str, list[list[int]]]]:
    """(jobs, folder → greedy text as token ids) of the real model in MXFP4, where `make real` has
    brought it.

    Not in NVFP4, whose weights the package rounds to BF16: nearly equal tokens could change places.
    """
    try:
        model, words = models.load("smollm2")
    except CompressionError as error:
        print(error)
        return [], {}
    made, folder = microscaling.quantize(model, scheme="MXFP4"), work / "smollm2"
    layout.write(made, folder, words, dtype=torch.float32)
    prompts = [words(prompt)["input_ids"] for prompt in PROMPTS["smollm2"]]
    layers = [
        (name, m)
        for name, m in made.model.named_modules()
        if isinstance(m, microscaling.MicroscaledLinear)
    ]
    for name, layer in layers:  # made once: such a layer unpacks its weight at each call
        dense = torch.nn.Linear(*reversed(layer.weight.shape), bias=False, device="meta")
        dense.weight = torch.nn.Parameter(layer.weight)
        walk.replace(made.model, name, dense)
    texts = answers.greedy(made.model, prompts, n, set(), lambda _: False)
    job = {
        "folder": str(folder),
        "out": f"{folder}.out",
        "dequantize": True,
        "prompts": prompts,
        "n": n,
    }
    return [job], {job["folder"]: texts}


def otherwise(found: torch.Tensor, expected: list[list[int]]) -> str:
    same = sum(theirs == ours for theirs, ours in zip(found.tolist(), expected, strict=True))
    return (
        ""
        if same == len(expected)
        else f"{same} of {len(expected)} texts of {found.shape[1]} tokens are the same"
    )


def apart(
    found: dict[str, torch.Tensor],
    ours: torch.nn.Module,
    ids: torch.Tensor,
    scheme: str,
    at_once: bool,
) -> str:
    """What differs more than it may, or nothing.

    In FP32 and MXFP4 every weight has to be the same.
    """
    layers = {
        n: m for n, m in ours.named_modules() if isinstance(m, microscaling.MicroscaledLinear)
    }
    for name, layer in layers.items():
        off = (found[f"{name}.weight"] - layer.weight).abs()
        allowed = 0.0 if scheme == "MXFP4" else HALF_ULP
        if (off > allowed * layer.weight.abs()).any():
            return (
                f"{name}: a weight differs by "
                f"{float((off / layer.weight.abs().clamp(min=1e-30)).max()):.1e} of itself"
            )
    logits = ours(input_ids=ids).logits
    gap = float((found["logits"] - logits).norm() / logits.norm())
    limit = EXACT if at_once and scheme == "MXFP4" else BF16
    return "" if gap < limit else f"logits differ by {gap:.1e}"
