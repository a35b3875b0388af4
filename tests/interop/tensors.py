"""Runs beside compressed-tensors, with which transformers loads MXFP4 and NVFP4. Called by run.py.

    tensors.py JOBS   a JSON list; `ids.safetensors` lies beside it, `answers.json` is written there

Jobs: {folder, out, dequantize} loads a checkpoint with transformers and writes its logits for the
ids and every weight of a linear layer. The weights are expanded while it is read, in FP32, or at
the first pass, where the package makes them BF16 and the model has to be. With {prompts: lists of
token ids, n} it writes n tokens of greedy text for each instead, `greedy` (prompts, n). {"make":
scheme, plain, folder, out} lets compressed-tensors quantize a plain model to NVFP4A16 or MXFP4A16
and save it, and reads it. An answer is "" or an error.
"""

import json
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig


def read(folder, dequantize):
    if not dequantize:
        return AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.bfloat16)
    settings = CompressedTensorsConfig(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(
        folder, device_map="cpu", dtype=torch.float32, quantization_config=settings
    )


def make(plain, folder, scheme):
    """Scales by the package's own rules: min-max of each block,
    and for NVFP4 of the whole tensor.
    """
    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    apply_quantization_config(
        model, QuantizationConfig(config_groups={scheme: ["Linear"]}, ignore=["lm_head"])
    )
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is None:
            continue
        args, weight = module.quantization_scheme.weights, module.weight
        blocks = weight.detach().unflatten(1, (-1, args.group_size))
        low, high = blocks.amin(-1), blocks.amax(-1)
        whole = None
        if hasattr(module, "weight_global_scale"):
            whole = generate_gparam(weight.min().view(1), weight.max().view(1))
            module.weight_global_scale.data.copy_(whole)
        scale, _ = calculate_qparams(low, high, args, global_scale=whole)
        module.weight_scale.data = scale.detach()
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)


def greedy(model, prompt, n):
    """n tokens, whether the text ends before or not."""
    step, cache, found = torch.tensor([prompt]), None, []
    for _ in range(n):
        out = model(input_ids=step, past_key_values=cache, use_cache=True)
        cache, step = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
        found.append(int(step))
    return found


@torch.no_grad()
def main(jobs):
    ids, answers = load_file(jobs.parent / "ids.safetensors")["ids"], []
    for job in json.loads(jobs.read_text()):
        try:
            if "make" in job:
                make(job["plain"], job["folder"], job["make"])
            model = read(job["folder"], job.get("dequantize", True)).eval()
            if "prompts" in job:
                texts = [greedy(model, prompt, job["n"]) for prompt in job["prompts"]]
                save_file({"greedy": torch.tensor(texts)}, job["out"])
                answers.append("")
                continue
            logits = model(input_ids=ids).logits
            weights = {
                f"{name}.weight": m.weight
                for name, m in model.named_modules()
                if isinstance(m, torch.nn.Linear)
            }
            save_file(
                {
                    k: v.float().contiguous().clone()
                    for k, v in {"logits": logits, **weights}.items()
                },
                job["out"],
            )
            answers.append("")
        except Exception as error:  # reported by run.py
            answers.append(f"{type(error).__name__}: {error}".strip().split("\n")[0])
    (jobs.parent / "answers.json").write_text(json.dumps(answers))


main(Path(sys.argv[1]))
