"""A sparse product on the CPU against the dense one over sparsity: where unstructured zeros save
time, and where not.

    python benchmarks/sparse_cpu.py [width] [tokens ...]        default: 1024, 1 and 64 tokens

W (width, width) has random zeros; the sparse one is torch's CSR product W xᵀ. The two take turns
and the ratio is that of the medians of processor seconds on one thread, above 1 where sparse is
faster. With a GPU, torch's semi-structured kernels (2:4, float16) are timed as well; that path has
not been tried on the machine this was written on, which has none.
"""

import copy
import sys
import time

import torch

from course_utils.errors import CompressionError
from course_utils.pruning import semi_structured, speed, storage

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


@torch.inference_mode()
def on_gpu(width: int, tokens: int) -> float:
    """Dense over 2:4, both in float16 on the GPU."""
    dense = torch.nn.Linear(width, width, bias=False).half().cuda()
    dense.weight.data.copy_(speed.random_weight(width, 0.5, "2:4"))
    sparse = copy.deepcopy(dense)
    semi_structured.use_kernels(torch.nn.Sequential(sparse))
    x = torch.randn(tokens, width).half().cuda()
    if not torch.allclose(sparse(x), dense(x), rtol=1e-2, atol=0.5):
        raise SystemExit("the two products disagree")

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return speed.ratio(lambda: dense(x), lambda: sparse(x), clock=clock)


def main(width: int, sizes: list[int]) -> int:
    torch.set_num_threads(1)
    print(
        f"{width} x {width}, float32: time of the dense product / time of the CSR product; "
        "bytes against dense"
    )
    print("sparsity" + "".join(f"{f'{tokens} tokens':>14}" for tokens in sizes) + "   bytes")
    pays: dict[int, float | None] = dict.fromkeys(sizes)
    for sparsity in SPARSITIES:
        weight = speed.random_weight(width, sparsity)
        row = []
        for tokens in sizes:
            row.append(speed.csr_over_dense(weight, tokens))
            if row[-1] > 1 and pays[tokens] is None:
                pays[tokens] = sparsity
        share = storage.size("csr", (width, width), int((weight != 0).sum()), 32) / weight.nbytes
        print(
            f"{sparsity:8.2f}" + "".join(f"{value:14.2f}" for value in row) + f"{share:8.2f}",
            flush=True,
        )
    for tokens, sparsity in pays.items():
        print(
            f"{tokens} tokens: "
            + (
                f"sparse is faster from {sparsity} on"
                if sparsity
                else "sparse is never faster here"
            )
        )
    try:
        semi_structured.check_device()
    except CompressionError as error:
        print(f"2:4 kernels not timed. {error}")
        return 0
    for tokens in (64, 1024):
        print(
            f"GPU, {4 * width} wide, 2:4 in float16, {tokens} tokens: "
            f"{on_gpu(4 * width, tokens):.2f}"
        )
    return 0


if __name__ == "__main__":
    arguments = [int(a) for a in sys.argv[1:]]
    raise SystemExit(main(arguments[0] if arguments else 1024, arguments[1:] or [1, 64]))
