"""Packed products against FP32, torch's own and bitsandbytes', as ratios measured in one run.

    python benchmarks/int4_kernel.py [width] [--threads N] [--bits 3 5] [--formats mxfp4 nvfp4]
        [--batch 1 4]

Default: a width of 8192, one thread, all. With --bits, --formats or --batch only the packed widths
are compared, which is short at a width of 4096.

CPU: a square layer, groups of 64. Each contestant walks over copies of its weight that together are
larger than the last-level cache, so that every product reads from memory; they take turns, and a
ratio is that of the medians. With one thread the clock counts this program's processor time, so
that other programs disturb less; with more it is the wall clock, and the machine should be idle.
Read: read.cpp, a sum over a large array in 8 streams.
"""

import argparse
import ctypes
import dataclasses
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.functional import linear

from course_utils import kernels

GROUP = 64
# INT4 × INT8, batch 1: times faster at least
GOALS = {"fp32": 6.0, "torch int4pack": 1.0, "bitsandbytes NF4": 1.0}
BANDWIDTH = 0.6  # of a plain read, at least
ROUNDS = 25
BATCHES = (1, 2, 4, 8, 16, 32)
FORMATS = {"mxfp4": "E8M0", "nvfp4": "E4M3"}  # the kinds of their scales


def cache_bytes() -> int:
    """The last-level cache, or 64 MB where the system does not say."""
    sizes = [
        f.read_text().strip()
        for f in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(
        [int(s[:-1]) * {"K": 2**10, "M": 2**20}[s[-1]] for s in sizes if s[-1] in "KM"],
        default=64 * 2**20,
    )


def packed(width: int, bits: int) -> kernels.PackedWeight:
    g = torch.Generator().manual_seed(bits)
    codes = torch.randint(2**bits, (width, width), generator=g, dtype=torch.uint8)
    scale = torch.rand(width, width // GROUP, generator=g).mul(0.01).add(0.001).half().float()
    return kernels.from_codes(
        codes, scale, torch.randint(2**bits, scale.shape, generator=g), bits=bits
    )


def blocks(width: int, kind: str) -> kernels.BlockWeight:
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(256, (width, width // 2), generator=g, dtype=torch.uint8)
    low, high = (118, 122) if kind == "E8M0" else (40, 88)
    scale = torch.randint(low, high, (width, width // kernels.BLOCKS[kind]), generator=g).to(
        torch.uint8
    )
    return kernels.BlockWeight(
        codes, scale, torch.tensor(0.01) if kind == "E4M3" else None, kind, width
    )


def weight_of(width: int, name: int | str):
    """The weight of a number of bits or of a format."""
    return blocks(width, FORMATS[name]) if isinstance(name, str) else packed(width, name)


def copies(make_one, nbytes: int, total: int):
    """An endless round over enough copies that `total` bytes are read before one comes back."""
    return itertools.cycle([make_one() for _ in range(max(2, -(-total // nbytes)))])


def clone(weight):
    held = {
        name: value.clone()
        for name, value in vars(weight).items()
        if isinstance(value, torch.Tensor)
    }
    return dataclasses.replace(weight, **held)


def contestants(width: int, total: int) -> dict:
    """Name → function of x that does one product with the next copy of its weight."""
    dense = torch.randn(width, width)
    fp32 = copies(dense.clone, dense.nbytes, total)
    four, eight = packed(width, 4), packed(width, 8)
    int4, int8 = (copies(lambda w=w: clone(w), w.nbytes, total) for w in (four, eight))
    codes, scale, zero = kernels.formats.unpack_weight(four)
    theirs = torch._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    pairs = torch.stack([scale, (8 - zero) * scale], -1).transpose(0, 1).contiguous().bfloat16()
    pack4 = copies(lambda: (theirs.clone(), pairs.clone()), theirs.nbytes + pairs.nbytes, total)
    whole, row = torch.randint(-127, 128, (width, width), dtype=torch.int8), torch.rand(width)
    pack8 = copies(whole.clone, whole.nbytes, total)
    return {
        "fp32": lambda x: linear(x, next(fp32)),
        "INT4 × float": lambda x: kernels.linear(x, next(int4)),
        "INT4 × INT8": lambda x: kernels.linear(x, next(int4), activations="int8"),
        "INT8 × float": lambda x: kernels.linear(x, next(int8)),
        "INT8 × INT8": lambda x: kernels.linear(x, next(int8), activations="int8"),
        "torch int4pack": lambda x: torch._weight_int4pack_mm_for_cpu(
            x.bfloat16(), *four_of(next(pack4))
        ),
        "torch int8pack": lambda x: torch._weight_int8pack_mm(x, next(pack8), row),
        "bitsandbytes NF4": bitsandbytes(width),
    }


def four_of(pair):
    return pair[0], GROUP, pair[1]


def bitsandbytes(width: int):
    """Its Linear4bit in BF16, two copies only, because making one is slow: if that helps, it helps
    bitsandbytes.
    """
    from bitsandbytes.nn import Linear4bit

    layers = []
    for _ in range(2):
        layer = Linear4bit(width, width, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
        layer.to("cpu").requires_grad_(False)
        layer(torch.zeros(1, width, dtype=torch.bfloat16))  # repacks at its first call
        layers.append(layer)
    turn = itertools.cycle(layers)
    return lambda x: next(turn)(x.bfloat16())


def plain_read(total: int, threads: int):
    """A function that reads at least `total` bytes, and how many it reads."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "read.so"
        source, compiler = Path(__file__).with_name("read.cpp"), kernels.build.find_compiler()
        subprocess.run(
            [compiler, *kernels.build.FLAGS, "-march=native", "-fopenmp", source, "-o", library],
            check=True,
        )
        read_all = ctypes.CDLL(str(library)).read_all
    read_all.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    large = torch.ones(total // 2**20 * 2**17, dtype=torch.int64)
    return lambda: read_all(large.data_ptr(), len(large), threads), large.nbytes


def compare_widths(
    width: int, total: int, clock, widths=(*kernels.BITS, *FORMATS), batch: int = 1
) -> None:
    """One batch at each of the widths and formats, beside what the bytes allow. With act-order the
    input is permuted first; a token with one large number may need a digit more (cpp/kernels.h).
    """
    x, dense, order = torch.randn(batch, width), torch.randn(width, width), torch.randperm(width)
    large = x.clone()
    large[:, 0] = x.abs().sum()
    fp32 = copies(dense.clone, dense.nbytes, total)
    print(f"batch {batch}, times faster than fp32 (part of what the bytes allow):")
    print("            bytes         × float          × INT8        act-order        one large")
    for name in widths:
        one = weight_of(width, name)
        weights = copies(lambda w=one: clone(w), one.nbytes, total)
        runs = {
            "fp32": lambda: linear(x, next(fp32)),
            "float": lambda w=weights: kernels.linear(x, next(w)),
            "int8": lambda w=weights: kernels.linear(x, next(w), activations="int8"),
            "order": lambda w=weights: kernels.linear(x.index_select(-1, order), next(w)),
            "large": lambda w=weights: kernels.linear(large, next(w)),
        }
        times = {way: [] for way in runs}
        for _ in range(ROUNDS):
            for way, run in runs.items():
                run()  # in a model, the layer before is of the same kind
                times[way].append(median(run, clock, 1))
        base, *ours = (statistics.median(t[1:]) for t in times.values())
        part = one.nbytes / dense.nbytes
        label = name if isinstance(name, str) else f"{name} bits"
        print(
            f"  {label:6} {part:8.3f}"
            + "".join(f"{base / t:9.2f} ({base / t * part:.2f})" for t in ours),
            flush=True,
        )


def check(width: int) -> None:
    """A wrong product may not be a fast one."""
    x = torch.randn(2, width)
    for name in (*kernels.BITS, *FORMATS):
        for activations in kernels.ACTIVATIONS:
            weight = weight_of(width, name)
            wanted = kernels.reference.linear(x, weight, activations=activations)
            found = kernels.linear(x, weight, activations=activations)
            if (found - wanted).abs().max() > 1e-4 * wanted.abs().max():
                raise SystemExit(
                    f"{name}, {activations} activations: the kernel and the reference disagree"
                )


def compare_variants(width: int, clock) -> None:
    """Each way to compute the same product at batch 1, on rows that stay in the cache: what each
    attempt gave.
    """
    weight = packed(width, 4)
    part = kernels.PackedWeight(
        weight.codes[:256], weight.scale[:256], weight.zero_point[:256], 4, width
    )
    x, dense = torch.randn(1, width), torch.randn(256, width)
    base = median(lambda: linear(x, dense), clock, 21)
    print("INT4 at batch 1, 256 rows in the cache, times faster than fp32:")
    for name in kernels.cpu.variants():
        ratios = [
            base
            / median(
                lambda n=name, a=a: kernels.linear(x, part, activations=a, variant=n), clock, 21
            )
            for a in kernels.ACTIVATIONS
        ]
        print(f"  {name:9} × float {ratios[0]:5.2f}   × INT8 {ratios[1]:5.2f}")
    reference = median(lambda: kernels.reference.linear(x, part), clock, 5)
    print(f"  {'reference':9} × float {base / reference:5.2f}")


def median(function, clock, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = clock()
        function()
        times.append(clock() - began)
    return statistics.median(times)


@torch.no_grad()
def main(width: int, threads: int, widths: list[int | str], batches: list[int] | None) -> int:
    torch.set_num_threads(threads)
    clock = time.thread_time if threads == 1 else time.perf_counter
    if not kernels.cpu.variants():
        print("no compiled kernels here; nothing to measure")
        return 0
    check(256)
    total = int(1.1 * cache_bytes())
    print(
        f"{processor()}; torch {torch.__version__}; {threads} thread(s), "
        f"{'processor time' if threads == 1 else 'wall clock'}"
    )
    print(
        f"{width} × {width}, groups of {GROUP}; copies of at least {total / 2**20:.0f} MiB; "
        f"kernels: {kernels.cpu.variants()[0]}"
    )
    if widths or batches:
        for batch in batches or [1]:
            compare_widths(width, total, clock, widths or (*kernels.BITS, *FORMATS), batch)
        return 0
    runs = contestants(width, total)
    read_large, read_bytes = plain_read(total, threads)
    medians, missed = {}, []
    print("batch  " + "  ".join(f"{name:>16}" for name in runs) + "   (times faster than fp32)")
    for batch in BATCHES:
        x, times, read = torch.randn(batch, width), {name: [] for name in runs}, []
        for repeat in range(16 if batch == 1 else 6):
            for name, run in runs.items():
                if name.startswith("bits") and (batch > 1 or repeat > 5):
                    continue
                began = clock()
                run(x)
                times[name].append(clock() - began)
            if batch == 1:
                began = clock()
                read_large()
                read.append(clock() - began)
        medians = {name: statistics.median(t[1:]) for name, t in times.items() if t}
        ratios = [
            f"{medians['fp32'] / medians[n]:16.2f}" if n in medians else f"{'':16}" for n in runs
        ]
        print(f"{batch:5}  " + "  ".join(ratios), flush=True)
        if batch == 1:
            missed = verdict(medians, packed(width, 4).nbytes, read_bytes / statistics.median(read))
    compare_variants(width, clock)
    del runs
    compare_widths(width, total, clock)
    print("\n".join(missed) or "goals met")
    return bool(missed)


def verdict(medians: dict, nbytes: int, read: float) -> list[str]:
    ours, missed = medians["INT4 × INT8"], []
    share = nbytes / ours / read
    print(f"       INT4 × INT8 reads its weight at {share:.0%} of the speed of a plain read")
    for name, least in GOALS.items():
        if medians[name] / ours < least:
            missed.append(
                f"goal missed: {medians[name] / ours:.2f} times faster than "
                f"{name}, wanted {least:g}"
            )
    if share < BANDWIDTH:
        missed.append(f"goal missed: {share:.0%} of the read bandwidth, wanted {BANDWIDTH:.0%}")
    return missed


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "processor unknown"
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        "processor unknown",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("width", nargs="?", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bits", type=int, nargs="+", choices=kernels.BITS, default=[])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=[])
    parser.add_argument("--batch", type=int, nargs="+")
    chosen = parser.parse_args()
    sys.exit(main(chosen.width, chosen.threads, [*chosen.bits, *chosen.formats], chosen.batch))
