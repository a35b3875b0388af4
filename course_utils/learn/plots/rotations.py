"""Figures of lesson 5.3: one loud channel before and after a Hadamard rotation, the sizes of
channels in several bases.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from course_utils.quantization import hadamard
from course_utils.quantization.grids import fake_quantize

from . import base


def loud_channel(size: float, bits: int, width: int = 64) -> Figure:
    """A normal vector with one number of this size, in its own basis and in the Hadamard basis,
    each rounded to `bits` bits.
    """
    x = torch.randn(width, generator=torch.Generator().manual_seed(0))
    x[width // 3] = size
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained", sharey=True)
    for place, y, name in ((axes[0], x, "as it is"), (axes[1], hadamard.transform(x), "times H")):
        rounded = fake_quantize(y[None], bits=bits, group_size=-1)[0]
        error = float((rounded - y).norm() / y.norm())
        place.vlines(range(width), 0, y, color=base.BLUE, linewidth=2, label="number")
        place.plot(rounded, ".", color=base.ORANGE, markersize=4, label="rounded")
        place.set_title(f"{name}: error {100 * error:.1f} %")
        place.set_xlabel("channel")
    axes[1].legend(fontsize=9)
    return figure


def channel_sizes(states: Mapping[str, Tensor]) -> None:
    """The root mean square of each channel (tokens, channels), the loudest first, for several
    bases.
    """
    _, axes = base.figure(
        title="Where the energy of the residual stream lies",
        xlabel="channel, the loudest first",
        ylabel="root mean square",
    )
    for (name, x), style in zip(states.items(), ("-", "--", ":", "-."), strict=False):
        axes.plot(
            range(1, x.shape[1] + 1),
            x.square().mean(0).sqrt().sort(descending=True).values,
            style,
            label=name,
        )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.legend()
    plt.show()
