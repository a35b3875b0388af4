"""Our GPTQ of one layer against the same algorithm written plainly, as ratios measured in one run.

    python benchmarks/gptq_layer.py [width ...]        default: 768 2048 4096

Time: both start from the Hessian and end with Ŵ; they take turns, and the ratio is that of the
medians. The plain version moves all columns to the right after every column. Memory: the largest
resident size while `quantize_layer` runs, less the resident size just before, each in a process of
its own that holds only the weight and the Hessian; a copy is the weight's bytes in float32. The
result (codes and Ŵ) is counted, the inputs are not.
"""

import os
import statistics
import subprocess
import sys
import threading
import time

import torch

from course_utils.quantization import gptq
from course_utils.quantization.grids import scale_and_zero

GOALS = {2048: (3.0, 4.0)}  # width: (times faster at least, copies at most)
SETTINGS = {"bits": 4, "group_size": 64}


def plain(
    weight: torch.Tensor, H: torch.Tensor, bits: int, group_size: int, damping: float = 0.01
) -> torch.Tensor:
    """GPTQ column by column: round, divide by U_ii, move every column that is left."""
    W, U = weight.clone(), gptq.inverse_cholesky(gptq.damped(H, damping))
    result = torch.empty_like(W)
    for i in range(W.shape[1]):
        if i % group_size == 0:
            group = W[:, i : i + group_size]
            scale, zero = scale_and_zero(group.amin(1), group.amax(1), bits, False)
        codes = ((W[:, i] / scale).round() + zero).clamp(0, 2**bits - 1)
        result[:, i] = scale * (codes - zero)
        error = (W[:, i] - result[:, i]) / U[i, i]
        W[:, i + 1 :] -= torch.outer(error, U[i, i + 1 :])
    return result


def layer(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A square layer and the Hessian of correlated inputs."""
    g = torch.Generator().manual_seed(width)
    x = torch.randn(2 * width, width, generator=g) @ (
        torch.randn(width, width, generator=g) / width**0.5
    )
    return torch.randn(width, width, generator=g), gptq.hessian(x)


def seconds(function) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def times(width: int, repeats: int) -> tuple[float, float, float]:
    """Medians of (plain, ours, ours without the comparison with rounding)."""
    weight, H = layer(width)
    bare = gptq.quantize_layer(weight, H, never_worse=False, **SETTINGS)
    slow = gptq.layer_error(weight, plain(weight, H, **SETTINGS), H)
    fast = gptq.layer_error(weight, bare.weight, H)
    if abs(fast / slow - 1) > 0.01:
        raise SystemExit(
            f"width {width}: the two do not agree, layer errors {slow:.6g} and {fast:.6g}"
        )
    runs = [
        (
            seconds(lambda: plain(weight, H, **SETTINGS)),
            seconds(lambda: gptq.quantize_layer(weight, H, **SETTINGS)),
            seconds(lambda: gptq.quantize_layer(weight, H, never_worse=False, **SETTINGS)),
        )
        for _ in range(repeats)
    ]
    first, second, third = (statistics.median(column) for column in zip(*runs, strict=True))
    return first, second, third


def peak_copies(width: int) -> float:
    """Sample the resident size every millisecond while the layer is quantized.

    Runs in a process of its own.
    """
    import psutil

    process = psutil.Process()
    small = layer(64)
    gptq.quantize_layer(*small, **SETTINGS)  # libraries load their own buffers now
    weight, H = layer(width)
    before, largest, done = process.memory_info().rss, 0, threading.Event()

    def watch():
        nonlocal largest
        while not done.is_set():
            largest = max(largest, process.memory_info().rss)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = gptq.quantize_layer(weight, H, **SETTINGS)
    done.set()
    watcher.join()
    assert result.weight.shape == weight.shape
    return (largest - before) / weight.nbytes


def main(widths: list[int]) -> int:
    print(
        f"GPTQ of one square float32 layer, {SETTINGS['bits']} bits, groups of "
        f"{SETTINGS['group_size']}"
    )
    print(
        "width  plain / ours  plain / ours without never_worse  peak memory in copies of the layer"
    )
    missed = []
    for width in widths:
        slow, ours, bare = times(width, repeats=5 if width < 4096 else 3)
        # glibc then hands every large block back when it is freed, so that none hides in what was
        # resident before
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"}
        command = [sys.executable, __file__, "--memory", str(width)]
        copies = float(
            subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True, env=environment
            ).stdout
        )
        print(f"{width:5}  {slow / ours:12.1f}  {slow / bare:33.1f}  {copies:34.1f}", flush=True)
        faster, most = GOALS.get(width, (0.0, float("inf")))
        if slow / ours < faster or copies > most:
            missed.append(
                f"width {width}: goal at least {faster:g} times faster and at most {most:g} copies"
            )
    print(
        "\n".join(missed)
        or (
            "goals met: "
            f"{', '.join(f'width {w}: ≥ {f:g} ×, ≤ {c:g} copies' for w, (f, c) in GOALS.items())}"
        )
    )
    return bool(missed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print(peak_copies(int(sys.argv[2])))
    else:
        raise SystemExit(main([int(a) for a in sys.argv[1:]] or [768, 2048, 4096]))
