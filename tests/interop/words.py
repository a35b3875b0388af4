"""Runs in the environment of AutoAWQ: its own unpacking of the weights of a checkpoint in AWQ's
layout.

Called by run.py.

    words.py JOBS   a JSON list of {folder, out}; `out` gets the real weight (out, in) of every
                    quantized layer, by its name

AutoAWQ itself loads a model on a CPU only with intel_extension_for_pytorch, which is no longer
released.
"""

import json
import sys
from pathlib import Path

from awq.utils.packing_utils import dequantize_gemm
from safetensors.torch import load_file, save_file


def weights(folder):
    tensors, size = (
        load_file(folder / "model.safetensors"),
        json.loads((folder / "config.json").read_text()),
    )
    size, found = size["quantization_config"]["group_size"], {}
    for name in [key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight")]:
        words, zeros, scales = (
            tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales")
        )
        found[name] = (
            dequantize_gemm(words, zeros, scales, 4, len(words) if size == -1 else size)
            .T.float()
            .contiguous()
        )
    return found


def main(jobs):
    answers = []
    for job in json.loads(jobs.read_text()):
        try:
            save_file(weights(Path(job["folder"])), job["out"])
            answers.append("")
        except Exception as error:  # reported by run.py
            answers.append(f"{type(error).__name__}: {error}".strip().split("\n")[0])
    (jobs.parent / "answers.json").write_text(json.dumps(answers))


main(Path(sys.argv[1]))
