"""Lab 4.1's file: what our decoder reads, what it counts, and what it refuses."""

import struct

import pytest
import torch

from course_utils.errors import CompressionError
from course_utils.learn import coded
from course_utils.learn.checks.exercise import find
from course_utils.theory import coding

ENCODE = find("lab_rate.encode").spec
SHAPES = {"a": (7, 11), "b": (5, 3)}


def matrices():
    g = torch.Generator().manual_seed(0)
    codes = {
        name: (3 * torch.randn(shape, generator=g)).round().long() for name, shape in SHAPES.items()
    }
    steps = {"a": 0.1 + torch.rand(11, generator=g), "b": torch.tensor([0.037])}
    return codes, steps


def file(encode=ENCODE):
    codes, steps = matrices()
    return {
        "a": coded.part(codes["a"], steps["a"], encode, classes=3),
        "b": coded.part(codes["b"], steps["b"], encode),
    }


def test_what_is_written_is_read():
    codes, steps = matrices()
    for name, weight in coded.decode(file(), SHAPES).items():
        want = codes[name] * coded.rounded(steps[name])
        assert (
            torch.allclose(weight.double(), want, rtol=1e-6, atol=0)
            and weight.dtype == torch.float32
        )


def test_a_stream_is_that_of_the_course_with_one_lane():
    codes = torch.randint(0, 9, (400,), generator=torch.Generator().manual_seed(1)) ** 2 // 9
    table = torch.from_numpy(coding.frequencies(torch.bincount(codes).numpy()))
    stream = coding.encode(codes.numpy(), table.numpy(), lanes=1)[struct.calcsize(coding.HEADER) :]
    assert torch.equal(coded.read(torch.tensor(list(stream), dtype=torch.uint8), table, 400), codes)


def test_every_byte_is_counted():
    """Steps 2 bytes each, or 4 alone; classes 1 a column; 4 and 2 a frequency for each table; the
    streams.
    """
    parts = file()
    a, b = parts["a"]["classes"], parts["b"]["classes"]
    streams = sum(len(c["stream"]) for c in [*a, *b])
    tables = sum(4 + 2 * len(c["frequencies"]) for c in [*a, *b])
    assert len(a) == 3 and coded.file_bytes(parts) == 11 * 2 + 11 + 4 + tables + streams


def test_the_expected_bytes_are_nearly_those():
    g = torch.Generator().manual_seed(2)
    codes, steps = (
        (2 * torch.randn(96, 128, generator=g)).round().long(),
        torch.rand(128, generator=g) + 0.1,
    )
    for classes in (1, 4):
        written = coded.file_bytes({"w": coded.part(codes, steps, ENCODE, classes)})
        assert 0.99 * written < coded.expected_bytes(codes, steps, classes) <= written + 8 * classes


def changed(**change):
    parts = file()
    parts["a"] |= change
    return parts


def in_class(**change):
    parts = file()
    parts["a"]["classes"][1] |= change
    return parts


TABLE = torch.full((64,), 256, dtype=torch.int16)
REFUSED = [
    (lambda: {"a": file()["a"]}, "one for each of the 2"),
    (lambda: changed(more=1), "nothing else"),
    (lambda: changed(steps=0.1), "are tensors"),
    (lambda: changed(steps=torch.ones(11)[:4]), "steps: expected"),
    (lambda: changed(steps=torch.ones(11).double()), "steps: expected"),
    (lambda: changed(steps=torch.full((11,), float("nan"))), "positive and finite"),
    (lambda: changed(which=torch.zeros(0, dtype=torch.uint8)), "which: expected"),
    (lambda: changed(which=torch.full((11,), 3, dtype=torch.uint8)), "classes: 3"),
    (lambda: changed(classes=[]), "which: expected"),
    (lambda: in_class(lowest=1.5), "a class"),
    (lambda: in_class(lowest=2**40), "a class"),
    (lambda: in_class(frequencies=TABLE.long()), "a class"),
    (lambda: in_class(frequencies=TABLE[1:]), "with the sum 16384"),
    (lambda: in_class(frequencies=-TABLE), "none negative"),
    (lambda: in_class(frequencies=TABLE), "not read as written"),
    (lambda: in_class(stream=torch.zeros(3, dtype=torch.uint8)), "stream: expected uint8"),
    (lambda: in_class(stream=torch.zeros(9)), "stream: expected uint8"),
    (lambda: in_class(stream=torch.zeros(4, dtype=torch.uint8)), "not read as written"),
    (lambda: {**file(), "a": [1, 2]}, "no part"),
    (lambda: {**file(), "a": file()["b"]}, "not read as written"),
]


@pytest.mark.parametrize(("make", "said"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_file_is_refused_by_name(make, said):
    with pytest.raises(CompressionError, match=said):
        coded.decode(make(), SHAPES)


def test_more_or_fewer_symbols_than_were_written_are_noticed():
    symbols = torch.arange(40) % 7
    table = torch.from_numpy(coding.frequencies(torch.bincount(symbols).numpy()))
    stream = ENCODE(symbols, table)
    for count in (39, 41, 4000):
        with pytest.raises(CompressionError, match="not read as written"):
            coded.read(stream, table, count)
    longer = torch.cat([stream, torch.zeros(2, dtype=torch.uint8)])
    with pytest.raises(CompressionError, match="not read as written"):
        coded.read(longer, table, 40)


def test_too_many_classes():
    with pytest.raises(CompressionError, match="choose 1 to 256"):
        coded.part(torch.zeros(2, 300), torch.ones(1), ENCODE, classes=257)
