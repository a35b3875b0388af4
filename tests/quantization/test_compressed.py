"""Compressed models on disk: the same logits, the promised bytes, and no damaged folder loaded or
left behind.
"""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from course_utils import models
from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import Compressed, QuantizedLinear, compressed, gptq, load, rtn

METHODS = {
    "rtn 4": lambda model, ids: rtn.quantize(model, bits=4, group_size=16),
    "rtn 5 symmetric, whole rows": lambda model, ids: rtn.quantize(
        model, bits=5, group_size=-1, symmetric=True
    ),
    "gptq 3 act-order": lambda model, ids: gptq.quantize(
        model, ids, bits=3, group_size=8, act_order=True
    ),
    "gptq 2": lambda model, ids: gptq.quantize(model, ids, bits=2, group_size=16),
    "exact": lambda model, ids: Compressed(model, {"method": "none"}, 0.0),
}


@torch.no_grad()
def logits(model, ids):
    return model(ids).logits


@pytest.fixture
def saved(make, ids, tmp_path):
    """A small compressed model and its folder."""
    made = rtn.quantize(make("llama"), bits=4, group_size=16)
    made.save(tmp_path / "model")
    return made, tmp_path / "model"


@pytest.mark.parametrize("method", METHODS)
def test_bit_identical_after_loading(tiny, ids, tmp_path, method):
    made = METHODS[method](tiny, ids)
    size = made.save(tmp_path / "model")
    assert (
        size == sum(f.stat().st_size for f in (tmp_path / "model").iterdir()) == made.bytes_on_disk
    )
    loaded = load(tmp_path / "model")
    assert not loaded.training and type(loaded) is type(tiny)
    assert torch.equal(logits(loaded, ids), logits(made.model, ids))
    ask = {
        "max_new_tokens": 8,
        "do_sample": False,
        "attention_mask": torch.ones(2, 6, dtype=torch.long),
    }
    assert torch.equal(loaded.generate(ids[:2, :6], **ask), made.model.generate(ids[:2, :6], **ask))
    again = Compressed(loaded, made.settings, 0.0)
    again.save(tmp_path / "again")
    one, two = (tmp_path / name / "weights.safetensors" for name in ("model", "again"))
    assert one.read_bytes() == two.read_bytes()


def test_group_index_is_saved_only_where_groups_are_scattered(make, ids, tmp_path):
    for act_order in (False, True):
        made = gptq.quantize(make("qwen2"), ids, bits=4, group_size=8, act_order=act_order)
        made.save(tmp_path / "model")
        stored = [
            k
            for k in load_file(tmp_path / "model/weights.safetensors")
            if k.endswith("group_index")
        ]
        assert bool(stored) == act_order
        loaded = load(tmp_path / "model")
        for name, layer in made.model.named_modules():
            if isinstance(layer, QuantizedLinear) and layer.group_index is not None:
                assert torch.equal(loaded.get_submodule(name).group_index, layer.group_index)
                assert layer.group_index.bincount().tolist() == [8] * layer.groups


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [False, True])
def test_bytes_of_a_layer(make, tmp_path, bits, symmetric):
    """bits / 8 bytes a weight, 2 bytes a scale, bits / 8 a zero point, each row padded to whole
    bytes.
    """
    made = rtn.quantize(make("llama"), bits=bits, group_size=16, symmetric=symmetric)
    made.save(tmp_path / "model")
    stored = load_file(tmp_path / "model/weights.safetensors")
    for name, module in walk.compressible(make("llama")).items():
        rows, columns = walk.weight_of(module).shape
        groups = columns // 16
        wanted = rows * (
            columns * bits // 8 + 2 * groups + (0 if symmetric else -(-groups * bits // 8))
        )
        parts = [
            v for k, v in stored.items() if k.startswith(name + ".") and not k.endswith(".bias")
        ]
        assert sum(v.nbytes for v in parts) == wanted, name
        assert stored[name + ".packed"].nbytes == rows * columns * bits // 8
    header = (tmp_path / "model/weights.safetensors").stat().st_size - sum(
        v.nbytes for v in stored.values()
    )
    assert 0 < header < 200 * len(stored)


def test_bundled_model_shrinks_as_its_bits_say(tmp_path):
    model, tokenizer = models.load("bundled")
    linear = sum(walk.weight_of(m).numel() for m in walk.compressible(model).values())
    rest = sum(p.numel() for p in model.parameters()) - linear
    made = rtn.quantize(model, bits=4, group_size=64)
    size = made.save(tmp_path / "model", tokenizer)
    # the bundled weights are bfloat16, and the rest of the model keeps them exactly
    rest_bytes = 2 * rest
    weights = linear * 4 / 8 + linear / 64 * 2.5
    assert (
        weights + rest_bytes
        < (tmp_path / "model/weights.safetensors").stat().st_size
        < 1.03 * (weights + rest_bytes)
    )
    assert size < 0.6 * sum(f.stat().st_size for f in models.BUNDLED.glob("*.safetensors"))
    reloaded, again = load(tmp_path / "model"), models.load_tokenizer(tmp_path / "model")
    prompt = tokenizer("The ", return_tensors="pt")
    text = reloaded.generate(
        prompt["input_ids"], attention_mask=prompt["attention_mask"], max_new_tokens=8
    )
    assert len(again.decode(text[0])) > 4


