"""A sparse product on the CPU against the dense one over sparsity: where unstructured zeros save time, and where not.

    python benchmarks/sparse_cpu.py [width] [tokens ...]        default: 1024, 1 and 64 tokens

W (width, width) has random zeros; the sparse one is torch's CSR product W xᵀ. The two take turns and the ratio is that
of the medians of processor seconds on one thread, above 1 where sparse is faster. With a GPU, torch's semi-structured kernels (2:4, float16) are timed
as well; that path has not been tried on the machine this was written on, which has none.
"""

import statistics
import sys
import time

import torch

from course_utils.pruning import masks, storage

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
ROUNDS = 15


def ratio(slow, fast, clock=time.process_time) -> float:
    """Median time of `slow` over that of `fast`, each run in turn."""
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS + 1):
        for function, found in zip((slow, fast), times, strict=True):
            began = clock()
            function()
            found.append(clock() - began)
    first, second = (statistics.median(found[1:]) for found in times)
    return first / second


def weight(width: int, sparsity: float, pattern: str | None = None) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    score = torch.rand(width, width, generator=g)
    return torch.randn(width, width, generator=g) * masks.make(score, sparsity, pattern)


def on_gpu(width: int, tokens: int) -> float:
    """Dense over 2:4, both in float16 on the GPU."""
    dense = weight(width, 0.5, "2:4").half().cuda()
    sparse = torch.sparse.to_sparse_semi_structured(dense)
    x = torch.randn(tokens, width).half().cuda()
    linear = torch.nn.functional.linear

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return ratio(lambda: linear(x, dense), lambda: linear(x, sparse), clock)


def main(width: int, sizes: list[int]) -> int:
    torch.set_num_threads(1)
    print(f"{width} x {width}, float32: time of the dense product / time of the CSR product; bytes against dense")
    print("sparsity" + "".join(f"{f'{tokens} tokens':>14}" for tokens in sizes) + "   bytes")
    pays: dict[int, float | None] = dict.fromkeys(sizes)
    for sparsity in SPARSITIES:
        dense = weight(width, sparsity)
        sparse = dense.to_sparse_csr()
        row = []
        for tokens in sizes:
            x = torch.randn(width, tokens, generator=torch.Generator().manual_seed(1))
            if not torch.allclose(sparse @ x, dense @ x, atol=1e-2):
                raise SystemExit("the two products disagree")
            row.append(ratio(lambda dense=dense, x=x: dense @ x, lambda sparse=sparse, x=x: sparse @ x))
            if row[-1] > 1 and pays[tokens] is None:
                pays[tokens] = sparsity
        share = storage.size("csr", (width, width), int((dense != 0).sum()), 32) / dense.nbytes
        print(f"{sparsity:8.2f}" + "".join(f"{value:14.2f}" for value in row) + f"{share:8.2f}", flush=True)
    for tokens, sparsity in pays.items():
        print(
            f"{tokens} tokens: "
            + (f"sparse is faster from {sparsity} on" if sparsity else "sparse is never faster here")
        )
    if torch.cuda.is_available():
        for tokens in (64, 1024):
            print(f"GPU, {4 * width} wide, 2:4 in float16, {tokens} tokens: {on_gpu(4 * width, tokens):.2f}")
    else:
        print("no GPU: 2:4 kernels not timed")
    return 0


if __name__ == "__main__":
    arguments = [int(a) for a in sys.argv[1:]]
    raise SystemExit(main(arguments[0] if arguments else 1024, arguments[1:] or [1, 64]))
