"""Intel Neural Compressor: python examples/deploy/neural_compressor_int8.py

Our codes and scales are packed into its layers, and its own rounding is read here.
"""

import copy
import sys

import common
import torch

from course_utils.models import walk

NAME, NEEDS = "Neural Compressor", "neural_compressor"
WITHOUT = (
    "Install neural-compressor-pt (`make deploy` does); without it `quantization.rtn` rounds the "
    "same layers, and OpenVINO or ONNX Runtime run them on Intel's processors."
)


def layer_of(codes, scale):
    """Its layer of integers (out, in) and a scale for each output, in float32."""
    from neural_compressor.torch.algorithms.weight_only.modules import INCWeightOnlyLinear

    rows, columns = codes.shape
    layer = INCWeightOnlyLinear(
        columns, rows, bits=8, group_size=-1, scale_dtype=torch.float32, use_optimum_format=False
    )
    layer.pack(codes, scale, None, None)
    return layer


def theirs():
    """Its own INT8 of the original: the largest difference between its logits and those of its
    numbers here. It multiplies codes and scales in FP16.
    """
    from neural_compressor.torch.quantization import RTNConfig, convert, prepare

    config = RTNConfig(dtype="int", bits=8, use_sym=True, group_size=-1)
    model = convert(prepare(copy.deepcopy(common.original()[0]).eval(), config))
    held = {name: model.get_submodule(name).unpack() for name in common.layers()}
    weights = {
        name: ((h["int_weight"].int() - h["zp"].int()).half() * h["scales"].half()).float()
        for name, h in held.items()
    }
    return common.gap(lambda row: model(input_ids=row).logits, weights)


def make(work):
    model = copy.deepcopy(common.plain())
    for name, ours in common.layers().items():
        layer = layer_of(ours.codes.int() - 128, ours.scale.float().view(-1, 1))
        walk.replace(model, name, layer)
    note = f"Our codes in its layers; its own INT8, read here: logits differ by {theirs():.1e}."
    return common.saved(model, work / "neural_compressor.pt", note)


if __name__ == "__main__":
    common.main(sys.modules[__name__])
