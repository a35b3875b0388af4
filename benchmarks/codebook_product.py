"""Does a product kernel pay for E8P, a trellis and additive codebooks?

One token, a layer of 2048 × 4096, one thread.

    python benchmarks/codebook_product.py      # half a minute

codebook_product.cpp decodes while it multiplies, in plain loops and (`vectors`) in registers of
AVX-512; `dense` is the same product with FP32 weights (32 MB, more than a core's cache); `decode`
is what a layer does here: the weight is made whole by torch, then multiplied. All take turns, the
best of each counts, as processor time. Random codes; results are compared with those of the layers.
"""

import copy
import ctypes
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from course_utils import kernels
from course_utils.quantization import additive, e8, trellis

ROWS, COLUMNS, PART = 2048, 4096, 128  # PART rows are decoded whole
STATE_BITS, ROUNDS = 12, 5


def compiled(folder: str) -> ctypes.CDLL:
    source, target = Path(__file__).with_name("codebook_product.cpp"), Path(folder) / "product.so"
    command = [
        kernels.build.find_compiler(),
        "-O3",
        "-march=native",
        "-ffast-math",
        "-std=c++17",
        "-shared",
        "-fPIC",
        str(source),
        "-o",
        str(target),
    ]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(target))


def at(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def seconds(action) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def cut(layer):
    """The layer's first rows."""
    few = copy.deepcopy(layer)
    few.out_features, few.packed, few.scale = PART, layer.packed[:PART], layer.scale[:PART]
    return few


def main() -> None:
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(COLUMNS, generator=g)
    layers = {
        "E8P": e8.E8Linear(COLUMNS, ROWS),
        "additive 2 × 256": additive.AdditiveLinear(COLUMNS, ROWS),
        "trellis, computed": trellis.TrellisLinear(
            COLUMNS, ROWS, values="1mad", state_bits=STATE_BITS
        ),
    }
    for layer in layers.values():
        layer.packed.copy_(torch.randint(256, layer.packed.shape, generator=g, dtype=torch.uint8))
        layer.scale.copy_(torch.rand(layer.scale.shape, generator=g) + 0.5)
    layers["additive 2 × 256"].vectors.copy_(torch.randn(2, 256, 8, generator=g))
    scale = {name: layer.scale.float().flatten() for name, layer in layers.items()}
    table, parity = e8.sizes().contiguous(), (e8.sizes().sum(1).long() % 2).to(torch.uint8)
    books, products = (
        layers["additive 2 × 256"].vectors.float().contiguous(),
        torch.empty(COLUMNS // 8, 512),
    )
    weight, y = torch.randn(ROWS, COLUMNS, generator=g), torch.empty(ROWS)
    with tempfile.TemporaryDirectory() as folder:
        run = compiled(folder)
        packed = {name: at(layer.packed) for name, layer in layers.items()}
        ways = {
            "dense": lambda: run.dense(at(weight), at(x), at(y), ROWS, COLUMNS),
            "E8P": lambda: run.e8p(packed["E8P"], at(scale["E8P"]), at(table), at(parity), at(x),
                                   at(y), ROWS, COLUMNS // 8),
            "additive 2 × 256": lambda: run.additive(
                packed["additive 2 × 256"], at(scale["additive 2 × 256"]), at(books), at(x),
                at(products), at(y), ROWS, COLUMNS // 8
            ),
            "trellis, computed": lambda: run.one_mad(
                packed["trellis, computed"], at(scale["trellis, computed"]), at(x), at(y), ROWS,
                COLUMNS, STATE_BITS
            ),
        }  # fmt: skip
        if hasattr(run, "e8p_vectors"):  # compiled for a processor with AVX-512 VNNI
            ways["E8P, vectors"] = lambda: run.e8p_vectors(
                packed["E8P"],
                at(scale["E8P"]),
                at(table),
                at(parity),
                at(x),
                at(y),
                ROWS,
                COLUMNS // 8,
            )
            ways["trellis, vectors"] = lambda: run.one_mad_vectors(
                packed["trellis, computed"],
                at(scale["trellis, computed"]),
                at(x),
                at(y),
                ROWS,
                COLUMNS,
                STATE_BITS,
            )
        of = {"E8P, vectors": "E8P", "trellis, vectors": "trellis, computed"}
        for name in ways:
            if name != "dense":
                ways[name]()
                wanted = cut(layers[of.get(name, name)])(x)
                assert (y[:PART] - wanted).abs().max() < 1e-3 * wanted.abs().max(), name
        times = {name: min(seconds(way) for _ in range(2)) for name, way in ways.items()}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                times[name] = min(times[name], seconds(way))
        few = {name: cut(layer) for name, layer in layers.items()}
        decode = {
            name: ROWS / PART * min(seconds(lambda layer=layer: layer(x)) for _ in range(3))
            for name, layer in few.items()
        }
    print(f"{'':20} bits a weight   speed, FP32 = 1   decoded whole first")
    print(f"{'dense FP32':20} {32:13.2f} {1:17.2f}")
    for name in ways:
        if name == "dense":
            continue
        layer = layers[of.get(name, name)]
        bits = 8 * sum(b.nbytes for b in layer.buffers()) / (ROWS * COLUMNS)
        print(
            f"{name:20} {bits:13.2f} {times['dense'] / times[name]:17.2f} "
            f"{times['dense'] / decode[of.get(name, name)]:18.3f}"
        )


if __name__ == "__main__":
    main()
