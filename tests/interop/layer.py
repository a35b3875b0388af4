"""Let auto-gptq 0.7.1 quantize one layer, and keep what went in and what came out in one file for
lab 3.1.

.interop/auto-gptq/bin/python tests/interop/layer.py solutions/lab-3.1-gptq/auto-gptq.safetensors
"""

import sys

import torch
from auto_gptq.nn_modules.qlinear.qlinear_cuda_old import QuantLinear
from auto_gptq.quantization.gptq import GPTQ
from safetensors.torch import save_file

BITS, ROWS, COLUMNS, TOKENS = 4, 32, 128, 400
CASES = {
    "one group": (128, False),
    "one group, act-order": (128, True),
    "groups of 32": (32, False),
}


def case():
    """A weight and correlated inputs whose channels differ in size; inputs are exact in half
    precision.
    """
    g = torch.Generator().manual_seed(0)
    mix = torch.eye(COLUMNS) + torch.randn(COLUMNS, COLUMNS, generator=g) / COLUMNS**0.5
    x = (
        torch.randn(TOKENS, COLUMNS, generator=g)
        @ mix
        * (0.7 * torch.randn(COLUMNS, generator=g)).exp()
    )
    return 0.05 * torch.randn(ROWS, COLUMNS, generator=g), x.half()


def quantize(weight, x, group, order):
    # auto-gptq asks for it; there is nothing to wait for on a CPU
    torch.cuda.synchronize = lambda *_: None
    layer = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    layer.weight.data = weight.clone()
    walk = GPTQ(layer)
    walk.quantizer.configure(BITS, perchannel=True, sym=False, mse=False)
    walk.add_batch(x.float()[None], None)
    scale, zero, index = walk.fasterquant(percdamp=0.01, group_size=group, actorder=order)
    packed = QuantLinear(BITS, group, COLUMNS, ROWS, False, weight_dtype=torch.float32)
    packed.pack(layer, scale, zero, index)
    return {
        "qweight": packed.qweight,
        "qzeros": packed.qzeros,
        "scales": packed.scales.half(),
        "g_idx": packed.g_idx.int(),
    }


weight, x = case()
tensors = {"weight": weight, "x": x}
for name, (group, order) in CASES.items():
    tensors.update(
        {
            f"{name}.{key}": tensor.contiguous()
            for key, tensor in quantize(weight, x, group, order).items()
        }
    )
save_file(
    tensors,
    sys.argv[1],
    metadata={"made by": "auto-gptq 0.7.1, tests/interop/layer.py", "bits": str(BITS)},
)
