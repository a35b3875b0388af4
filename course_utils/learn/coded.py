"""The file of lab 4.1: what a learner's coder wrote, read by our decoder, every byte counted.

A matrix (out, in) is a *part*: a dict of

    steps    (1,) or (in,) float16 or float32: Δ_j of each column
    which    (in,) uint8: the class of each column; () elements where there is one class
    classes  a list; for each class of columns {"lowest": int, "frequencies": int16 (K,),
             "stream": uint8 (bytes,)}

A stream holds the codes of its columns minus `lowest`, row by row: 4 bytes of rANS's last state,
then 16-bit words in the order in which they are read, all little-endian. That is `theory.coding`
with one lane and without its header.
Nothing of a part is trusted: how many codes there are follows from the shape of the matrix.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import entropy_coded, gptq
from course_utils.theory import coding

WHOLE = 1 << coding.PRECISION  # what frequencies sum to
MOST = 256  # classes: `which` is one byte
Part = Mapping[str, Any]
Encode = Callable[[Tensor, Tensor], Tensor]


def statistics(
    model: PreTrainedModel, calibration: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(weights, Hessians) of the blocks' linear layers by name, double precision; H is damped by 1
    %.

    `calibration`: token ids (sequences, context). The Hessians are those of the model as it is.
    """
    names = {id(module): name for name, module in walk.compressible(model).items()}
    weights = {
        name: walk.weight_of(module).detach().double()
        for name, module in walk.compressible(model).items()
    }
    hessians = {}
    for block, states in walk.through_blocks(model, calibration, "Hessians"):
        for module, H in gptq.block_hessians(block, states).items():
            hessians[names[id(module)]] = gptq.damped(H.double(), 0.01)
    return weights, hessians


