"""ONNX Runtime: python examples/deploy/onnx_runtime.py

Our codes and scales stand in the graph (DequantizeLinear), and are read back from it.
"""

import sys

import common
import torch

from course_utils.checkpoints import onnx

NAME, NEEDS = "ONNX Runtime", "onnxruntime"
WITHOUT = (
    "Install the extra `deploy` (onnx, onnxruntime, onnxscript); files can be written without "
    "a runtime and run elsewhere."
)


def export(work):
    """model.onnx with INT8 weights; OpenVINO and TensorRT read it too."""
    file = work / "model.onnx"
    if not file.exists():
        onnx.write(common.small(), work / "float.onnx")
        onnx.with_codes(work / "float.onnx", file, common.small())
    return file


def make(work):
    file = export(work)
    ours = {
        (m.codes.short() - 128).to(torch.int8).numpy().tobytes() for m in common.layers().values()
    }
    assert {codes.numpy().tobytes() for codes, _ in onnx.codes_in(file)} == ours, (
        "the file holds other codes"
    )
    session = onnx.session(file)  # products in float32
    run = lambda row: session.run(["logits"], {"input_ids": row.numpy()})[0]  # noqa: E731
    return common.Made(
        file.stat().st_size,
        run,
        f"Our codes of {len(ours)} layers, read back from the file bit for bit.",
    )


if __name__ == "__main__":
    common.main(sys.modules[__name__])
