"""Damaged checkpoints of every format: refused with a reason where a checksum can tell, and never
half loaded.
"""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.checkpoints import awq, bitsandbytes, compressed_tensors, gguf, gptq
from course_utils.errors import CompressionError
from course_utils.quantization import compressed, load, microscaling, nf4, rtn

IDS = torch.randint(64, (2, 8), generator=torch.Generator().manual_seed(0))


def tiny():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=64, max_position_embeddings=64,
        tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


FORMATS = {
    "ours": (lambda place: rtn.quantize(tiny(), bits=4).save(place), load),
    "gptq": (lambda place: gptq.write(rtn.quantize(tiny(), bits=4), place), gptq.read),
    "awq": (lambda place: awq.write(rtn.quantize(tiny(), bits=4), place), awq.read),
    "bitsandbytes": (
        lambda place: bitsandbytes.write(nf4.quantize(tiny()), place),
        bitsandbytes.read,
    ),
    "compressed-tensors": (
        lambda place: compressed_tensors.write(
            microscaling.quantize(tiny(), scheme="NVFP4"), place
        ),
        compressed_tensors.read,
    ),
    "gguf": (lambda place: gguf.write(tiny(), place, type_name="Q8_0"), gguf.read),
}


@pytest.fixture(params=FORMATS)
def written(request, tmp_path):
    """(name of the format, reader, folder or file, its files with their contents)."""
    write, read = FORMATS[request.param]
    place = tmp_path / "model.gguf" if request.param == "gguf" else tmp_path / "model"
    write(place)
    files = [place] if place.is_file() else sorted(place.iterdir())
    return request.param, read, place, {file: file.read_bytes() for file in files}


def flipped(content, seed, among=None):
    """One bit changed, at a place that the seed chooses, anywhere or in the first `among` bytes."""
    g = torch.Generator().manual_seed(seed)
    at = int(torch.randint(min(len(content), among or len(content)), (), generator=g))
    name = content.find(gguf.CHECKSUM.encode())
    # see test_a_flipped_bit_is_noticed
    at += len(gguf.CHECKSUM) if name <= at < name + len(gguf.CHECKSUM) else 0
    broken = bytearray(content)
    broken[at] ^= 1 << int(torch.randint(8, (), generator=g))
    return bytes(broken)


def test_a_flipped_bit_is_noticed(written):
    """Anywhere in any file.

    In GGUF a bit of the checksum's own name makes it unknown; the model is whole then.
    """
    format, read, place, files = written
    for number, (file, content) in enumerate(files.items()):
        for seed in range(6):
            file.write_bytes(flipped(content, 100 * number + seed))
            with pytest.raises(CompressionError, match="checksum|not readable|altered"):
                read(place)
        file.write_bytes(content)
    with torch.no_grad():
        assert torch.isfinite(read(place)(input_ids=IDS).logits).all()


def test_a_truncated_or_missing_file_is_noticed(written):
    format, read, place, files = written
    for file, content in files.items():
        for part in (content[:-1], content[: len(content) // 2], content[:10], b""):
            file.write_bytes(part)
            with pytest.raises(CompressionError):
                read(place)
        if file.name != "checksums.json":  # without it a folder is another tool's
            file.unlink()
            with pytest.raises(CompressionError):
                read(place)
        file.write_bytes(content)
    read(place)


def test_without_checksums_nothing_is_half_loaded(written):
    """As other tools write them: damage to names, shapes and settings is refused or leaves every
    tensor there.
    """
    format, read, place, files = written
    if format == "ours":
        manifest = json.loads(files[place / "compression.json"])
        manifest.pop("self")
        (place / "compression.json").write_text(json.dumps(manifest))
        with pytest.raises(CompressionError, match="compression.json"):
            read(place)
        return
    if format == "gguf":
        files = {place: files[place].replace(gguf.CHECKSUM.encode(), b"other.string.")}
        place.write_bytes(files[place])
    else:
        (place / "checksums.json").unlink()
    wanted = {name: tensor.shape for name, tensor in read(place).state_dict().items()}
    refused = 0
    for number, (file, content) in enumerate(
        (f, c) for f, c in files.items() if f.name != "checksums.json"
    ):
        for seed in range(8):
            file.write_bytes(flipped(content, 1000 + 100 * number + seed, among=3000))
            try:
                found = read(place).state_dict()
                assert {name: tensor.shape for name, tensor in found.items()} == wanted
            except CompressionError as error:
                assert str(error)
                refused += 1
        file.write_bytes(content)
    assert refused > 1


def test_the_checksum_of_a_gguf_file_is_that_of_its_bytes(tmp_path):
    gguf.write(tiny(), tmp_path / "model.gguf", type_name="Q4_0")
    content = (tmp_path / "model.gguf").read_bytes()
    at = content.index(gguf.CHECKSUM.encode()) + len(gguf.CHECKSUM) + 12
    stored = content[at : at + 64]
    assert compressed.digest(content.replace(stored, gguf.BLANK)) == stored.decode()
