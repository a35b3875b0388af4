"""Every method into every format: written and read back with the same logits, or refused by a
message that names what is supported.

A format that is read as real weights (GGUF in F32, ONNX) takes every method.
"""

import pytest
import torch
from wide_models import tiny

from course_utils.checkpoints import awq as awq_layout
from course_utils.checkpoints import bitsandbytes, gguf, onnx
from course_utils.checkpoints import gptq as gptq_layout
from course_utils.errors import CompressionError
from course_utils.quantization import (
    awq,
    codebooks,
    extreme,
    floats,
    gptq,
    llm_int8,
    load,
    nf4,
    qat,
    rtn,
    smoothquant,
    w8a8,
)

IDS = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))
METHODS = {
    "rtn 4": lambda m: rtn.quantize(m, bits=4),
    "rtn 8 symmetric": lambda m: rtn.quantize(m, bits=8, symmetric=True),
    "rtn 5": lambda m: rtn.quantize(m, bits=5),
    "gptq 4": lambda m: gptq.quantize(m, IDS, bits=4),
    "gptq 4 act-order": lambda m: gptq.quantize(m, IDS, bits=4, act_order=True),
    "awq": lambda m: awq.quantize(m, IDS, alphas=(0.0, 0.5)),
    "qat 3 symmetric": lambda m: qat.quantize(m, IDS, bits=3, symmetric=True, steps=1, batch=1),
    "ternary": lambda m: extreme.quantize(m),
    "binary": lambda m: extreme.quantize(m, kind="binary"),
    "k-means": lambda m: codebooks.quantize(m, bits=3),
    "nf4": lambda m: nf4.quantize(m),
    "fp4": lambda m: nf4.quantize(m, format="fp4", double=False),
    "int8 blocks": lambda m: nf4.quantize(m, format="int8"),
    "fp8": lambda m: floats.quantize(m),
    "w8a8": lambda m: w8a8.quantize(m),
    "smoothquant": lambda m: smoothquant.quantize(m, IDS),
    "llm.int8": lambda m: llm_int8.quantize(m),
}
PACKED = (
    "rtn 4",
    "rtn 8 symmetric",
    "gptq 4",
    "gptq 4 act-order",
    "awq",
    "qat 3 symmetric",
    "ternary",
)
FIVE = "bits=5: the GPTQ layout holds 2, 3, 4, 8"
NO_GPTQ, NO_AWQ, NO_BNB = (
    f"no layers of this format; compress it with {w} first"
    for w in ("gptq.quantize or rtn.quantize", "awq.quantize", "nf4.quantize or llm_int8.quantize")
)
FOUR = r"the AWQ layout holds 4 bits with neighbouring inputs in a group \(no act-order\)"
# methods that a format holds; all others are refused, with these messages or else the last one
WRITTEN = {
    "gptq": (set(PACKED), {"rtn 5": FIVE}, NO_GPTQ),
    "awq": ({"rtn 4", "gptq 4", "awq"}, dict.fromkeys(("rtn 5", *PACKED), FOUR), NO_AWQ),
    "bitsandbytes": ({"nf4", "fp4", "llm.int8"}, {"int8 blocks": "nf4, fp4 or LLM.int8"}, NO_BNB),
}
WRITERS = {
    "gptq": (lambda r, place: gptq_layout.write(r, place, dtype=torch.float32), gptq_layout.read),
    "awq": (lambda r, place: awq_layout.write(r, place, dtype=torch.float32), awq_layout.read),
    "bitsandbytes": (bitsandbytes.write, bitsandbytes.read),
}


@pytest.fixture(scope="module", params=METHODS)
def made(request):
    """(name of the method, its result, the logits of that)."""
    result = METHODS[request.param](tiny())
    with torch.no_grad():
        return request.param, result, result.model(input_ids=IDS).logits


@torch.no_grad()
def test_every_method_into_every_format(made, tmp_path):
    method, result, logits = made
    for format, (write, read) in WRITERS.items():
        held, messages, otherwise = WRITTEN[format]
        place = tmp_path / format
        if method in held:
            write(result, place)
            torch.testing.assert_close(
                read(place)(input_ids=IDS).logits, logits, rtol=1e-5, atol=1e-5
            )
        else:
            with pytest.raises(CompressionError, match=messages.get(method, otherwise)):
                write(result, place)
            assert not list(tmp_path.glob(f"*{format}*"))


@torch.no_grad()
def test_every_method_in_our_own_format_and_as_real_weights(made, tmp_path):
    method, result, logits = made
    result.save(tmp_path / "own")
    assert torch.equal(load(tmp_path / "own")(input_ids=IDS).logits, logits)
    # their activations are rounded too, which no weight holds
    integers = method in ("w8a8", "smoothquant", "llm.int8")
    plain = onnx.with_real_weights(result.model)(input_ids=IDS).logits
    gguf.write(result, tmp_path / "model.gguf", type_name="F32")
    again = gguf.read(tmp_path / "model.gguf")(input_ids=IDS).logits
    torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-5)
    assert (plain - logits).norm() <= (0.03 if integers else 1e-5) * logits.norm()
