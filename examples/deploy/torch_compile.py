"""torch.compile: python examples/deploy/torch_compile.py

Fuses what stands between the products, and compiles it for this machine. Weights stay in the
precision that the model has.
"""

import sys

import common
import torch

NAME, NEEDS = "torch.compile", "torch"
WITHOUT = (
    "It comes with PyTorch and needs a C++ compiler; without one run the model as it is, "
    "with the same results."
)


def make(work):
    compiled = torch.compile(common.plain(), dynamic=False, fullgraph=True)
    size = sum(p.nbytes for p in set(common.plain().parameters()))
    return common.Made(
        size,
        lambda row: compiled(input_ids=row, use_cache=False).logits,
        "Our rounded weights in FP32, one graph; nothing is written.",
    )


if __name__ == "__main__":
    common.main(sys.modules[__name__])
