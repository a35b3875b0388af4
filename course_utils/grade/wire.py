"""Values between the grader and a worker: JSON for what is small, safetensors for tensors, nothing
that could run.

A frame is two lengths (8 bytes each), JSON, and safetensors bytes. In the JSON a value is itself if
it is None, a bool, a number or a str; else a list that begins with its kind. What the other side
sends is only ever decoded into exactly these types: int, float, complex, bool, str, None, ...,
list, tuple, dict, torch.Tensor, numpy numbers and arrays, dtypes.
Everything else is left to `special`, of which the two sides have their own.
"""

import json
import math
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch

HEAD = struct.Struct(">QQ")
TEXT = 8 << 20  # bytes of JSON in a frame, at most
NODES = 250_000  # values in a frame, at most
DEPTH = 64  # values within values, at most
KEYS = 4096  # of a mapping, at most: numbers can be chosen so that each collides with all others
TENSORS = 4096  # in a frame, at most
LENGTH = struct.Struct("<Q")  # of the head of safetensors
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
    "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    **{f"U{bits}": getattr(torch, f"uint{bits}") for bits in (16, 32, 64) if hasattr(torch,
        f"uint{bits}")},
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
Hook = Callable[[Any], Any]


class WireError(Exception):
    """The other side is gone, late, or sent something that is not a frame."""


class NotPlain(Exception):
    """This value cannot be sent."""


def send(
    channel: socket.socket, content: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None
) -> None:
    """Send JSON and tensors, each with its length before it."""
    text = json.dumps(content).encode()
    parts = save_tensors(tensors) if tensors else []
    channel.sendall(HEAD.pack(len(text), sum(map(len, parts))) + text)
    for part in parts:
        channel.sendall(part)


