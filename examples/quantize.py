"""GPTQ in 4 bits: python examples/quantize.py [MODEL] [OUT] [TEXT]

MODEL: a Hugging Face folder, smollm2, or bundled. TEXT: a file, pydoc, or bundled, for calibration
and judgement.
"""

import sys

from course_utils import evaluation, models, quantization


def main(source="bundled", out="quantized", text="bundled"):
    model, tokenizer = models.load(source)
    tokens = evaluation.calibration(tokenizer, text, n=32, context=256)
    small = quantization.gptq.quantize(model, tokens, bits=4, group_size=64)
    size = small.save(out, tokenizer)
    print(f"{small.coverage['share']:.0%} of the parameters are packed; {out}: {size / 1e6:.2f} MB")

    again = quantization.load(out)
    ids = evaluation.text.windows(
        tokenizer, text, split="validation", n=16, context=256, seed=0
    ).ids
    damage = evaluation.kl_by_window(model, again, ids)
    print(f"KL to the original: {float(damage.mean()):.5f} nats a token")
    return again


if __name__ == "__main__":
    main(*sys.argv[1:])
