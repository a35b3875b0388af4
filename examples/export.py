"""Files for other runtimes, and one of them run there: python examples/export.py [MODEL] [OUT]

Needs the extra `deploy` (ONNX Runtime, GGUF). The GPTQ folder is loaded by transformers and vLLM,
the GGUF file by llama.cpp.
"""

import sys
from pathlib import Path

import torch

from course_utils import checkpoints, models, quantization


def main(source="bundled", out="exported"):
    model, tokenizer = models.load(source)
    small = quantization.rtn.quantize(model, bits=4, group_size=64)
    folder = Path(out)
    sizes = {
        "GPTQ": checkpoints.gptq.write(small, folder / "gptq", tokenizer),
        "GGUF, 8 bits": checkpoints.gguf.write(model, folder / "model.gguf", tokenizer),
        "ONNX, FP32": checkpoints.onnx.write(small, folder / "model.onnx"),
    }
    sizes["ONNX, 4 bits"] = checkpoints.onnx.quantize_4bit(
        folder / "model.onnx", folder / "model-4bit.onnx"
    )
    for name, size in sizes.items():
        print(f"{name}: {size / 1e6:.2f} MB")

    ids = torch.tensor([tokenizer("Ada puts the lamp in the")["input_ids"]])
    ours = small.model(input_ids=ids).logits.detach()
    apart = float((ours - checkpoints.onnx.run(folder / "model.onnx", ids)).abs().max())
    print(f"ONNX Runtime and PyTorch: largest difference of the logits {apart:.1e}")
    return apart


if __name__ == "__main__":
    main(*sys.argv[1:])
