"""What crosses the channel comes back the same, and nothing else than values comes out of it."""

import json
import random
import socket
import threading
import time

import numpy as np
import pytest
import torch

from course_utils.grade import wire
from course_utils.learn.checks import compare


def refuse(_):
    raise wire.NotPlain


def across(value):
    """The value after a trip through a real socket."""
    tensors = {}
    node = wire.encode(value, tensors, refuse)
    one, other = socket.socketpair()
    with one, other:
        threading.Thread(target=wire.send, args=(one, {"value": node}, tensors)).start()
        content, found = wire.receive(other, deadline=time.monotonic() + 60)
    return wire.decode(content["value"], found, refuse)


KINDS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
]


@pytest.mark.parametrize("dtype", [*KINDS, torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (2, 0, 3)])
def test_tensors(dtype, shape):
    made = (
        100 * torch.randn(shape, dtype=torch.complex128 if dtype.is_complex else torch.float64)
    ).to(dtype)
    for tensor in (made, made.T if made.dim() == 2 else made, made.expand(5, *shape)):
        back = across(tensor)
        assert (
            type(back) is torch.Tensor
            and back.dtype == dtype
            and back.shape == tensor.shape
            and back.equal(tensor)
        )


def test_other_values():
    value = {
        "a": [1, 2.5, True, None, "ü", ...],
        3: (1 + 2j, float("inf"), -0.0),
        ("k", 1): {"t": (torch.ones(2), torch.float16)},
    }
    assert repr(across(value)) == repr(value)
    assert across(2**200) == 2**200 and str(across(float("nan"))) == "nan"
    number, array = across(np.float32(1.5)), across(np.arange(6, dtype=np.int16).reshape(2, 3))
    assert type(number) is np.float32 and number == 1.5
    assert array.dtype == np.int16 and array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert type(across(torch.nn.Parameter(torch.ones(2)))) is torch.Tensor
    assert across(torch.eye(3).to_sparse()).equal(torch.eye(3))


def test_a_tensor_that_wants_gradients_becomes_a_leaf_that_does():
    x = torch.ones(3, requires_grad=True)
    for tensor in (x, 2 * x):
        back = across(tensor)
        assert back.requires_grad and back.is_leaf and back.equal(tensor)
    assert not across(x.detach()).requires_grad


def test_what_is_not_plain_is_not_sent():
    class Float(float):
        pass

    for value in (
        Float(1),
        object(),
        {1, 2},
        len,
        b"x",
        type("S", (str,), {})("x"),
        torch.ones(1, device="meta"),
        np.array(["x"]),
    ):
        with pytest.raises(wire.NotPlain):
            wire.encode([value], {}, refuse)


@pytest.mark.parametrize(
    "node",
    [
        [], [[]], {}, ["tensor"], ["tensor", ["9", False, False]], ["tensor", ["0", True, False]],
        ["tensor", ["0", False]], ["list"], ["list", 5], ["dict", [[1]]],
        ["dict", [[["list", []], 1]]], ["dtype", "load"], ["dtype", "__name__"], ["number", "O", 1],
        ["number", "i4", "x"], ["complex", "x"], ["array", ["0", False, False], [7]],
        ["number", "U9", "x"],
    ],
)  # fmt: skip
def test_nodes_that_mean_nothing(node):
    with pytest.raises(wire.WireError):
        wire.decode(
            node, {"0": torch.ones(3)}, lambda _: (_ for _ in ()).throw(wire.WireError("unknown"))
        )


def test_too_many_values_are_refused():
    with pytest.raises(wire.WireError, match="more than"):
        wire.decode(["list", [0] * (wire.NODES + 1)], {}, refuse)


def frame(text, blob=b"", sizes=None):
    return wire.HEAD.pack(*(sizes or (len(text), len(blob)))) + text + blob


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0", frame(b"no JSON"), frame(b"[]"), frame(b"{}", b"no tensors"),
        frame(b"", sizes=(1 << 62, 0)), frame(b"{}", sizes=(2, 1 << 40)), frame(b"[" * 100_000),
        frame(json.dumps({"a": "x"}).encode()[:-2]), frame(b'{"a": ' + b"9" * 9000 + b"}"),
        *(random.Random(n).randbytes(200) for n in range(40)),
    ],
)  # fmt: skip
def test_frames_that_are_none(content):
    one, other = socket.socketpair()
    with other:
        with one:
            one.sendall(content)
        with pytest.raises(wire.WireError):
            wire.receive(other, deadline=time.monotonic() + 60, largest=1 << 20)


def test_a_frame_that_does_not_come_is_not_waited_for():
    one, other = socket.socketpair()
    with one, other:
        one.sendall(frame(b"{}", sizes=(9, 0)))
        with pytest.raises(wire.WireError, match="out of time"):
            wire.receive(other, deadline=time.monotonic() + 0.2)


def test_a_result_is_judged_as_without_the_wire():
    for value in (torch.ones(2), 3, 3.0, (1, [torch.zeros(1)])):
        assert compare.difference(across(value), value, 0.0) is None