def test_tied_embeddings_are_stored_once_and_stay_tied(make, ids, tmp_path):
    for architecture, tied in (("llama", True), ("opt", True), ("gpt2", True), ("qwen2", False)):
        made = rtn.quantize(make(architecture), bits=4, group_size=16)
        made.save(tmp_path / architecture)
        stored = load_file(tmp_path / architecture / "weights.safetensors")
        vocabulary = [k for k, v in stored.items() if v.shape[:1] == (96,) and "packed" not in k
                      and v.dim() == 2
                      and ("embed" in k or "wte" in k or "head" in k)]  # fmt: skip
        assert len(vocabulary) == (1 if tied else 2), vocabulary
        loaded = load(tmp_path / architecture)
        same = loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
        assert same == tied


def test_reduced_precision_models(make, ids, tmp_path):
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        made = rtn.quantize(make("llama", dtype), bits=4, group_size=16)
        made.save(tmp_path / "model")
        loaded = load(tmp_path / "model")
        assert loaded.dtype == dtype and logits(loaded, ids).dtype == dtype
        assert torch.equal(logits(loaded, ids), logits(made.model, ids))


def test_changing_a_models_precision_keeps_its_grids(make, ids):
    """`half()` and `to` cast activations; scales and packed integers must survive them."""
    made = rtn.quantize(make("llama"), bits=4, group_size=16).model
    wanted = {name: m.weight for name, m in made.named_modules() if isinstance(m, QuantizedLinear)}
    before = logits(made, ids)
    for change in (
        lambda m: m.to(torch.bfloat16),
        lambda m: m.half(),
        lambda m: m.double(),
        lambda m: m.float(),
    ):
        change(made)
        assert all(torch.equal(made.get_submodule(name).weight, w) for name, w in wanted.items())
        assert (logits(made, ids).float() - before).norm() < 0.02 * before.norm()
    meta = copy.deepcopy(made).to("meta")
    assert all(buffer.device.type == "meta" for buffer in meta.buffers())


def test_scales_that_float16_cannot_hold_are_stored_in_float32(make, ids, tmp_path):
    model = make("llama")
    name = next(iter(walk.compressible(model)))
    with torch.no_grad():
        model.get_submodule(name).weight.mul_(1e-7)
    made = rtn.quantize(model, bits=4, group_size=16)
    made.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.get_submodule(name).scale.dtype == torch.float32
    assert torch.equal(logits(loaded, ids), logits(made.model, ids))


def test_group_dequantizing_is_the_grid_formula(make, ids):
    """The layer unpacks whole groups at once; the grid says the same column by column."""
    for act_order in (False, True):
        made = gptq.quantize(make("llama"), ids, bits=3, group_size=8, act_order=act_order).model
        for layer in made.modules():
            if isinstance(layer, QuantizedLinear):
                grid = layer.grid(torch.float64)
                codes = compressed_codes(layer)
                for j in range(layer.in_features):
                    g = int(grid.group_index[j])
                    wanted = grid.scale[:, g] * (codes[:, j] - grid.zero_point[:, g])
                    torch.testing.assert_close(
                        layer.weight[:, j].double(), wanted, rtol=1e-6, atol=0
                    )


def compressed_codes(layer):
    """3-bit codes read bit by bit from the packed rows: two low bits, then the high one; columns
    group by group.
    """
    columns = layer.in_features
    bits = (
        ((layer.packed[..., None] >> torch.arange(8)) & 1).reshape(layer.out_features, -1).double()
    )
    low, high = bits[:, : 2 * columns], bits[:, 2 * columns :]
    codes = low[:, ::2] + 2 * low[:, 1::2] + 4 * high
    if layer.group_index is None:
        return codes
    places = sorted(range(columns), key=lambda column: int(layer.group_index[column]))
    return codes[:, [places.index(column) for column in range(columns)]]


# --- damage ---


def test_every_flipped_bit_is_noticed(saved, tmp_path):
    """A bit anywhere in any file, also in the checksums themselves."""
    _, folder = saved
    places = torch.Generator().manual_seed(0)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for _ in range(12):
            at = int(torch.randint(len(whole), (), generator=places))
            broken = bytearray(whole)
            broken[at] ^= 1 << int(torch.randint(8, (), generator=places))
            file.write_bytes(broken)
            with pytest.raises(
                CompressionError,
                match=file.name if file.name != "compression.json" else "compression",
            ):
                load(folder)
        file.write_bytes(whole)
    load(folder)


