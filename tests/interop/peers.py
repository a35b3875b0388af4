"""The other tools: an environment for each, made once in .interop beside pyproject.toml, and how
they are asked.
"""

import hashlib
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import torch
from safetensors.torch import load_file
from wide_models import tiny as plain

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / ".interop"
TORCH = f"torch=={torch.__version__.split('+')[0]}"
PEERS = {  # packages, and the script that runs beside them
    "auto-gptq": (
        (TORCH, "auto-gptq==0.7.1", "transformers==4.49.0", "datasets==3.6.0", "peft==0.14.0",
         "accelerate==1.5.0",
         "huggingface-hub==0.36.2"), "theirs.py",
    ),
    "transformers": (("gptqmodel==7.7.0", "transformers==5.23.0", "optimum==2.3.0",
                      "accelerate==1.15.0"), "loader.py"),
    "compressed-tensors": ((TORCH, "compressed-tensors==0.20.1", "transformers==5.23.0",
                            "accelerate==1.15.0"), "tensors.py"),
    "autoawq": ((TORCH, "autoawq==0.2.9", "transformers==4.51.3", "accelerate==1.5.0",
                 "huggingface-hub==0.36.2"), "words.py"),
    "llama.cpp": (("xllamacpp==2026.10.11549",), "llamacpp.py"),
    # benchmarks/peers.py asks it
    "llm-compressor": ((TORCH, "llmcompressor==0.14.0.1", "transformers==5.17.0"), "oneshot.py"),
    "torchao": ((TORCH, "torchao==0.18.0", "safetensors==0.8.0"), "ao.py"),
}  # fmt: skip
ENVIRON = {
    "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "TORCHDYNAMO_DISABLE": "1",
    "GPTQMODEL_CPU_WORKERS": "2",  # by default half of the processors, but loading asks for two
}  # fmt: skip


def environment(peer: str) -> Path:
    """The Python of an environment that holds the peer; made once for a set of pins."""
    pins = PEERS[peer][0]
    wanted = hashlib.sha256("\0".join((sys.version, *pins)).encode()).hexdigest()
    folder = FOLDER / peer
    python, stamp = folder / "bin" / "python", folder / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {folder} (some minutes)", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        if peer != "llama.cpp":
            # their builds look for it
            first = [pins[0]] if pins[0].startswith("torch==") else ["torch"]
            subprocess.run([*pip, *first, "numpy", "setuptools", "wheel"], check=True)
        subprocess.run(
            [*pip, "--no-build-isolation", *pins],
            check=True,
            env={**os.environ, "BUILD_CUDA_EXT": "0"},
        )
        stamp.write_text(wanted)
    return python


def ask(peer: str, jobs: list[dict], work: Path) -> list[str]:
    """Let the peer's script do the jobs in one process; for each an empty string, or what went
    wrong.
    """
    (work / "jobs.json").write_text(json.dumps(jobs))
    script = PEERS[peer][1]
    done = subprocess.run(
        [environment(peer), HERE / script, work / "jobs.json"], env={**os.environ, **ENVIRON},
        capture_output=True, text=True, errors="replace", cwd=work,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-3000:]}")
    return json.loads((work / "answers.json").read_text())


def tiny(kind: str) -> torch.nn.Module:
    """A random model in which biases and norms matter too."""
    model = plain(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def gap(theirs: Path, ours: torch.Tensor) -> float:
    """‖theirs − ours‖ / ‖ours‖ over all logits."""
    return float((load_file(theirs)["logits"] - ours).norm() / ours.norm())
