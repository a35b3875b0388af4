"""Core ML, for Macs and iPhones: python examples/deploy/core_ml.py

Converts here and rounds to INT8 with coremltools; what it wrote is read back and compared. It runs
on macOS only.
"""

import sys

import common
import numpy as np
import torch

NAME, NEEDS = "Core ML", "coremltools"
WITHOUT = (
    "Install coremltools (`make deploy` does), on Linux or macOS; to run the file, "
    "copy it to a Mac and load it there."
)


def make(work):
    import coremltools as ct
    import coremltools.optimize.coreml as tools

    model = common.plain()
    model.config._attn_implementation = "eager"
    program = torch.export.export(
        common.Logits(model).eval(), (common.windows()[:1].int(),), strict=False
    ).run_decompositions({})
    for node in list(program.graph.nodes):  # coremltools 9 does not know that an alias is its input
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    model.config._attn_implementation = "sdpa"
    whole = ct.convert(
        program,
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    each = tools.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", granularity="per_channel"
    )
    small = tools.linear_quantize_weights(whole, tools.OptimizationConfig(global_config=each))
    small.save(str(work / "model.mlpackage"))
    held = small._mil_program.functions["main"].find_ops(op_type="constexpr_blockwise_shift_scale")
    theirs = [
        torch.from_numpy(op.data.val.astype(np.float32) * op.scale.val.astype(np.float32))
        for op in held
    ]
    steps = []  # how far its weights are from ours, in our steps
    for layer in common.layers().values():
        near = [w for w in theirs if w.shape == layer.weight.shape]
        steps.append(
            min(float(((w - layer.weight) / layer.scale.float()).abs().max()) for w in near)
        )
    size = sum(
        file.stat().st_size for file in (work / "model.mlpackage").rglob("*") if file.is_file()
    )
    return common.Made(
        size,
        None,
        (
            f"Converted, not run. Its INT8 weights of {len(steps)} layers lie within "
            f"{max(steps):.2f} of our steps."
        ),
    )


if __name__ == "__main__":
    common.main(sys.modules[__name__])
