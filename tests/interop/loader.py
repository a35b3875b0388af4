"""Runs in the environment of GPTQModel, whose kernels transformers' GPTQ loader uses. Called by run.py.

    loader.py JOBS   like theirs.py, for jobs {"do": "read", folder, out} only
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


@torch.no_grad()
def main(jobs):
    ids, answers = load_file(jobs.parent / "ids.safetensors")["ids"], []
    for job in json.loads(jobs.read_text()):
        try:
            model = AutoModelForCausalLM.from_pretrained(job["folder"], device_map="cpu", dtype=torch.float32)
            save_file({"logits": model(input_ids=ids).logits.float().contiguous()}, job["out"])
            answers.append("")
        except Exception as error:  # reported by run.py
            answers.append(f"{type(error).__name__}: {error}".strip().split("\n")[0])
    (jobs.parent / "answers.json").write_text(json.dumps(answers))


main(Path(sys.argv[1]))
