"""Loading: what is in the folder, and one clear sentence when it cannot be."""

import json
import os
import pickle
import time

import pytest
import torch

from course_utils import models
from course_utils.errors import CompressionError

MEGABYTES = 1e6


def test_the_bundled_model_loads_and_is_small(ids):
    model, tokenizer = models.load()
    assert (
        not model.training
        and model.dtype == torch.float32
        and len(tokenizer) == model.config.vocab_size
    )
    with torch.no_grad():
        assert torch.isfinite(model(ids).logits).all()
    assert sum(f.stat().st_size for f in models.BUNDLED.iterdir()) < 12 * MEGABYTES


@pytest.mark.parametrize("name", ["llama", "qwen2", "opt", "gpt2"])
def test_a_folder_gives_back_its_model(name, folder_of, make, ids, tokenizer):
    model, found = models.load(folder_of(name))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, make(name)(ids).logits)
    assert found("Ada 42")["input_ids"] == tokenizer("Ada 42")["input_ids"]
    assert not model.training


def test_an_encoder_loads_without_a_head(folder_of, make, ids):
    model, _ = models.load(folder_of("bert"))
    assert type(model).__name__ == "BertModel"
    with torch.no_grad():
        expected = make("bert").bert(ids).last_hidden_state
        assert torch.equal(model(ids).last_hidden_state, expected)


def test_precision_and_names_relative_to_the_working_folder(folder_of, monkeypatch):
    folder = folder_of("opt")
    monkeypatch.chdir(folder.parent)
    for name in (folder.name, f"./{folder.name}", str(folder)):
        model, _ = models.load(name, dtype=torch.bfloat16)
        assert model.dtype == torch.bfloat16
    monkeypatch.setenv("HOME", str(folder.parent))
    assert models.load(f"~/{folder.name}")[0].config.model_type == "opt"


def test_pickled_weights_are_refused_unread(folder_of):
    folder = folder_of("gpt2")
    (folder / "model.safetensors").unlink()
    witness = folder / "was-run"

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(witness),))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CompressionError, match="pickled"):
        models.load(folder)
    assert not witness.exists()


def test_code_that_comes_with_a_model_is_not_run(folder_of):
    folder = folder_of("llama")
    witness = folder / "was-run"
    (folder / "modeling.py").write_text(f"import os\nos.mkdir({str(witness)!r})\nclass M: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "novel",
        "auto_map": {"AutoConfig": "modeling.M", "AutoModelForCausalLM": "modeling.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CompressionError, match="could not be read"):
        models.load(folder)
    assert not witness.exists()


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-500])


def drop_a_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "could not be read"),
        (drop_a_shape, "could not be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"nothing"), "could not be read"),
        (lambda f: (f / "model.safetensors").unlink(), "could not be read"),
        (lambda f: (f / "config.json").write_text("{"), "could not be read"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "could not be read"),
    ],
)
def test_a_damaged_folder_is_said_to_be_one(folder_of, damage, message):
    folder = folder_of("llama")
    damage(folder)
    with pytest.raises(CompressionError, match=message):
        models.load(folder)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all"])
def test_a_missing_folder(name):
    with pytest.raises(CompressionError, match="no such folder"):
        models.load(name)


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-0.5B", "gpt2"])
@pytest.mark.parametrize("switched_off", [True, False])
def test_a_hub_that_does_not_answer_takes_one_sentence(name, switched_off, monkeypatch):
    """Switched off, and not reachable (the tests refuse every connection)."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", switched_off)
    began = time.perf_counter()
    with pytest.raises(CompressionError) as caught:
        models.load(name)
    assert time.perf_counter() - began < 2
    message = str(caught.value)
    assert name in message and "hub cannot be reached" in message and "'bundled'" in message
    assert "\n" not in message and len(message) < 200
