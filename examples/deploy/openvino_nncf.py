"""OpenVINO and NNCF: python examples/deploy/openvino_nncf.py

OpenVINO reads our ONNX file; NNCF rounds the original's weights by itself, and they are read here.
"""

import sys

import common
import onnx_runtime
import torch

NAME, NEEDS = "OpenVINO", "openvino"
WITHOUT = "Install openvino and nncf (`make deploy` does), or take ONNX Runtime: it reads the file."
# activations stay in float32
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def runner(model):
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", EXACT)
    return lambda row: torch.from_numpy(compiled({"input_ids": row.numpy()})[0])


def theirs(work):
    """NNCF's INT8 of the blocks' layers: (largest difference of their logits in OpenVINO and here,
    share of our codes it has).
    """
    import nncf
    import numpy as np
    import openvino

    head, kind = (
        nncf.IgnoredScope(patterns=[".*lm_head.*"], validate=False),
        nncf.CompressWeightsMode.INT8_SYM,
    )
    model = nncf.compress_weights(
        openvino.Core().read_model(work / "float.onnx"), mode=kind, ignored_scope=head
    )
    constants = {
        op.get_friendly_name(): op.data.astype(np.float32)
        for op in model.get_ops()
        if op.get_type_name() == "Constant"
    }

    def value(node):  # of a constant, or of one that is converted
        return constants.get(
            (
                node if node.get_type_name() == "Constant" else node.input_value(0).get_node()
            ).get_friendly_name(),
            np.zeros(()),
        )

    weights, steps = {}, []
    for op in model.get_ops():  # a constant in int8, converted, times a scale for each output
        if (
            op.get_type_name() == "Multiply"
            and op.input_value(0).get_node().get_type_name() == "Convert"
        ):
            found = torch.as_tensor(
                value(op.input_value(0).get_node()) * value(op.input_value(1).get_node())
            )
            for name, layer in common.layers().items():
                w = (
                    found
                    if found.shape == layer.weight.shape
                    and (found - layer.weight).norm() < 0.02 * found.norm()
                    else found.T
                )
                if (
                    name not in weights
                    and w.shape == layer.weight.shape
                    and (w - layer.weight).norm() < 0.02 * w.norm()
                ):
                    weights[name] = w.contiguous()
                    steps.append(float(((w - layer.weight) / layer.scale.float()).abs().max()))
    return len(weights), common.gap(runner(model), weights), max(steps, default=float("nan"))


def make(work):
    import openvino

    file = onnx_runtime.export(work)
    note = (
        "NNCF's own INT8 of {} layers, read here: logits differ by {:.1e}; "
        "its weights lie within {:.2f} of our steps."
    ).format(*theirs(work))
    return common.Made(file.stat().st_size, runner(openvino.Core().read_model(file)), note)


if __name__ == "__main__":
    common.main(sys.modules[__name__])
