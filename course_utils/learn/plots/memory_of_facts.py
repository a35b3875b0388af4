"""Figure of lesson 4.5: what rounding leaves of a full store and of one that is nearly empty."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from . import base


def left_after_rounding(found: Mapping[str, Mapping[int, tuple[float, float]]]) -> Figure:
    """`found`: label → bits → (mean, half width) of the share of the facts' bits that is left."""
    figure, axes = base.figure(
        title="What rounding leaves of the facts",
        xlabel="bits of each parameter",
        ylabel="share left",
        size=(7, 3.6),
    )
    for (label, rows), marker in zip(found.items(), base.MARKERS, strict=False):
        bits = sorted(rows)
        means, halves = ([rows[b][i] for b in bits] for i in (0, 1))
        axes.errorbar(bits, means, yerr=halves, marker=marker, capsize=3, label=label)
    axes.set_xticks(sorted(next(iter(found.values()))))
    axes.invert_xaxis()
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=9, loc="lower left")
    plt.close(figure)
    return figure