def save_tensors(tensors: dict[str, torch.Tensor]) -> list[bytes | memoryview]:
    """Safetensors bytes in parts, of which each tensor is one: nothing is copied, so that memory is
    enough for large ones.

    The package `safetensors` holds three copies at once, and stops the process when memory is
    short.
    """
    head, parts, end = {}, [], 0
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise NotPlain(f"a tensor of {tensor.dtype} cannot be sent")
        start, end = end, end + tensor.numel() * tensor.dtype.itemsize
        head[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        if tensor.numel():
            parts.append(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    text = json.dumps(head).encode()
    return [LENGTH.pack(len(text)) + text, *parts]


def receive(
    channel: socket.socket, *, deadline: float | None = None, largest: int = 1 << 34
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The next frame.

    Raises WireError if it is malformed, larger than `largest`, or not there by `deadline`
    (time.monotonic).
    """
    text_size, blob_size = HEAD.unpack(_exactly(channel, HEAD.size, deadline))
    if text_size > TEXT or blob_size > largest:
        raise WireError(f"too large: {text_size + blob_size:,} bytes")
    text, blob = _exactly(channel, text_size, deadline), _exactly(channel, blob_size, deadline)
    try:
        content = json.loads(text)
        tensors = load_tensors(blob) if blob_size else {}
    except MemoryError:
        raise
    except Exception as error:
        raise WireError(f"not a frame ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise WireError("not a frame (no mapping)")
    return content, tensors


def load_tensors(blob: bytearray) -> dict[str, torch.Tensor]:
    """The tensors of safetensors bytes. Raises an exception of some kind if they are none."""
    size = LENGTH.unpack_from(blob)[0]
    head = json.loads(bytes(memoryview(blob)[LENGTH.size : LENGTH.size + min(size, TEXT)]))
    if len(head) > TENSORS:
        raise ValueError(f"more than {TENSORS} tensors")
    found = {}
    for name, entry in head.items():
        if name == "__metadata__":
            continue
        dtype, shape, (start, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        count, start, end = math.prod(shape), start + LENGTH.size + size, end + LENGTH.size + size
        if (
            any(type(n) is not int or n < 0 for n in shape)
            or end - start != count * dtype.itemsize
            or not 0 <= start <= end <= len(blob)
        ):
            raise ValueError(f"{name[:40]}: no tensor")
        # torch's own memory: aligned as its products want it
        flat = torch.empty(end - start, dtype=torch.uint8)
        if count:
            flat.copy_(torch.frombuffer(blob, dtype=torch.uint8, count=end - start, offset=start))
        found[name] = flat.view(dtype).reshape(shape)
    return found


def _exactly(channel: socket.socket, size: int, deadline: float | None) -> bytearray:
    content = bytearray()
    while len(content) < size:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([channel], [], [], left)[0]:
                raise WireError("out of time")
        try:
            part = channel.recv(min(size - len(content), 1 << 20))
        except OSError as error:
            raise WireError(f"gone ({error})") from error
        if not part:
            raise WireError("gone")
        content += part
    return content


def encode(value: Any, tensors: dict[str, torch.Tensor], special: Hook) -> Any:
    """`value` as JSON, its tensors put into `tensors`; `special(value)` gives the JSON of any other
    type, or raises NotPlain.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if value is ...:
        return ["..."]
    if kind in (torch.Tensor, torch.nn.Parameter):
        return ["tensor", _store(value, tensors)]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if isinstance(value, (list, tuple)):
        name = "list" if isinstance(value, list) else "tuple"
        items = list.__iter__(value) if isinstance(value, list) else tuple.__iter__(value)
        return [name, [encode(item, tensors, special) for item in items]]
    if isinstance(value, Mapping):
        return [
            "dict",
            [[encode(k, tensors, special), encode(v, tensors, special)] for k, v in value.items()],
        ]
    if isinstance(value, np.generic):
        return _number(value)
    if kind in (Fraction, Decimal):
        return float(value)
    if (
        isinstance(value, Sequence)
        and kind not in (bytes, bytearray, memoryview)
        and not isinstance(value, str)
    ):
        return ["list", [encode(item, tensors, special) for item in value]]
    if kind is np.ndarray and value.dtype.kind in "biufc":
        value = (
            value.astype(np.float64 if value.dtype.kind == "f" else np.complex128)
            if value.dtype.itemsize > 16 or value.dtype == np.longdouble
            else value
        )
        return [
            "array",
            _store(torch.from_numpy(np.ascontiguousarray(value)), tensors),
            list(value.shape),
        ]
    if kind is torch.dtype:
        return ["dtype", str(value).removeprefix("torch.")]
    return special(value)


def _number(value: np.generic) -> Any:
    """One of NumPy's numbers; what is wider than a double becomes one."""
    if isinstance(value, (np.longdouble, np.clongdouble)):
        value = np.float64(value) if isinstance(value, np.longdouble) else np.complex128(value)
    if value.dtype.kind in "biuf":
        return ["number", value.dtype.str, value.item()]
    if value.dtype.kind == "c":
        return ["complex", float(value.real), float(value.imag)]
    if value.dtype.kind == "U":
        return str(value)
    raise NotPlain(f"NumPy's {value.dtype} cannot be sent")


def _store(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> list[Any]:
    if tensor.device.type == "meta":
        raise NotPlain("a tensor on the device meta has no numbers")
    wants_gradient, tensor = tensor.requires_grad, tensor.detach()
    tensor = (
        (tensor.to_dense() if tensor.layout != torch.strided else tensor)
        .cpu()
        .resolve_conj()
        .resolve_neg()
    )
    is_complex = tensor.is_complex()
    tensors[name := str(len(tensors))] = (
        torch.view_as_real(tensor) if is_complex else tensor
    ).contiguous()
    return [name, is_complex, wants_gradient]


def decode(node: Any, tensors: dict[str, torch.Tensor], special: Hook) -> Any:
    """The value of JSON from `encode`; `special(node)` gives what a list of another kind stands
    for.

    Raises WireError.
    """
    try:
        return _Decoder(tensors, special).value(node)
    except (WireError, MemoryError):
        raise
    except Exception as error:  # whatever the constructors of what was sent may raise
        raise WireError(f"not a value ({type(error).__name__})") from error


class _Decoder:
    """Counts what it takes apart.

    No functions within functions that hold each other: they would hold the tensors, too.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], special: Hook) -> None:
        self.tensors, self.special = tensors, special
        self.left, self.depth = NODES, 0

    def value(self, node: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise WireError(f"more than {NODES:,} values")
        if self.depth > DEPTH:
            raise WireError(f"more than {DEPTH} values within each other")
        if node is None or type(node) in (bool, int, float, str):
            return node
        self.depth += 1
        try:
            return self._of_kind(node)
        finally:
            self.depth -= 1

    def _of_kind(self, node: Any) -> Any:
        kind, *rest = node
        if kind == "...":
            return ...
        if kind in ("list", "tuple"):
            return (list if kind == "list" else tuple)(map(self.value, rest[0]))
        if kind == "dict":
            if len(rest[0]) > KEYS:
                raise WireError(f"a mapping of more than {KEYS:,} keys")
            return {self.value(k): self.value(v) for k, v in rest[0]}
        if kind == "tensor":
            return self._fetch(*rest[0])
        if kind == "complex":
            return complex(*rest)
        if kind == "number":
            return _plain(np.dtype(rest[0])).type(rest[1])
        if kind == "array":
            return self._fetch(*rest[0]).numpy().reshape(rest[1])
        if kind == "dtype":
            found = getattr(torch, rest[0])
            if not isinstance(found, torch.dtype):
                raise WireError("not a dtype")
            return found
        return self.special(node)

    def _fetch(self, name: Any, is_complex: Any, wants_gradient: Any) -> torch.Tensor:
        tensor = torch.view_as_complex(self.tensors[name]) if is_complex else self.tensors[name]
        # a leaf: no graph crosses
        return tensor.clone().requires_grad_() if wants_gradient is True else tensor


def _plain(dtype: np.dtype) -> np.dtype:
    if dtype.kind not in "biuf" or dtype.names:
        raise WireError("not a number")
    return dtype
