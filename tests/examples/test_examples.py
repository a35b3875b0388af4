"""Each file of `examples/` does what it says on the bundled model, in at most 40 lines; the README
names them all.
"""

import json
import runpy
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

from course_utils import distillation, models, quantization
from course_utils.models import walk

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "examples").glob("*.py"))


def example(name):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_short_and_in_the_readme(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    assert f"`{path.name}`" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_quantize(tmp_path, capsys):
    again = example("quantize")["main"](out=str(tmp_path / "out"))
    layers = [m for m in again.modules() if isinstance(m, quantization.QuantizedLinear)]
    assert layers and all(m.bits == 4 for m in layers)
    assert float(capsys.readouterr().out.split("original: ")[1].split()[0]) < 0.002


def test_prune():
    made = example("prune")["main"]()
    wanda, narrow = made.values()
    weights = [walk.weight_of(m) for m in walk.compressible(wanda.model).values()]
    assert sum(int((w == 0).sum()) for w in weights) == pytest.approx(
        sum(w.numel() for w in weights) / 2, rel=0.01
    )
    assert narrow.model.num_parameters() < 0.8 * wanda.model.num_parameters()


def test_distil(capsys):
    example("distil")["main"](steps="10")
    before, after = (
        float(line.split("teacher ")[1]) for line in capsys.readouterr().out.splitlines()[1:]
    )
    assert after < before


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model in a folder, as a user brings it: two blocks of the bundled one."""
    model, tokenizer = models.load("bundled")
    small = distillation.students.from_layers(model, [0, 1])
    where = tmp_path_factory.mktemp("model")
    small.save_pretrained(where)
    tokenizer.save_pretrained(where)
    return str(where)


def test_budget(folder, capsys):
    chosen = example("budget")["main"](folder, mean_bits="2.5")
    assert len(set(chosen.values())) > 1
    rows = capsys.readouterr().out.splitlines()
    assert sum(int(row.split()[2]) for row in rows[:3]) == len(chosen)


def test_export(tmp_path):
    assert example("export")["main"](out=str(tmp_path)) < 1e-4
    assert {p.name for p in tmp_path.iterdir()} == {
        "gptq",
        "model.gguf",
        "model.onnx",
        "model-4bit.onnx",
    }


def test_evaluate(folder):
    original, few, fewer = example("evaluate")["main"](folder)
    assert original.perplexity.nats != few.perplexity.nats != fewer.perplexity.nats
    assert fewer.bytes_on_disk < few.bytes_on_disk < original.bytes_on_disk


def test_serve():
    served = example("serve")["server"](port=0)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{served.server_port}"
    try:
        asked = json.dumps({"prompt": "Story: Ada puts the lamp in the", "tokens": 8}).encode()
        first, second = (
            json.loads(urllib.request.urlopen(address, asked, timeout=60).read()) for _ in range(2)
        )
        assert first == second and first["text"].strip()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address, b"{}", timeout=60)
        assert refused.value.code == 400 and "prompt" in refused.value.read().decode()
    finally:
        served.shutdown()
        served.server_close()
    assert torch.is_grad_enabled()
