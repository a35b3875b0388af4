"""Runs in the environment of auto-gptq, which this project's own cannot be installed in.

Called by run.py.

    theirs.py JOBS   a JSON list; `ids.safetensors` lies beside it, `answers.json` is written there

Jobs: {"do": "read", folder, out} loads a GPTQ checkpoint and writes its logits for the ids; {"do":
"make", plain, folder, out, bits, symmetric, order, group} quantizes a plain model, saves it, and
writes its logits. An answer is "" or an error.
"""

import json
import sys
from pathlib import Path

import torch
from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
from auto_gptq.modeling import _base as base
from auto_gptq.modeling.auto import GPTQ_CAUSAL_LM_MODEL_MAP
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def read(folder):
    return AutoGPTQForCausalLM.from_quantized(
        folder, device="cpu", use_triton=False, disable_exllama=True, disable_exllamav2=True,
        use_safetensors=True, model_basename="model", torch_dtype=torch.float32,
    ).model  # fmt: skip


def make(plain, folder, bits, symmetric, order, group, ids):
    """auto-gptq quantizes only where it finds CUDA; its arithmetic is the same on a CPU."""
    base.CUDA_0 = torch.device("cpu")
    torch.cuda.synchronize = lambda *_: None
    settings = BaseQuantizeConfig(bits=bits, group_size=group, desc_act=order, sym=symmetric)
    model = AutoModelForCausalLM.from_pretrained(plain, torch_dtype=torch.float32)
    model.seqlen = model.config.max_position_embeddings
    made = GPTQ_CAUSAL_LM_MODEL_MAP[model.config.model_type](model, False, settings)
    made.quantize(
        [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in ids],
        use_triton=False,
    )
    made.save_quantized(folder, use_safetensors=True)
    return made.model


@torch.no_grad()
def main(jobs):
    ids, answers = load_file(jobs.parent / "ids.safetensors")["ids"], []
    for job in json.loads(jobs.read_text()):
        try:
            out, what = job.pop("out"), job.pop("do")
            model = read(**job) if what == "read" else make(**job, ids=ids)
            save_file({"logits": model.eval()(input_ids=ids).logits.float().contiguous()}, out)
            answers.append("")
        except Exception as error:  # reported by run.py
            answers.append(f"{type(error).__name__}: {error}".strip().split("\n")[0])
    (jobs.parent / "answers.json").write_text(json.dumps(answers))


main(Path(sys.argv[1]))
