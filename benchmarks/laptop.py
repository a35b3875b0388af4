"""GPTQ of a model with the blocks of Llama-2-7B, one block in memory at a time: what it needs at
its peak.

    python benchmarks/laptop.py [--blocks 4] [--tokens 2048] [--states memory]
        # about a quarter of an hour on two cores

Makes a random model with the shapes of Llama-2-7B (hidden 4096, MLP 11008, 32 heads; vocabulary
4096) in a folder for temporary files, in bfloat16, one shard a block; compresses it in a process of
its own as `course compress --method gptq --bits 4` does, and reads VmHWM, the largest resident size
of that process, which counts mapped files too. All is deleted afterwards. The peak does not grow
with the number of blocks: the line for 32 blocks adds the states of a full calibration and the
vocabulary of Llama 2.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

GIB = 2**30
WIDTH, MLP, HEADS, VOCABULARY = 4096, 11008, 32, 4096


def make(folder: Path, blocks: int) -> int:
    """The model's files, a block at a time; returns their bytes."""
    LlamaConfig(
        hidden_size=WIDTH, intermediate_size=MLP, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, num_hidden_layers=blocks, vocab_size=VOCABULARY,
        max_position_embeddings=4096, tie_word_embeddings=False, architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    draws, index = torch.Generator().manual_seed(0), {}

    def write(file: str, shapes: dict[str, tuple[int, ...]]) -> None:
        tensors = {name: (torch.randn(shape, generator=draws) / shape[-1] ** 0.5 if len(shape) > 1
                          else torch.ones(shape)).bfloat16()
                   for name, shape in shapes.items()}  # fmt: skip
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(shapes, file))

    square = (WIDTH, WIDTH)
    for i in range(blocks):
        parts = {f"self_attn.{n}_proj.weight": square for n in "qkvo"} | {
            f"mlp.{n}_proj.weight": (MLP, WIDTH) for n in ("gate", "up")
        }
        parts |= {
            "mlp.down_proj.weight": (WIDTH, MLP),
            "input_layernorm.weight": (WIDTH,),
            "post_attention_layernorm.weight": (WIDTH,),
        }
        write(
            f"model-{i:05d}.safetensors",
            {f"model.layers.{i}.{name}": shape for name, shape in parts.items()},
        )
    write(
        "model-rest.safetensors",
        {
            "model.embed_tokens.weight": (VOCABULARY, WIDTH),
            "lm_head.weight": (VOCABULARY, WIDTH),
            "model.norm.weight": (WIDTH,),
        },
    )
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def compress(folder: str, out: str, tokens: int, states: str) -> None:
    """The work, in a process of its own: prints its peak, the peak before it began, and its
    seconds.
    """
    from course_utils.quantization import gptq, streaming

    ids = torch.randint(
        0, VOCABULARY, (tokens // 512, 512), generator=torch.Generator().manual_seed(1)
    )
    before, began = peak(), time.perf_counter()
    result = streaming.compress(
        folder, gptq.quantize, ids, out=out, states=states, bits=4, group_size=128
    )
    print(
        json.dumps(
            {
                "peak": peak(),
                "before": before,
                "seconds": time.perf_counter() - began,
                "bytes": result.details["bytes"],
            }
        )
    )


def peak() -> int:
    """Bytes of VmHWM (Linux); a program inherits ru_maxrss from the one that started it."""
    return next(
        int(line.split()[1]) * 1024
        for line in open("/proc/self/status")
        if line.startswith("VmHWM")
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--states", default="memory", choices=("memory", "half", "disk"))
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        compress(*given.work, given.tokens, given.states)
        return 0
    with tempfile.TemporaryDirectory() as place:
        size = make(Path(place) / "model", given.blocks)
        command = [
            sys.executable,
            __file__,
            "--work",
            f"{place}/model",
            f"{place}/out",
            "--tokens",
            str(given.tokens),
            "--states",
            given.states,
        ]
        found = json.loads(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            .stdout.strip()
            .splitlines()[-1]
        )
    state, full = (
        n * WIDTH * {"memory": 4, "half": 2, "disk": 0}[given.states]
        for n in (given.tokens, 128 * 2048)
    )
    whole = found["peak"] + 2 * (full - state) + (32000 - VOCABULARY) * WIDTH * 4
    print(
        f"{given.blocks} blocks, {size / 1e9:.2f} GB of bfloat16 weights, {given.tokens} "
        f"calibration tokens, states in {given.states}, {torch.get_num_threads()} threads"
    )
    allowed = 4 * (4 * WIDTH**2 + 3 * WIDTH * MLP) + 4 * (3 * WIDTH**2 + MLP**2) + 2 * state + 10**9
    print(
        f"peak {found['peak'] / GIB:.2f} GiB (libraries alone {found['before'] / GIB:.2f}), "
        f"{found['seconds'] / 60:.1f} minutes, result {found['bytes'] / 1e9:.2f} GB"
    )
    print(
        "one block in float32, its Hessians, two times the states and 1 GB: "
        f"{allowed / GIB:.2f} GiB"
    )
    print(
        f"32 blocks, 128 x 2048 tokens, vocabulary 32000, computed: at most {whole / GIB:.2f} GiB "
        f"with states in {given.states}"
    )
    missed = found["peak"] > min(allowed, 6e9) or (given.states != "memory" and whole > 12e9)
    print(
        "goals missed"
        if missed
        else (
            "goals met: peak within that and 6 GB, and 12 GB for 32 blocks with states in "
            "half precision or on disk"
        )
    )
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
