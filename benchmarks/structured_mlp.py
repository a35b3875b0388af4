"""The MLPs of a model with half their channels against the dense ones, as ratios of tokens/s measured in one run.

    python benchmarks/structured_mlp.py [model] [tokens ...]        default: the bundled model, 1 64 512 tokens

`pruning.structured.prune_mlp` makes the smaller model, an ordinary one; then only the MLPs of all its blocks run, on
random states. The two take turns; the ratio is that of the medians. One thread, so that a small product is not
slowed down by sharing it out; its seconds are those of the processor, so that other programs do not count. The same channels at zero, not cut out, are timed as well: they save nothing.
"""

import copy
import statistics
import sys
import time

import torch

from course_utils.models import load, walk
from course_utils.models.data import token_windows
from course_utils.pruning import anatomy, structured

GOAL = 1.6  # at 512 tokens
ROUNDS = 41


def mlp_of(block, parts):
    """The part of a block that holds the MLP's layers: block.mlp, or fc1, activation and fc2 of OPT as one function."""
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


def main(name: str, sizes: list[int]) -> int:
    torch.set_num_threads(1)
    model, tokenizer = load(name)
    pruned = structured.prune_mlp(model, token_windows(tokenizer, "train", 4, 128, 0), keep=0.5)
    models = {"dense": model, "zeros": masked(model, pruned.details["kept"]), "half": pruned.model}
    mlps = {kind: [mlp_of(b, anatomy.of(m)) for b in walk.blocks(m)] for kind, m in models.items()}
    print(
        f"MLPs of {name}, {pruned.settings['channels']} of {pruned.settings['of']} channels: tokens/s of the dense part = 1"
    )
    print("tokens  half the channels  half the channels at zero")
    last = 0.0
    for tokens in sizes:
        x = torch.randn(1, tokens, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
        runs = [[seconds(mlps[kind], x) for kind in models] for _ in range(ROUNDS)]
        dense, zeros, half = (statistics.median(column) for column in zip(*runs, strict=True))
        last = dense / half
        print(f"{tokens:6}  {last:17.2f}  {dense / zeros:25.2f}", flush=True)
    print(
        f"{'goal met' if last >= GOAL else 'goal missed'}: at {sizes[-1]} tokens at least {GOAL} times the dense part"
    )
    return int(last < GOAL)


if __name__ == "__main__":
    raise SystemExit(
        main(sys.argv[1] if len(sys.argv) > 1 else "bundled", [int(a) for a in sys.argv[2:]] or [1, 64, 512])
    )
