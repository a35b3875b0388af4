"""Our INT8 and INT4 weight-only results beside torchao's, on the linear layers of the bundled
model.

Called by run.py.

Both divide the largest magnitude of a symmetric range by half the number of steps, max|w| / 127.5
and max|w| / 7.5; this project then rounds the scale to float16. So codes are compared for equal
scales, in both directions, and what is left are the results of either with its own scale.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from course_utils import models
from course_utils.models import walk
from course_utils.quantization import Grid, LayerResult, QuantizedLinear, dequantize, grids, rtn

# bits, group size, symmetric
SETTINGS = ((8, -1, True), (4, 32, True), (4, 64, True), (4, 64, False))
SAME = 1e-5  # ‖theirs − ours‖ / ‖ours‖ of outputs from the same codes and scales
TIE = 1e-4  # codes may differ where w / s is this close to halfway: torchao multiplies by 1 / s


def agree(
    weight: torch.Tensor, grid: Grid, ours: torch.Tensor, theirs: torch.Tensor
) -> tuple[bool, int]:
    """Whether codes are equal but for ties, and how many ties fell to different sides."""
    steps = weight.double() / grid.scale[:, grid.group_index].double()
    tie = ((steps - steps.floor()) - 0.5).abs() < TIE
    apart = (ours.int() - theirs.int()).abs()
    return bool((apart <= tie.int()).all()), int(apart.sum())


def convention(weight: torch.Tensor, bits: int, group: int, symmetric: bool) -> torch.Tensor:
    """torchao's scale by the formula above, (out, groups); of an asymmetric range (high − low) /
    (2^b − 1), as here.
    """
    groups = weight.view(len(weight), -1, weight.shape[1] if group == -1 else group)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    return (
        torch.maximum(-low, high) / ((2**bits - 1) / 2)
        if symmetric
        else (high - low) / (2**bits - 1)
    )


@torch.no_grad()
def compare(ask: Callable[[list[dict], Path], list[str]], work: Path) -> tuple[int, int]:
    """Print a line for each setting; (cases, failures).

    A case is a layer of the bundled model in one setting.
    """
    model, _ = models.load("bundled")
    g, jobs, cases = torch.Generator().manual_seed(0), [], []
    for bits, group, symmetric in SETTINGS:
        for name, module in walk.compressible(model).items():
            weight = walk.weight_of(module).float().contiguous()
            result = rtn.quantize_layer(weight, bits=bits, group_size=group, symmetric=symmetric)
            half, x = 2 ** (bits - 1), torch.randn(9, weight.shape[1], generator=g)
            file = work / f"{len(jobs)}.safetensors"
            tensors = {
                "weight": weight, "x": x, "codes": (result.codes.int() - half).to(torch.int8),
                "scale": result.grid.scale.float(),
                "zero": (result.grid.zero_point - half).to(torch.int32),
            }  # fmt: skip
            save_file({k: v.contiguous() for k, v in tensors.items()}, file)
            cases.append((name, weight, x, result))
            jobs.append(
                {
                    "bits": bits,
                    "group": group,
                    "symmetric": symmetric,
                    "file": str(file),
                    "out": f"{file}.out",
                }
            )
    answers = ask(jobs, work)
    problems, rows = [], {setting: [] for setting in SETTINGS}
    for job, answer, (name, weight, x, result) in zip(jobs, answers, cases, strict=True):
        setting = (job["bits"], job["group"], job["symmetric"])
        if answer:
            problems.append(f"{setting} {name}: {answer}")
            continue
        wrong, row = judge(weight, x, result, load_file(job["out"]), *setting)
        problems += [f"{setting} {name}: {what}" for what in wrong]
        rows[setting].append(row)
    print(
        "\n"
        f"{'bits':<6}{'group':<7}{'grid':<12}{'layers':<8}{'ties':<6}"
        f"{'same codes and scales':<24}{'error, own scale: theirs':<27}ours"
    )
    for (bits, group, symmetric), found in rows.items():
        if found:
            ties, same, theirs, ours = torch.tensor(found, dtype=torch.float64).T
            print(
                f"{bits:<6}{group:<7}{'symmetric' if symmetric else 'asymmetric':<12}"
                f"{len(found):<8}{int(ties.sum()):<6}"
                f"{f'{float(same.max()):.1e}':<24}"
                f"{f'{float(theirs.mean()):.5f}':<27}{float(ours.mean()):.5f}"
            )
    for problem in problems[:20]:
        print(f"  {problem}")
    return len(jobs), len({problem.rpartition(":")[0] for problem in problems})


def judge(
    weight, x, result: LayerResult, found: dict, bits: int, group: int, symmetric: bool
) -> tuple[list[str], tuple]:
    """What is wrong with one case, and (ties, largest difference with equal scales, their error,
    our error).
    """
    half, wrong, exact = 2 ** (bits - 1), [], x @ weight.T

    def off(y: torch.Tensor, goal: torch.Tensor) -> float:
        return float((y - goal).norm() / goal.norm())

    wanted = convention(weight, bits, group, symmetric)
    if not torch.allclose(found["own.scale"].view_as(wanted), wanted, rtol=1e-5):
        wrong.append("their scale is not the formula's")
    if not torch.allclose(result.grid.scale.view_as(wanted), wanted, rtol=1e-3):
        wrong.append("our scale is not the formula's")
    own = Grid(
        found["own.scale"].view_as(wanted),
        found["own.zero"].view_as(wanted) + float(half),
        result.grid.group_index,
        bits,
        symmetric,
    )
    theirs = found["own.codes"].int() + half
    equal, ties = agree(weight, own, grids.quantize(weight, own), theirs)
    equal_too, ties_too = agree(
        weight, result.grid, result.codes, found["given.codes"].int() + half
    )
    if not equal or not equal_too:
        wrong.append(f"codes differ with {'their' if not equal else 'our'} scales")
    ours = QuantizedLinear.of(result, None)
    read = QuantizedLinear.of(
        LayerResult(theirs.to(torch.uint8), own, dequantize(theirs, own)), None
    )
    same = max(off(found["given.y"], ours(x)), off(found["own.y"], read(x)))
    if not same < SAME:
        wrong.append(f"outputs of the same codes and scales differ by {same:.1e}")
    errors = off(found["own.y"], exact), off(ours(x), exact)
    if not 0.8 < errors[0] / errors[1] < 1.25:
        wrong.append(f"errors {errors[0]:.4f} and {errors[1]:.4f} are not alike")
    return wrong, (ties + ties_too, same, *errors)
