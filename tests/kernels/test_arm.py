"""The kernels for 64-bit ARM: compiled by a cross compiler, run by an emulator, compared with
float64.

Where COURSE_ARM_TESTS is set, as in CI, a missing compiler or emulator is a failure; elsewhere the
tests are skipped.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from packed_weights import SHAPES, TOLERANCE, block_error, by_hand, error, make_blocks, make_weight

from course_utils.kernels import BLOCKS, build, cpu

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
PROCESSORS = {"max": ["dotprod", "neon", "portable"], "cortex-a53": ["neon", "portable"]}

if platform.machine() in ("aarch64", "arm64"):
    pytest.skip(
        "this is such a processor: the other tests run these kernels", allow_module_level=True
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    missing = [name for name in (COMPILER, EMULATOR) if not shutil.which(name)]
    if missing:
        reason = (
            f"{', '.join(missing)} not found; apt-get install g++-aarch64-linux-gnu "
            "qemu-user-static"
        )
        pytest.fail(reason) if os.environ.get("COURSE_ARM_TESTS") else pytest.skip(reason)
    output = tmp_path_factory.mktemp("arm") / "driver"
    sources = [Path(__file__).with_name("driver.cpp"), *build.SOURCES.glob("*.cpp")]
    flags = [flag for flag in build.FLAGS if flag not in ("-shared", "-fPIC")]
    subprocess.run(
        [COMPILER, *flags, "-static", f"-I{build.SOURCES}", *sources, "-o", output], check=True
    )
    return output


def run(program, processor, content=b""):
    return subprocess.run(
        [EMULATOR, "-cpu", processor, program], input=content, capture_output=True, check=True
    ).stdout


def content(weight, x, bias, int8, kernel):
    """What driver.cpp reads for a product: 15 numbers, then the arrays."""
    numbers = [getattr(cpu.describe(weight), name) for name in (*cpu.COUNTS, *cpu.KINDS)]
    zero, factor = getattr(weight, "zero_point", None), getattr(weight, "tensor_scale", None)
    numbers += [len(x), zero is not None, bias is not None, int8, kernel, factor is not None]
    arrays = [weight.codes, weight.scale, zero, factor, x, bias]
    return np.array(numbers, np.int64).tobytes() + b"".join(
        a.numpy().tobytes() for a in arrays if a is not None
    )


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_processor_decides(program, processor):
    assert run(program, processor).decode().split() == PROCESSORS[processor]


@pytest.mark.parametrize(
    "processor, kernel", [(p, k) for p, names in PROCESSORS.items() for k in range(len(names))]
)
@pytest.mark.parametrize("bits", range(1, 9))
def test_products(program, processor, kernel, bits):
    g, cases = torch.Generator().manual_seed(bits), []
    for i, (rows, columns, groups) in enumerate(SHAPES):
        weight = make_weight(
            rows, columns, groups, bits, symmetric=i % 3 == 0, half=i % 2 == 0, seed=i
        )
        x = torch.randn((1, 2, 7)[i % 3], columns, generator=g)
        bias = torch.randn(rows, generator=g) if i % 2 else None
        cases += [(weight, x, bias, int8, kernel) for int8 in (0, 1)]
    data = b"".join(content(*case) for case in cases)
    found = torch.frombuffer(bytearray(run(program, processor, data)), dtype=torch.float32)
    for weight, x, bias, int8, _ in cases:
        y, found = (
            found[: len(x) * weight.rows].view(len(x), weight.rows),
            found[len(x) * weight.rows :],
        )
        assert error(y, by_hand(x) if int8 else x, weight, bias) < TOLERANCE, (
            weight.rows,
            weight.columns,
            weight.groups,
        )
    assert not len(found)


@pytest.mark.parametrize(
    "processor, kernel", [(p, k) for p, names in PROCESSORS.items() for k in range(len(names))]
)
@pytest.mark.parametrize("kind", BLOCKS)
def test_products_of_blocks(program, processor, kernel, kind):
    cases = []
    for i, (rows, columns) in enumerate(((1, 1), (3, 37), (9, 256), (17, 112))):
        weight = make_blocks(rows, columns, kind, seed=i)
        cases += [
            (weight, torch.randn((1, 3)[i % 2], columns), None, int8, kernel) for int8 in (0, 1)
        ]
    found = torch.frombuffer(
        bytearray(run(program, processor, b"".join(content(*case) for case in cases))),
        dtype=torch.float32,
    )
    for weight, x, _, int8, _ in cases:
        y, found = (
            found[: len(x) * weight.rows].view(len(x), weight.rows),
            found[len(x) * weight.rows :],
        )
        assert block_error(y, by_hand(x) if int8 else x, weight, None) < TOLERANCE, (
            weight.rows,
            weight.columns,
        )
    assert not len(found)


@pytest.mark.parametrize(
    "processor, kernel", [(p, k) for p, names in PROCESSORS.items() for k in range(len(names))]
)
def test_integer_products_are_exact(program, processor, kernel):
    for tokens, rows, columns in ((1, 1, 1), (3, 5, 16), (9, 7, 333), (1, 1, 65536)):
        q, w = (torch.randint(-128, 128, (n, columns), dtype=torch.int8) for n in (tokens, rows))
        if columns == 65536:
            q[:], w[:] = -128, 127
        numbers = [rows, columns, 1, *[0] * 6, tokens, 0, 0, 2, kernel, 0]
        data = np.array(numbers, np.int64).tobytes() + w.numpy().tobytes() + q.numpy().tobytes()
        found = np.frombuffer(run(program, processor, data), np.int32).reshape(tokens, rows)
        assert np.array_equal(found, (q.long() @ w.long().T).numpy())
