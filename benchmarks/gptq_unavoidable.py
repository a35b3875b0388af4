"""GPTQ against what it cannot avoid: forward passes of its calibration, products XᵀX, one Cholesky
factor and inverse for each layer.

    python benchmarks/gptq_unavoidable.py [--tokens 16384] [--blocks 2] [--repeats 3] [--readable]
    # SmolLM2-135M-Instruct itself, 32 x 512 tokens of pydoc
    python benchmarks/gptq_unavoidable.py --real --blocks 30 --repeats 1

A random model with the shapes of SmolLM2-135M (hidden 576, MLP 1536, 9 heads of 64, 3 for keys and
values), 4 bits, groups of 64.
Processor time of one thread, parts interleaved, the median of the repeats. Two forward passes: one
for the Hessians, one through the quantized block. Products: of the four different inputs of a
block, as symmetric half products (`hessians.add_half`) and in full.
With --readable the same with the readable walk over columns (`columns.walk_in_torch`), to see what
the compiled one is worth.
"""

import argparse
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils import evaluation, models
from course_utils.kernels import columns
from course_utils.models import walk
from course_utils.quantization import gptq
from course_utils.quantization.hessians import add_half, block_hessians


def seconds(work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--blocks", type=int, default=2, help="of the real model: its first ones")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--real", action="store_true", help="the model of `make real`")
    parser.add_argument("--readable", action="store_true", help="time the walk in torch, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=1024, hidden_size=576, intermediate_size=1536, num_hidden_layers=given.blocks,
        num_attention_heads=9, num_key_value_heads=3,
        max_position_embeddings=1024,
    )).eval()  # fmt: skip
    ids = torch.randint(0, 1024, (given.tokens // 512, 512))
    if given.real:
        model, tokenizer = models.load("smollm2")
        model.model.layers = model.model.layers[: given.blocks]
        given.blocks = len(walk.blocks(model))
        ids = evaluation.calibration(tokenizer, "pydoc", n=given.tokens // 512, context=512)
    hessians = {}
    for block, states in walk.through_blocks(model, ids):
        hessians |= block_hessians(block, states)

    def forward() -> None:
        with torch.no_grad():
            for part in ids.split(8):
                model.model(part, use_cache=False)

    def factors() -> None:
        for H in hessians.values():
            gptq.inverse_cholesky(gptq.damped(H, 0.01))

    def products(half: bool) -> None:
        for width, count in ((576, 3), (1536, 1)):
            x, total = torch.randn(4096, width), torch.zeros(width, width)
            for _ in range(count * given.blocks * given.tokens // 4096):
                add_half(total, x) if half else total.addmm_(x.T, x)

    def whole() -> None:
        gptq.quantize(model, ids, bits=4, group_size=64)

    compiled = columns.walk
    rows: dict[str, list[float]] = {}
    works = {
        "forward": forward,
        "factors": factors,
        "half products": lambda: products(True),
        "full products": lambda: products(False),
        "GPTQ": whole,
    }
    if given.readable:
        works["readable"] = whole
    if not given.real:
        whole()  # compiles
    for _ in range(given.repeats):
        for name, work in works.items():
            columns.walk = columns.walk_in_torch if name == "readable" else compiled
            rows.setdefault(name, []).append(seconds(work) * (2 if name == "forward" else 1))
    columns.walk = compiled
    found = {name: statistics.median(values) for name, values in rows.items()}
    least = found["forward"] + found["factors"]
    what = "SmolLM2" if given.real else "SmolLM2's shapes"
    print(
        f"{given.blocks} blocks of {what}, {given.tokens} tokens, processor seconds of one thread: "
        + ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    )
    for name in ("GPTQ", "readable"):
        if name in found:
            print(f"{name} / (two forward passes + factors): {found[name] / least:.2f}; with the "
                  "half products XᵀX counted too: "
                  f"{found[name] / (least + found['half products']):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
