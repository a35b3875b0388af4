"""Runs in the environment of GPTQModel, whose kernels transformers' GPTQ and AWQ loaders use.

Called by run.py.

    loader.py JOBS   a JSON list; `ids.safetensors` lies beside it, `answers.json` is written there

benchmarks/peers.py has a job of its own: {"do": "time", plain, folder, tokens: file with
`calibration` and `windows` (sequences, context), bits, group}; the answer is what oneshot.py
answers.

Jobs: {"do": "read", folder, out} loads a checkpoint with transformers, "load" with GPTQModel in
half precision, and writes its logits for the ids; {"do": "make", plain, folder, out, method, bits,
symmetric, order, group} lets GPTQModel quantize a plain model by its GPTQ or its AWQ, and load it
again. An answer is "" or an error.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from gptqmodel import GPTQModel, QuantizeConfig
from gptqmodel.quantization import FORMAT, METHOD
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def read(folder):
    return AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.float32)


def load(folder):
    return GPTQModel.load(folder, device="cpu", dtype=torch.float16).model


def make(plain, folder, bits, symmetric, order, group, ids, method="gptq"):
    if method == "awq":
        settings = QuantizeConfig(
            bits=bits, group_size=group, sym=symmetric, method=METHOD.AWQ, format=FORMAT.GEMM
        )
    else:
        settings = QuantizeConfig(bits=bits, group_size=group, desc_act=order, sym=symmetric)
    model = GPTQModel.load(
        plain, settings, dtype=torch.float16 if method == "awq" else torch.float32
    )
    model.quantize(
        [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in ids], batch_size=1
    )
    model.save(folder)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(plain, folder, tokens, bits, group):
    torch.set_num_threads(1)
    tokens = load_file(tokens)
    settings = QuantizeConfig(
        bits=bits,
        group_size=group,
        desc_act=False,
        act_group_aware=False,
        sym=True,
        damp_percent=0.01,
    )
    model = GPTQModel.load(plain, settings, dtype=torch.float32)
    before, began = peak(), time.process_time()
    rows = [
        {"input_ids": r.tolist(), "attention_mask": [1] * len(r)} for r in tokens["calibration"]
    ]
    model.quantize(rows, batch_size=1)
    seconds, after = time.process_time() - began, peak()
    model.save(folder)
    with torch.no_grad():
        read_back = read(folder)
        losses = [
            float(read_back(input_ids=row[None], labels=row[None]).loss)
            for row in tokens["windows"].long()
        ]
    return {"seconds": seconds, "before": before, "after": after, "nats": sum(losses) / len(losses)}


def main(jobs):
    answers = []
    for job in json.loads(jobs.read_text()):
        try:
            what = job.pop("do")
            if what == "time":
                answers.append(timed(**job))
                continue
            out, ids = job.pop("out"), load_file(jobs.parent / "ids.safetensors")["ids"]
            if what == "make":  # GPTQModel opens inference mode itself
                make(**job, ids=ids)
            with torch.no_grad():
                logits = (read if what == "read" else load)(job["folder"])(input_ids=ids).logits
            save_file({"logits": logits.float().contiguous()}, out)
            answers.append("")
        except Exception as error:  # reported by run.py
            answers.append(f"{type(error).__name__}: {error}".strip().split("\n")[0])
    (jobs.parent / "answers.json").write_text(json.dumps(answers))


main(Path(sys.argv[1]))
