"""ExecuTorch with XNNPACK, for phones: python examples/deploy/executorch_xnnpack.py

The model is exported for passes of one length and lowered to XNNPACK's products; the file runs
without Python.
"""

import sys

import common
import torch

NAME, NEEDS = "ExecuTorch (XNNPACK)", "executorch"
WITHOUT = (
    "Install executorch (`make deploy` does); on a phone its runtime is a library of the app, "
    "and for iOS and Android alone Core ML and LiteRT are others."
)


def make(work):
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    program = torch.export.export(
        common.Logits(common.plain()), (common.windows()[:1],), strict=False
    )
    lowered = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()]
    ).to_executorch()
    (work / "model.pte").write_bytes(lowered.buffer)
    method = Runtime.get().load_program(work / "model.pte").load_method("forward")
    return common.Made(
        (work / "model.pte").stat().st_size,
        lambda row: method.execute([row])[0],
        "Our rounded weights in FP32.",
    )


if __name__ == "__main__":
    common.main(sys.modules[__name__])
