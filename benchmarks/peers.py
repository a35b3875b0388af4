"""GPTQ of SmolLM2-135M-Instruct here, in llm-compressor and in GPTQModel: same tokens, same bits,
same processor, one after the other.

    make real
    python benchmarks/peers.py [--tokens 4096] [--bits 4] [--group-size 64] [--only NAME]

All: FP32, symmetric, groups of 64, no act-order, damping .01, sequences of 512 tokens of pydoc,
block after block, each block fed by the quantized ones before it. Processor seconds of one thread
for calibration and quantization alone; peak memory of the process with the model loaded, before and
after; nats on 16 windows of 256 validation tokens. Each other tool gets an environment of its own
(`tests/interop/peers.py`); the first run installs it. The model's weights were rounded to Q4_1
before.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from course_utils import evaluation, models
from course_utils.models import shipped
from course_utils.quantization import gptq

TESTS = Path(__file__).resolve().parents[1] / "tests"
# before this folder, whose own name is that of the module
sys.path[:0] = [str(TESTS / "interop"), str(TESTS / "common")]

import peers  # noqa: E402
from laptop import peak  # noqa: E402


def ours(tokens: dict[str, torch.Tensor], bits: int, group: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    model, _ = models.load("smollm2")
    before, began = peak(), time.process_time()
    result = gptq.quantize(
        model, tokens["calibration"], bits=bits, group_size=group, symmetric=True
    )
    seconds, after = time.process_time() - began, peak()
    nats = float(evaluation.nats_by_window(result, tokens["windows"]).mean())
    return {"seconds": seconds, "before": before, "after": after, "nats": nats}


def theirs(
    tokens: dict[str, torch.Tensor],
    bits: int,
    group: int,
    *,
    peer: str = "llm-compressor",
    **more: str,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        save_file(tokens, work / "tokens.safetensors")
        job = {
            "plain": str(shipped.folder_of("smollm2")),
            "tokens": str(work / "tokens.safetensors"),
            "folder": str(work / "out"),
            "bits": bits,
            "group": group,
            **more,
        }
        answer: Any = peers.ask(peer, [job], work)[0]
        return answer if isinstance(answer, dict) else sys.exit(f"{peer}: {answer}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--only", choices=("ours", "llm-compressor", "GPTQModel"))
    asked = parser.parse_args()
    words = models.load_tokenizer("smollm2")
    tokens = {
        "calibration": evaluation.calibration(words, "pydoc", n=asked.tokens // 512, context=512),
        "windows": evaluation.text.windows(
            words, "pydoc", split="validation", n=16, context=256, seed=0
        ).ids,
    }
    runs = {
        "ours": ours,
        "llm-compressor": theirs,
        "GPTQModel": partial(theirs, peer="transformers", do="time"),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        if asked.only in (None, name):
            found[name] = run(
                {k: v.contiguous() for k, v in tokens.items()}, asked.bits, asked.group_size
            )
            f = found[name]
            print(
                f"{name}: {f['seconds']:.1f} processor seconds, "
                f"peak {f['before'] / 1e9:.2f} → {f['after'] / 1e9:.2f} GB, {f['nats']:.4f} nats",
                flush=True,
            )
    for name in found if "ours" in found else ():
        print(f"ours / {name}: {found['ours']['seconds'] / found[name]['seconds']:.2f} of the time")


if __name__ == "__main__":
    main()
