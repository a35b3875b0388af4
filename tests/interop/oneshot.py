"""Runs beside llm-compressor: GPTQ of a model with the tokens that it is given, timed.

Called by benchmarks/peers.py.

    oneshot.py JOBS   a JSON list with one job; the answer goes to `answers.json` beside it

The job: {plain: folder of the model, tokens: file with `calibration` and `windows` (sequences,
context), folder: where to save, bits, group}. The answer: processor seconds of the quantization
alone, peak memory before and after, nats on the windows.
"""

import json
import re
import sys
import time
from pathlib import Path

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def peak() -> int:
    """Bytes; not ru_maxrss, which a new program inherits from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) * 1024


def quantize(job: dict) -> dict:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(job["plain"], dtype=torch.float32)
    ids = load_file(job["tokens"])
    rows = ids["calibration"].tolist()
    data = Dataset.from_dict(
        {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
    )
    weights = QuantizationArgs(
        num_bits=job["bits"], type="int", symmetric=True, strategy="group", group_size=job["group"]
    )
    recipe = GPTQModifier(
        config_groups={"all": QuantizationScheme(targets=["Linear"], weights=weights)},
        ignore=["lm_head"],
        actorder=None,
        dampening_frac=0.01,
    )
    before, began = peak(), time.process_time()
    oneshot(
        model=model, processor=AutoTokenizer.from_pretrained(job["plain"]), dataset=data,
        recipe=recipe, max_seq_length=len(rows[0]), num_calibration_samples=len(rows),
        shuffle_calibration_samples=False,
    )  # fmt: skip
    seconds, after = time.process_time() - began, peak()
    with torch.no_grad():
        losses = [
            float(model(input_ids=row[None], labels=row[None]).loss)
            for row in ids["windows"].long()
        ]
    model.save_pretrained(job["folder"], save_compressed=True)
    return {"seconds": seconds, "before": before, "after": after, "nats": sum(losses) / len(losses)}


jobs = Path(sys.argv[1])
(jobs.parent / "answers.json").write_text(
    json.dumps([quantize(job) for job in json.loads(jobs.read_text())])
)