def with_weights(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> torch.nn.Module:
    """A copy of the model with these weights in the linear layers of its blocks."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in walk.compressible(model).items():
            walk.weight_of(module).copy_(weights[name])
    return model


def read(stream: Tensor, frequencies: Tensor, count: int) -> Tensor:
    """`count` symbols (int64) of a stream of rANS with one state.

    Raises CompressionError unless it ends where it should.
    """
    f = [int(n) for n in frequencies.tolist()]
    if min(f, default=-1) < 0 or sum(f) != WHOLE:
        raise CompressionError(
            f"frequencies: must be whole numbers, none negative, with the sum {WHOLE}."
        )
    if stream.dtype != torch.uint8 or stream.dim() != 1 or len(stream) < 4 or len(stream) % 2:
        raise CompressionError("stream: expected uint8, 4 bytes of the state and 2 for each word.")
    start = np.concatenate([[0], np.cumsum(f)[:-1]]).tolist()
    symbol_of = np.repeat(np.arange(len(f)), f).tolist()
    words = np.frombuffer(stream.contiguous().numpy().tobytes(), "<u2").tolist()
    x, at, end, found = words[0] | words[1] << 16, 2, len(words), [0] * count
    for i in range(count):
        slot = x & (WHOLE - 1)
        s = symbol_of[slot]
        x = f[s] * (x >> coding.PRECISION) + slot - start[s]
        if x < coding.LOW and at < end:
            x = x << 16 | words[at]
            at += 1
        found[i] = s
    if x != coding.LOW or at != end:
        raise CompressionError(
            "stream: after its last symbol the decoder is not where the encoder began, "
            "so it was not read as written."
        )
    return torch.tensor(found, dtype=torch.int64)


def part(codes: Tensor, steps: Tensor, encode: Encode, classes: int = 1) -> dict[str, Any]:
    """The part of codes (out, in) with steps (1,) or (in,): columns sorted into classes by their
    mean |q|, each encoded.

    `encode(symbols, frequencies)` gives a stream. Raises CompressionError for more classes than
    256.
    """
    if not 1 <= classes <= MOST:
        raise CompressionError(f"classes={classes}: choose 1 to {MOST}.")
    codes = codes.long()
    which = entropy_coded.column_classes(codes, classes)
    parts = []
    for k in range(int(which.max()) + 1):
        own = codes[:, which == k].flatten()
        lowest = int(own.min())
        symbols = own - lowest
        frequencies = torch.from_numpy(coding.frequencies(torch.bincount(symbols).numpy()))
        stream = encode(symbols, frequencies)
        parts.append(
            {"lowest": lowest, "frequencies": frequencies.to(torch.int16), "stream": stream}
        )
    columns = which.to(torch.uint8) if len(parts) > 1 else torch.zeros(0, dtype=torch.uint8)
    return {"steps": _stored(steps), "which": columns, "classes": parts}


def _stored(steps: Tensor) -> Tensor:
    """One step as float32, many as float16."""
    return steps.reshape(-1).float() if steps.numel() == 1 else steps.half()


def rounded(steps: Tensor) -> Tensor:
    """Steps as a file gives them back, in double precision: quantize with these."""
    return _stored(steps).double()


def expected_bytes(codes: Tensor, steps: Tensor, classes: int = 1) -> float:
    """Bytes of `part` at the entropy of its codes, with tables, without writing it: quick, and
    about .5 % too small.
    """
    codes = codes.long()
    which = entropy_coded.column_classes(codes, classes)
    total = float(_stored(steps).nbytes) + (len(which) if classes > 1 else 0)
    for k in range(int(which.max()) + 1):
        counts = torch.bincount((own := codes[:, which == k].flatten()) - int(own.min()))
        total += coding.ideal_bits(counts.numpy()) / 8 + 2 * len(counts) + 8
    return total


def file_bytes(parts: Mapping[str, Part]) -> int:
    """All bytes of a file: steps, classes of columns, and for each class its lowest code (4),
    frequencies (2 each), stream.
    """
    return sum(
        p["steps"].nbytes
        + p["which"].nbytes
        + sum(4 + 2 * len(c["frequencies"]) + c["stream"].nbytes for c in p["classes"])
        for p in parts.values()
    )


def decode(parts: Mapping[str, Part], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The weights (float32) of a file by name, read by our decoder.

    Raises CompressionError that names the matrix if a part is missing, is not as the head of this
    module says, or does not fit its shape.
    """
    if set(parts) != set(shapes):
        raise CompressionError(
            f"parts: expected one for each of the {len(shapes)} matrices, by its name; "
            f"got {len(parts)}."
        )
    found = {}
    for name, (rows, columns) in shapes.items():
        try:
            found[name] = _matrix(parts[name], rows, columns)
        except (
            CompressionError,
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            IndexError,
        ) as error:
            raise CompressionError(
                f"{name}: "
                f"{error if isinstance(error, CompressionError) else f'no part ({error!r})'}"
            ) from error
    return found


def _matrix(given: Part, rows: int, columns: int) -> Tensor:
    tensors = [
        given["steps"],
        given["which"],
        *(t for c in given["classes"] for t in (c["frequencies"], c["stream"])),
    ]
    if not all(isinstance(t, Tensor) for t in tensors):
        raise CompressionError("steps, which, frequencies and stream are tensors.")
    if set(given) != {"steps", "which", "classes"} or any(
        set(c) != {"lowest", "frequencies", "stream"} for c in given["classes"]
    ):
        raise CompressionError(
            "a part holds steps, which, classes; a class holds lowest, frequencies, stream; "
            "nothing else."
        )
    steps, which, classes = given["steps"], given["which"], given["classes"]
    if steps.dtype not in (torch.float16, torch.float32) or tuple(steps.shape) not in (
        (1,),
        (columns,),
    ):
        raise CompressionError(f"steps: expected (1,) or ({columns},) in float16 or float32.")
    if not bool((torch.isfinite(steps) & (steps > 0)).all()):
        raise CompressionError("steps: must be positive and finite.")
    if which.dtype != torch.uint8 or tuple(which.shape) != (
        (columns,) if len(classes) > 1 else (0,)
    ):
        raise CompressionError(
            f"which: expected uint8, one for each of {columns} columns where there are "
            "several classes, else none."
        )
    of = which.long() if len(classes) > 1 else torch.zeros(columns, dtype=torch.long)
    if not 1 <= len(classes) <= MOST or int(of.max()) >= len(classes):
        raise CompressionError(
            f"classes: {len(classes)} of them; `which` names one that is not there, "
            "or they are none or too many."
        )
    codes = torch.zeros(rows, columns, dtype=torch.int64)
    for k, one in enumerate(classes):
        table, lowest, mine = one["frequencies"], one["lowest"], of == k
        if (
            table.dtype != torch.int16
            or table.dim() != 1
            or type(lowest) is not int
            or abs(lowest) >= 1 << 31
        ):
            raise CompressionError(
                "a class: frequencies are int16 (K,), lowest is a whole number of 4 bytes."
            )
        codes[:, mine] = (read(one["stream"], table, rows * int(mine.sum())) + lowest).view(
            rows, -1
        )
    return codes.float() * steps.float()
