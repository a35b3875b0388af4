"""One step + entropy coding, and WaterSIC, as files: read back bit for bit, decoded block by block,
measured like any method.
"""

import gc

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.evaluation import by_window
from course_utils.models import walk
from course_utils.quantization import compressed, decoding, entropy_coded, rtn


def alive() -> dict[int, int]:
    """Bytes of each tensor that is alive, by its place in memory (what torch.compile and export
    imitate has none).
    """
    real = (
        t
        for t in gc.get_objects()
        if type(t) in (torch.Tensor, torch.nn.Parameter) and t.device.type == "cpu"
    )
    return {t.data_ptr(): t.untyped_storage().nbytes() for t in real if t.layout == torch.strided}


def held(known: set[int]) -> int:
    """Bytes of all tensors that are alive, but for those in `known` places; a place counts once."""
    return sum(size for place, size in alive().items() if place not in known)


def places() -> set[int]:
    gc.collect()  # what other tests left would be freed later, and its place used again
    return set(alive())


@pytest.mark.parametrize("steps", ["one", "watersic"])
def test_written_read_and_decoded_block_by_block(tiny, ids, tmp_path, monkeypatch, steps):
    settings = {"classes": 3, "calibration": ids} if steps == "watersic" else {}
    result = entropy_coded.quantize(tiny, bits=2.5, steps=steps, **settings)
    result.save(tmp_path / "m")
    some = ids[:1, :4]
    with torch.no_grad():
        wanted = result.model(input_ids=some).logits

    model = decoding.one_block_at_a_time(compressed.load(tmp_path / "m"))
    layers = {
        m: name
        for name, m in model.named_modules()
        if isinstance(m, entropy_coded.EntropyCodedLinear)
    }
    assert len(layers) == len(walk.compressible(tiny))
    blocks = [[m for m in block.modules() if m in layers] for block in walk.blocks(model)]
    dense = 4 * sum(m.in_features * m.out_features for m in layers)
    block_bytes = max(4 * sum(m.in_features * m.out_features for m in block) for block in blocks)
    before, peak, together = places(), [], []
    expand = entropy_coded.EntropyCodedLinear.weight.fget

    def spied(layer):
        weight = expand(layer)
        together.append(sum(any(m._decoded is not None for m in block) for block in blocks))
        if layer is blocks[-1][-1]:  # by then, what is not let go of has piled up
            peak.append(held(before))
        return weight

    monkeypatch.setattr(entropy_coded.EntropyCodedLinear, "weight", property(spied))
    with torch.no_grad():
        assert torch.equal(model(input_ids=some).logits, wanted), (
            "the same bits as the model that was saved"
        )
    assert max(together) == 1 and len(together) == len(layers), (
        "each layer expands once, one block is decoded"
    )
    assert len(peak) == 1 and peak[0] < block_bytes < dense / 2
    assert all(m._decoded is None for m in layers)
    whole = [expand(m) for m in layers]  # the measure itself sees a model that is expanded whole
    assert held(before) >= dense and len(whole) == len(layers)
    with torch.no_grad():
        assert torch.equal(model(input_ids=some).logits, wanted), "and again in the next pass"


def test_it_is_a_compressed_like_every_other(make, ids, tmp_path):
    tiny = make("llama")
    coded, rounded = (
        entropy_coded.quantize(tiny, bits=2.0),
        rtn.quantize(tiny, bits=2, group_size=16),
    )
    assert type(coded) is type(rounded) and coded.coverage.keys() == rounded.coverage.keys()
    assert coded.coverage == rounded.coverage, "the same layers are reached"
    assert (
        coded.bytes_on_disk
        == coded.save(tmp_path / "a")
        == sum(f.stat().st_size for f in (tmp_path / "a").iterdir())
    )
    assert by_window.kl_by_window(tiny, coded, ids[:2]).shape == (2,)


def test_a_model_without_such_layers(make):
    with pytest.raises(CompressionError, match=r"entropy_coded\.quantize"):
        decoding.one_block_at_a_time(make("gpt2"))
