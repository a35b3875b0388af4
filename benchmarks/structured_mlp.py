"""The MLPs of a model with half their channels against the dense ones, as ratios of tokens/s
measured in one run.

    python benchmarks/structured_mlp.py [model] [tokens ...]
        # default: the bundled model and a wide one, 1 8 64 512 tokens

`pruning.structured.prune_mlp` makes the smaller model, an ordinary one; then only the MLPs of all
its blocks run, on random states. They take turns; the ratio is that of the medians. One thread, so
that a small product is not slowed down by sharing it out; its seconds are those of the processor,
so that other programs do not count. Two more columns:
the same channels at zero, not cut out, which saves nothing; and one channel instead of half of
them, the most that cutting could give here, since the calls themselves take time too. The wide
model has random weights.
"""

import copy
import statistics
import sys
import time

import torch

from course_utils.models import load, train, walk
from course_utils.models.data import token_windows
from course_utils.pruning import anatomy, structured

GOAL, FROM = 1.6, 64  # times the dense part, at this many tokens and above
ROUNDS = 41


def mlp_of(block, parts):
    """The part of a block that holds the MLP's layers: block.mlp, or fc1, activation and fc2 of OPT
    as one function.
    """
    if "." in parts.mlp_out:
        return block.get_submodule(parts.mlp_out.partition(".")[0])
    return lambda x: block.fc2(block.activation_fn(block.fc1(x)))


def masked(model, kept):
    """A copy of the dense model in which the channels that are not kept are zero."""
    parts, work = anatomy.of(model), copy.deepcopy(model)
    for block, channels in zip(walk.blocks(work), kept, strict=True):
        weight = walk.weight_of(block.get_submodule(parts.mlp_out))
        gone = torch.ones(weight.shape[1], dtype=torch.bool)
        gone[channels] = False
        weight[:, gone] = 0
        for name in parts.mlp_in:
            walk.weight_of(block.get_submodule(name))[gone] = 0
    return work


@torch.no_grad()
def seconds(mlps, x) -> float:
    began = time.process_time()
    for mlp in mlps:
        mlp(x)
    return time.process_time() - began


def compare(name: str, model, calibration: torch.Tensor, sizes: list[int]) -> bool:
    """Print a line for each number of tokens; whether the goal is met from FROM tokens on."""
    half = structured.prune_mlp(model, calibration, keep=0.5)
    one = structured.prune_mlp(model, calibration, keep=1, score="magnitude", compensate=False)
    models = {
        "dense": model,
        "half": half.model,
        "zeros": masked(model, half.details["kept"]),
        "one": one.model,
    }
    mlps = {kind: [mlp_of(b, anatomy.of(m)) for b in walk.blocks(m)] for kind, m in models.items()}
    width = model.config.hidden_size
    print(
        f"{name}: {width} wide, {half.settings['channels']} of {half.settings['of']} channels; "
        "tokens/s of the dense MLPs = 1"
    )
    print("tokens  half the channels  half at zero  one channel")
    met = True
    for tokens in sizes:
        x = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0))
        runs = [[seconds(mlps[kind], x) for kind in models] for _ in range(ROUNDS)]
        dense, fewer, zeros, floor = (
            statistics.median(column) for column in zip(*runs, strict=True)
        )
        met = met and (tokens < FROM or dense / fewer >= GOAL)
        print(
            f"{tokens:6}  {dense / fewer:17.2f}  {dense / zeros:12.2f}  {dense / floor:11.2f}",
            flush=True,
        )
    return met


def main(name: str | None, sizes: list[int]) -> int:
    torch.set_num_threads(1)
    model, tokenizer = load(name or "bundled")
    met = compare(name or "bundled", model, token_windows(tokenizer, "train", 4, 128, 0), sizes)
    if name is None:
        wide = train.build(
            vocabulary=len(tokenizer), hidden=1024, layers=2, heads=8, kv_heads=8, mlp=2816, seed=0
        ).eval()
        met = (
            compare("random weights", wide, token_windows(tokenizer, "train", 1, 64, 0), sizes)
            and met
        )
    print(
        f"{'goal met' if met else 'goal missed'}: {GOAL} times the dense part at "
        f"{FROM} tokens and more"
    )
    return int(not met)


if __name__ == "__main__":
    raise SystemExit(
        main(
            sys.argv[1] if len(sys.argv) > 1 else None,
            [int(a) for a in sys.argv[2:]] or [1, 8, 64, 512],
        )
    )
