"""The Triton kernels on a GPU: tuned, then against BF16, bitsandbytes and the copy bandwidth.

    python benchmarks/int4_gpu.py [width]        default: 8192

For each batch every setting in TUNING is tried and the fastest kept. Copies of the weight are not
needed: Triton's `do_bench` empties the cache before each call. Without a GPU this says so and does
nothing.
"""

import itertools
import sys

import torch

BATCHES = (1, 2, 4, 8, 16, 32, 64)
TUNING = {
    "gemv": {"ROWS": (4, 8, 16, 32), "BYTES": (64, 128, 256), "num_warps": (2, 4, 8)},
    "gemm": {
        "TOKENS": (16, 32),
        "ROWS": (32, 64, 128),
        "BYTES": (32, 64),
        "num_warps": (4, 8),
        "num_stages": (2, 4),
    },
}
LAUNCH = ("num_warps", "num_stages")


def settings(kind: str):
    """(blocks, launch) of every combination."""
    for values in itertools.product(*TUNING[kind].values()):
        chosen = dict(zip(TUNING[kind], values, strict=True))
        launch = {k: chosen.pop(k) for k in LAUNCH if k in chosen}
        yield chosen, launch


def best(x, weight) -> tuple[float, dict]:
    """Milliseconds of the fastest setting, and the setting.

    Those that do not fit the GPU are passed over.
    """
    import triton

    from course_utils.kernels import gpu

    found = (float("inf"), {})
    for blocks, launch in settings("gemv" if len(x) == 1 else "gemm"):
        try:
            ms = triton.testing.do_bench(
                lambda b=blocks, k=launch: gpu.linear(x, weight, blocks=b, **k),
                return_mode="median",
            )
        except triton.runtime.errors.OutOfResources:
            continue
        if ms < found[0]:
            found = ms, blocks | launch
    return found


def main(width: int) -> int:
    if not torch.cuda.is_available():
        print("no GPU here; nothing measured")
        return 0
    import triton
    from bitsandbytes.nn import Linear4bit
    from int4_kernel import packed

    from course_utils import kernels

    def timed(function) -> float:
        return triton.testing.do_bench(function, return_mode="median")

    weights = {}
    for bits in kernels.BITS:
        w = packed(width, bits)
        weights[bits] = kernels.PackedWeight(
            w.codes.cuda(), w.scale.cuda(), w.zero_point.cuda(), bits, width
        )
    dense = kernels.reference.dequantize(weights[4]).bfloat16()
    theirs = Linear4bit(
        width, width, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
    ).cuda()
    source, target = (
        torch.empty(2**28, dtype=torch.uint8, device="cuda"),
        torch.empty(2**28, dtype=torch.uint8, device="cuda"),
    )
    copy = 2 * source.nbytes / timed(lambda: target.copy_(source)) / 1e6
    print(
        f"{torch.cuda.get_device_name()}; torch {torch.__version__}; "
        f"triton {triton.__version__}; copy {copy:.0f} GB/s"
    )
    print(
        "batch  INT4 / BF16  INT8 / BF16  INT4 / bitsandbytes  INT4's share of the copy "
        "bandwidth  setting of INT4"
    )
    for batch in BATCHES:
        x = torch.randn(batch, width, device="cuda", dtype=torch.bfloat16)
        (four, setting), (eight, _) = best(x, weights[4]), best(x, weights[8])
        bf16, nf4 = timed(lambda x=x: x @ dense.T), timed(lambda x=x: theirs(x))
        share = weights[4].nbytes / four / 1e6 / copy
        print(
            (
                f"{batch:5}  {bf16 / four:11.2f}  {bf16 / eight:11.2f}  {nf4 / four:19.2f}  "
                f"{share:34.0%}  {setting}"
            ),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8192))
