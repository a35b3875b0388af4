"""Energy of a computation from a table of single operations.

Horowitz, *Computing's energy problem* (ISSCC 2014), 45 nm at 0.9 V, picojoules; the two memories
for 32 bits as Han et al.
(*Deep Compression*, 2016, table 1) quote it. Newer chips need less of each: use ratios, not joules.
"""

from collections.abc import Mapping

from course_utils.errors import CompressionError

ADD = {"INT8": 0.03, "INT32": 0.1, "FP16": 0.4, "FP32": 0.9}
MULTIPLY = {"INT8": 0.2, "INT32": 3.1, "FP16": 1.1, "FP32": 3.7}
READ = {"SRAM": 5.0, "DRAM": 640.0}  # 32 bits; SRAM of 32 kB
# where the sum of products is kept
ACCUMULATE = {"INT8": "INT32", "INT32": "INT32", "FP16": "FP16", "FP32": "FP32"}


def multiply_add(number: str) -> float:
    """Picojoules of a multiplication and the addition of its product.

    Raises CompressionError for a format not in the table.
    """
    if number not in MULTIPLY:
        raise CompressionError(f"number={number!r}: the table has {', '.join(MULTIPLY)}.")
    return MULTIPLY[number] + ADD[ACCUMULATE[number]]


def read(bits: float, memory: str = "DRAM") -> float:
    """Picojoules of moving `bits` bits. Raises CompressionError for a memory not in the table."""
    if memory not in READ:
        raise CompressionError(f"memory={memory!r}: the table has {', '.join(READ)}.")
    if not bits >= 0:
        raise CompressionError(f"bits={bits}: a number of bits is not negative.")
    return READ[memory] * bits / 32


def per_token(
    weights: float,
    *,
    bits: float,
    number: str,
    batch: float = 1,
    share: float = 1.0,
    kept_bits: float = 0.0,
) -> dict[str, float]:
    """Picojoules for one token: {"weights", "cache", "arithmetic"}.

    `bits` a weight (scales included) come from DRAM once for `batch` tokens; `kept_bits` of keys
    and values for each token alone. `share` of the weights is computed with, as where channels were
    pruned away; each of them is read from SRAM once a token.
    """
    if not (weights > 0 and bits > 0 and batch >= 1 and 0 < share <= 1):
        raise CompressionError(
            "weights, bits, batch, share: give weights and bits above 0, a batch of at "
            "least 1, a share in (0, 1]."
        )
    used = weights * share
    return {
        "weights": read(used * bits) / batch, "cache": read(kept_bits),
        "arithmetic": used * (multiply_add(number) + read(bits, "SRAM")),
    }  # fmt: skip


def total(parts: Mapping[str, float]) -> float:
    """The sum of the parts, in their unit."""
    return sum(parts.values())
