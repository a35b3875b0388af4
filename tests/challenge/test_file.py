"""The file of the challenge: every codec against its definition; whatever else it holds is refused
with a reason, in bounds.
"""

import json
import os
import struct
import time
import tracemalloc

import numpy as np
import pytest
import torch
from challenge_parts import CONFIG, parts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab_attacks import FILES, GOOD, closed, opened

from course_utils import models
from course_utils.challenge import codecs, encoders, file, layout, model
from course_utils.errors import CompressionError

MADE, WANTED = parts()


def test_every_codec_means_what_its_definition_says():
    config, tensors = file.read(GOOD)
    assert config == CONFIG and list(tensors) == list(layout.shapes(CONFIG))
    assert {c for c in codecs.DECODERS if f'"{c}"' in json.dumps(opened()[0])} == set(
        codecs.DECODERS
    ) - {"bf16"}
    for name, wanted in WANTED.items():
        np.testing.assert_allclose(tensors[name], wanted, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("seed", range(1, 6))
def test_other_draws_come_back_as_well(seed):
    made, wanted = parts(seed)
    for name, found in file.read(file.write(CONFIG, made))[1].items():
        np.testing.assert_allclose(found, wanted[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_bf16_rounds_as_torch_does():
    weight = torch.randn(8, generator=torch.Generator().manual_seed(0)) * torch.logspace(-20, 20, 8)
    weight[0] = 1 + 2**-8  # a tie
    name = "model.norm.weight"
    assert torch.equal(
        torch.from_numpy(
            file.read(file.write(CONFIG, MADE | {name: encoders.bf16(weight)}))[1][name]
        ),
        weight.bfloat16().float(),
    )


def test_the_bundled_model_comes_back_bit_for_bit():
    original = models.load("bundled")[0]
    content = model.pack(original)
    again = model.load(content)
    own = original.state_dict()
    assert len(content) == pytest.approx(2 * 3_214_080, rel=0.001)
    for name, values in again.state_dict().items():
        assert torch.equal(values, own[name].bfloat16().float()), name
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, original(ids).logits, rtol=1e-5, atol=1e-5)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_refused(noise, marked):
    with pytest.raises(CompressionError):
        file.read(file.MAGIC + noise if marked else noise)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 30),
)
def test_a_changed_file_is_read_or_refused(changes, cut):
    content = bytearray(GOOD)
    for place, value in changes:
        content[place] = value
    try:
        tensors = file.read(bytes(content[: len(content) - cut]))[1]
    except CompressionError as error:
        assert str(error)
    else:
        assert all(np.isfinite(t).all() for t in tensors.values()) and not cut


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(), st.text(max_size=5),
    st.lists(st.integers(-3, 1 << 63), max_size=4),
    st.dictionaries(st.sampled_from(["codec", "streams", "rank", "inside"]),
                    st.sampled_from(["sum", "masked", 1, []]), max_size=3),
)  # fmt: skip


def places(node, path=()):
    """The path of everything in a header."""
    yield path
    for key, value in (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    ):
        yield from places(value, (*path, key))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_header_with_another_value_anywhere_is_read_or_refused(data):
    header, streams = opened()
    *way, last = data.draw(st.sampled_from([p for p in places(header) if p]))
    node = header
    for key in way:
        node = node[key]
    node[last] = data.draw(VALUES)
    try:
        assert len(file.read(closed(header, streams))[1]) == len(MADE)
    except CompressionError as error:
        assert len(str(error)) < 600


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_with_its_reason_in_little_time_and_memory(name):
    content, reason = FILES[name]
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(CompressionError, match=reason):
        file.read(content)
    used, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 5 and peak < 32 << 20


def spoiled(lanes=None, count=None):
    """The file whose embedding says another number of lanes or of symbols."""
    place = GOOD.index(MADE["model.embed_tokens.weight"].streams[0])
    stated, words, own, checksum = struct.unpack_from("<QIHI", GOOD, place)
    return (
        GOOD[:place]
        + struct.pack("<QIHI", count or stated, words, lanes or own, checksum)
        + GOOD[place + 18 :]
    )


@pytest.mark.parametrize(
    "content", [spoiled(lanes=65535), spoiled(lanes=1), spoiled(count=1 << 63), spoiled(count=5)]
)
def test_a_rans_stream_that_states_something_else_is_refused(content):
    with pytest.raises(CompressionError):
        file.read(content)


def test_decoding_bombs_are_paid_from_one_budget():
    with pytest.raises(CompressionError, match="too much work"):
        codecs.Budget().spend(numbers=codecs.NUMBERS + 1)
    budget = codecs.Budget(rounds=10)
    with pytest.raises(CompressionError, match="rounds"):
        part = MADE["model.embed_tokens.weight"]
        codecs.decode(
            part.said, (1024, 8), codecs.Streams(memoryview(b"".join(part.streams))), budget
        )


def test_numbers_that_are_not_finite_are_refused():
    place = GOOD.index(MADE["model.norm.weight"].streams[0])
    for bits in (0x7C00, 0x7E00):
        with pytest.raises(CompressionError, match="not finite"):
            file.read(GOOD[:place] + struct.pack("<H", bits) + GOOD[place + 2 :])


def test_only_a_plain_file_of_the_disk_is_read(tmp_path):
    plain, link, pipe = (tmp_path / name for name in ("a.smol", "b.smol", "c.smol"))
    plain.write_bytes(GOOD)
    link.symlink_to(plain)
    os.mkfifo(pipe)
    assert len(file.read(plain)[1]) == len(MADE)
    for path in (link, pipe, tmp_path, tmp_path / "none.smol"):
        with pytest.raises(CompressionError, match="file"):
            file.read(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: encoders.grid([[4]], [[1.0]], bits=2, group=1), "codes"),
        (lambda: encoders.f16([1e6]), "float16"),
        (lambda: encoders.bf16([float("nan")]), "finite"),
        (lambda: encoders.coded([[0, 99999]], 1.0), "larger step"),
        (lambda: encoders.ternary([[2]], [[1.0]], group=1), "signs"),
        (lambda: encoders.table([1.0, 2.0], [[2]]), "index"),
        (lambda: file.write(CONFIG, {}), "parts"),
        (lambda: model.pack(models.load("bundled")[0], {"x": encoders.bf16([1.0])}), "no tensor"),
    ],
)
def test_what_cannot_be_written_is_said(make, said):
    with pytest.raises(CompressionError, match=said):
        make()
