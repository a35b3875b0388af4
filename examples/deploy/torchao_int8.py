"""torchao: python examples/deploy/torchao_int8.py

Our codes and scales become torchao's tensors, and torchao's own are read here.
"""

import copy
import sys

import common
import torch

NAME, NEEDS = "torchao", "torchao"
WITHOUT = (
    "Install torchao (`make deploy` does); without it `course_utils`' own "
    "QuantizedLinear runs the same codes."
)


def theirs():
    """torchao's own INT8 of the original: the largest difference between its logits and those of
    its numbers here.
    """
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = copy.deepcopy(common.original()[0]).eval()
    quantize_(model.model.layers, Int8WeightOnlyConfig())
    held = {name: model.get_submodule(name).weight for name in common.layers()}
    weights = {name: w.qdata.float() * w.scale.float().view(-1, 1) for name, w in held.items()}
    return common.gap(lambda row: model(input_ids=row).logits, weights)


def make(work):
    from torchao.quantization import Int8Tensor

    model = copy.deepcopy(common.plain())
    for name, layer in common.layers().items():
        codes = (layer.codes.short() - 128).to(torch.int8)
        weight = Int8Tensor(codes, layer.scale.float(), [1, codes.shape[1]], torch.float32)
        model.get_submodule(name).weight = torch.nn.Parameter(weight, requires_grad=False)
    note = f"Our codes in its tensors; its own INT8, read here: logits differ by {theirs():.1e}."
    return common.saved(model, work / "torchao.pt", note)


if __name__ == "__main__":
    common.main(sys.modules[__name__])