def test_truncated_and_missing_files_are_noticed(saved):
    _, folder = saved
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for part in (whole[:-1], whole[: len(whole) // 2], b""):
            file.write_bytes(part)
            with pytest.raises(CompressionError, match="again"):
                load(folder)
        file.unlink()
        with pytest.raises(CompressionError, match="again"):
            load(folder)
        file.write_bytes(whole)
    load(folder)
    with pytest.raises(CompressionError, match="missing"):
        load(folder / "nowhere")


def test_files_of_two_models_are_not_mixed(make, saved, tmp_path):
    _, folder = saved
    rtn.quantize(make("qwen2"), bits=4, group_size=16).save(tmp_path / "other")
    for name in ("weights.safetensors", "config.json"):
        mixed = tmp_path / f"mixed-{name}"
        shutil.copytree(folder, mixed)
        shutil.copy(tmp_path / "other" / name, mixed / name)
        with pytest.raises(CompressionError, match=name):
            load(mixed)


def test_a_folder_of_a_later_version_is_refused(saved):
    _, folder = saved
    manifest = json.loads((folder / "compression.json").read_text())
    manifest["format"] = compressed.FORMAT + 1
    manifest["self"] = compressed.digest(compressed._canonical(manifest))
    (folder / "compression.json").write_text(json.dumps(manifest))
    with pytest.raises(CompressionError, match="version"):
        load(folder)


@pytest.mark.parametrize("step", ["save_file", "digest", "first rename", "second rename"])
@pytest.mark.parametrize(
    "error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk", "interrupt"]
)
def test_interrupted_write_leaves_the_old_folder_whole(make, saved, ids, monkeypatch, step, error):
    made, folder = saved
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    renames = []

    def fail(*_):
        raise error

    def rename(source, target):
        renames.append(target)
        if len(renames) == ("first rename", "second rename").index(step) + 1:
            raise error
        os.rename(source, target)

    if step.endswith("rename"):
        monkeypatch.setattr(compressed.os, "replace", rename)
    else:
        monkeypatch.setattr(compressed, step, fail)
    with pytest.raises(type(error)):
        rtn.quantize(make("llama"), bits=2, group_size=16).save(folder)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before
    assert [f.name for f in folder.parent.iterdir()] == ["model"]  # nothing half-written lies about
    monkeypatch.undo()
    assert torch.equal(logits(load(folder), ids), logits(made.model, ids))


KILLED = """
import os, signal, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from course_utils.quantization import rtn
config = LlamaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                     intermediate_size=16)
made = rtn.quantize(LlamaForCausalLM(config), bits=4, group_size=16)
made.save(sys.argv[1])
rename, calls = os.replace, []
def killed(*names):
    calls.append(names)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*names)
os.replace = killed
made.save(sys.argv[1])
"""


def test_killed_between_the_two_renames(tmp_path):
    """The worst moment for kill -9: the old folder is whole beside its place, and loading says
    where.
    """
    folder = tmp_path / "model"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], stderr=subprocess.PIPE)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    (aside,) = tmp_path.glob(".model-*-old")
    with pytest.raises(CompressionError, match=f"interrupted.*{aside.name}"):
        load(folder)
    os.rename(aside, folder)
    assert load(folder).config.hidden_size == 16


def test_saving_over_a_save_replaces_it(make, saved, ids):
    _, folder = saved
    (folder / "notes.txt").write_text("mine")
    made = rtn.quantize(make("qwen2"), bits=3, group_size=16)
    made.save(folder)
    assert not (folder / "notes.txt").exists()
    assert torch.equal(logits(load(folder), ids), logits(made.model, ids))
    assert [f.name for f in folder.parent.iterdir()] == ["model"]


def test_a_folder_of_something_else_is_never_overwritten(saved, tmp_path):
    made, _ = saved
    other = tmp_path / "thesis"
    other.mkdir()
    made.save(other)  # an empty folder is fine
    shutil.rmtree(other)
    other.mkdir()
    (other / "chapter-1.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for target in (other, tmp_path / "file"):
        with pytest.raises(CompressionError, match="something else"):
            made.save(target)
    assert (other / "chapter-1.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "a file"


def test_only_language_models_are_saved(tmp_path):
    made = rtn.quantize(torch.nn.Sequential(torch.nn.Linear(16, 4)), bits=4, group_size=16)
    with pytest.raises(CompressionError, match="save: only Hugging Face models"):
        made.save(tmp_path / "model")
    assert not list(Path(tmp_path).iterdir())


def test_settings_may_be_numbers_of_numpy(make, ids, tmp_path):
    made = rtn.quantize(make("llama"), bits=np.int64(4), group_size=np.int32(16))
    made.save(tmp_path / "model")
    assert torch.equal(logits(load(tmp_path / "model"), ids), logits(made.model, ids))


def test_folders_that_a_tokenizer_brings_are_kept_and_counted(saved):
    class Tokenizer:
        def save_pretrained(self, folder):
            (folder / "templates").mkdir(mode=0o700)
            (folder / "templates" / "chat.jinja").write_text("x" * 5000)

    made, folder = saved
    size = made.save(folder, Tokenizer())
    assert size == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert (folder / "templates").stat().st_mode & 0o777 == 0o755
    assert (folder / "templates" / "chat.jinja").stat().st_mode & 0o777 == 0o644
    load(folder)
    (folder / "templates" / "chat.jinja").write_text("y" * 5000)
    with pytest.raises(CompressionError, match="chat.jinja: checksum differs"):
        load(folder)
