"""What lesson 5.2 measures: rows with outliers, decibels of each row, a model with rounded weights,
the inputs of one layer.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization import approximate, convert, formats, microscaling, rtn, value_tables

EIGHT = ("INT8", "FP8 E4M3", "FP8 E5M2", "posit8", "LNS8")
# four bits, by blocks: bits a number with scales, rounding
BLOCKS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "INT4 symmetric, 32": (
        4.5,
        lambda x: rtn.quantize_layer(x, bits=4, group_size=32, symmetric=True).weight,
    ),
    "INT4 with zero point, 32": (
        4.625,
        lambda x: rtn.quantize_layer(x, bits=4, group_size=32).weight,
    ),
    "NF4, 32": (4.5, lambda x: formats.scaled_cast(x, "NF4", group_size=32)[0]),
    "FP4 E2M1, 32": (4.5, lambda x: formats.scaled_cast(x, "FP4 E2M1", group_size=32)[0]),
    "MXFP4": (4.25, lambda x: microscaling.fake_quantize(x, "MXFP4")),
    "NVFP4": (4.5, lambda x: microscaling.fake_quantize(x, "NVFP4")),
    "NVFP4, 4 over 6": (4.5, lambda x: microscaling.fake_quantize(x, "NVFP4", four_over_six=True)),
}


def rows_with_outliers(size: float, seed: int, *, rows: int = 64, every: int = 128) -> Tensor:
    """Normal numbers (rows, 512); of each row one in `every`, at random places, is `size` times as
    large.
    """
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 512, generator=g, dtype=torch.float64)
    places = torch.rand(rows, 512, generator=g).argsort(1)[:, : max(1, 512 // every)]
    return x.scatter(1, places, size * x.gather(1, places))


def decibels(x: Tensor, rounded: Tensor) -> Tensor:
    """SQNR of each row, 10 log10(Σ x² / Σ (x − x̂)²)."""
    return 10 * torch.log10(
        x.double().square().sum(1) / (x.double() - rounded.double()).square().sum(1)
    )


def eight_bit_rows(size: float, rows: int) -> dict[str, Callable[[int], Tensor]]:
    """For `compare`: format → seed → decibels of each row, with the best scale of each row."""

    def row(name: str) -> Callable[[int], Tensor]:
        def measured(seed: int) -> Tensor:
            x = rows_with_outliers(size, seed, rows=rows)
            return decibels(x, value_tables.scaled(x, value_tables.values(name)))

        return measured

    return {name: row(name) for name in EIGHT}


def four_bit_rows(size: float, rows: int) -> dict[str, Callable[[int], Tensor]]:
    """The same for blocks of four bits."""

    def row(name: str) -> Callable[[int], Tensor]:
        def measured(seed: int) -> Tensor:
            x = rows_with_outliers(size, seed, rows=rows).float()
            return decibels(x, BLOCKS[name][1](x))

        return measured

    return {name: row(name) for name in BLOCKS}


def turning(sizes: Sequence[float], every: int, rows: int = 4) -> dict[str, list[float]]:
    """Format of eight bits → mean decibels for each size of the outliers, one number in `every`."""
    inputs = [rows_with_outliers(size, 0, rows=rows, every=every) for size in sizes]
    return {
        n: [
            float(decibels(x, value_tables.scaled(x, value_tables.values(n))).mean())
            for x in inputs
        ]
        for n in EIGHT
    }


def with_weights(model: PreTrainedModel, rounded: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of the model whose linear layers of the blocks hold rounded(weight), in full
    precision.
    """

    def make(name: str, module: nn.Module) -> nn.Module:
        weight = rounded(walk.weight_of(module))
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None)
        layer.weight = nn.Parameter(weight.float(), requires_grad=False)
        if isinstance(module.bias, Tensor):
            layer.bias = nn.Parameter(module.bias.detach().clone(), requires_grad=False)
        return layer

    return convert.each_layer(model, make, {"method": "rounded"}).model


def share_of_fours(compressed: nn.Module) -> float:
    """Of the blocks of NVFP4 layers, the share whose largest element is 4 and not 6."""
    fours = blocks = 0
    for layer in compressed.modules():
        if isinstance(layer, microscaling.MicroscaledLinear):
            elements = microscaling.unpack(layer.packed, 4, layer.in_features).long() & 7
            top = elements.view(len(elements), -1, 16).amax(-1)
            fours, blocks = fours + int((top == 6).sum()), blocks + top.numel()
    return fours / blocks


@torch.no_grad()
def after_activation(model: PreTrainedModel, windows: Tensor) -> Tensor:
    """What comes out of the activation function of a block in the middle, float64 (windows, numbers
    of a window).
    """
    names = [
        name
        for name, _ in model.named_modules()
        if name.rpartition(".")[2] in ("act_fn", "activation_fn", "act")
    ]
    if not names:
        raise CompressionError(
            "model: no module act_fn, activation_fn or act is found; this comparison needs one."
        )
    held: list[Tensor] = []
    hook = model.get_submodule(names[len(names) // 2]).register_forward_hook(
        lambda _, __, out: held.append(out.detach())
    )
    try:
        model(input_ids=windows)
    finally:
        hook.remove()
    return held[len(held) // 2].double().reshape(len(windows), -1)


def best_affine(sample: Tensor, bits: int = 4) -> Tensor:
    """The values s (q − z), q = 0 … 2^bits − 1, of the least squared error: every zero point, for
    each the best scale.
    """
    lists = [torch.arange(2**bits, dtype=torch.float64) - z for z in range(2**bits - 1)]
    scaled = [points * value_tables.best_scale(sample[None], points)[0] for points in lists]
    return min(scaled, key=lambda points: value_tables.mean_error(sample, points))


def cheap_products(dots: int = 64, terms: int = 256) -> dict[str, Callable[[int], Tensor]]:
    """For `compare`: a way to multiply → seed → |error| of each dot product of signed 7-bit
    numbers, over the products' deviation.
    """

    def row(
        multiply: Callable[[Tensor, Tensor, torch.Generator], Tensor], mended: bool = False
    ) -> Callable[[int], Tensor]:
        def measured(seed: int) -> Tensor:
            g = torch.Generator().manual_seed(seed)
            a, b = (torch.randint(-127, 128, (dots, terms), generator=g) for _ in range(2))
            exact, found = (a * b).sum(1).double(), multiply(a, b, g).double().sum(1)
            factor = float((exact * found).sum() / found.square().sum()) if mended else 1.0
            return (factor * found - exact).abs() / exact.std()

        return measured

    def streams(a: Tensor, b: Tensor, g: torch.Generator) -> Tensor:
        return 127**2 * approximate.stochastic_product(
            a / 127, b / 127, 256, bipolar=True, generator=g
        )

    return {
        "exact": row(lambda a, b, g: a * b),
        "4 of 14 columns left out": row(
            lambda a, b, g: approximate.truncated_product(a, b, columns=4, bits=7)
        ),
        "Mitchell": row(lambda a, b, g: approximate.mitchell(a, b)),
        "Mitchell, times one factor": row(lambda a, b, g: approximate.mitchell(a, b), mended=True),
        "streams of 256 bits": row(streams),
    }
