"""TensorRT, for NVIDIA's cards: python examples/deploy/tensorrt_engine.py

Builds an engine from our ONNX file with INT8 weights, and runs it. Written from TensorRT 10's
documentation; not tried by the authors, who had no such card: tell us what it says on yours.
"""

import sys

import common
import onnx_runtime
import torch

NAME, NEEDS = "TensorRT", "tensorrt"
WITHOUT = (
    "It needs an NVIDIA card: there `pip install tensorrt`; elsewhere ONNX "
    "Runtime runs the same file."
)


def make(work):
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_runtime.export(work).read_bytes()):
        sys.exit(f"{NAME}: {parser.get_error(0)}")
    config, profile, shape = (
        builder.create_builder_config(),
        builder.create_optimization_profile(),
        (1, common.TOKENS),
    )
    profile.set_shape("input_ids", shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = bytes(builder.build_serialized_network(network, config))
    context = trt.Runtime(logger).deserialize_cuda_engine(plan).create_execution_context()
    out = torch.empty(*shape, common.original()[0].config.vocab_size, device="cuda")

    def run(row):
        row = row.cuda()
        context.set_input_shape("input_ids", shape)
        context.set_tensor_address("input_ids", row.data_ptr())
        context.set_tensor_address("logits", out.data_ptr())
        context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        torch.cuda.synchronize()
        return out.cpu()

    return common.Made(len(plan), run, "Our codes, in TensorRT's engine.")


if __name__ == "__main__":
    common.main(sys.modules[__name__])
