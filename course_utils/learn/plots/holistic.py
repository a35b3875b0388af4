"""Figures of lesson 5.8: what a round of drafts yields and pays, and a measured front with the
configuration that is chosen.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from course_utils.systems import speculative

from . import base


def pays(alpha: float, c: float, most: int = 12) -> Figure:
    """Speed-up against the number of drafted tokens, at this acceptance and for this cost of a
    drafted token.
    """
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    ks = range(0, most + 1)
    values = [speculative.speed_up(speculative.expected_tokens(alpha, k), k, c) for k in ks]
    best = max(ks, key=lambda k: values[k])
    axes.plot(ks, values, base.MARKERS[0] + "-", color=base.BLUE)
    axes.plot(best, values[best], base.MARKERS[3], color=base.RED, markersize=11)
    axes.axhline(1, color=base.BLACK, linewidth=1)
    axes.set(
        xlabel="drafted tokens k (0: no draft)",
        ylabel="speed-up",
        xticks=list(ks),
        ylim=(0, max(2.0, 1.1 * max(values))),
    )
    axes.set_title(f"α = {alpha:.2f}, c = {c:.2f}: best with k = {best}, {values[best]:.2f} times")
    plt.close(figure)  # shown once, by whoever asked for it
    return figure


def front(
    rows: Mapping[str, Mapping[str, float]],
    on_front: Sequence[str],
    chosen: str | None,
    *,
    limit: float | None = None,
    title: str = "",
) -> Figure:
    """Divergence against megabytes; the front filled, the choice marked, a limit on bytes as a
    line.
    """
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for kind, colour, marker in (
        ("GPTQ", base.BLUE, "o"),
        ("rounded", base.ORANGE, "s"),
        ("16 bits", base.GREEN, "^"),
    ):
        for filled in (True, False):
            here = [r for n, r in rows.items() if kind in n and (n in on_front) == filled]
            if here:
                axes.errorbar(
                    [r["bytes"] / 1e6 for r in here], [max(r["kl"], 1e-5) for r in here],
                    yerr=[[min(r["kl_half"], 0.9 * max(r["kl"], 1e-5)) for r in here],
                          [r["kl_half"] for r in here]], fmt=marker, color=colour,
                          markerfacecolor=colour if filled else "white", markersize=8,
                    label=f"{kind}, {'on' if filled else 'not on'} the front", elinewidth=1,
                )  # fmt: skip
    if chosen is not None:
        axes.plot(
            rows[chosen]["bytes"] / 1e6,
            max(rows[chosen]["kl"], 1e-5),
            "o",
            markersize=18,
            markerfacecolor="none",
            color=base.RED,
            markeredgewidth=2,
        )
    if limit is not None:
        axes.axvline(limit, color=base.BLACK, linewidth=1, linestyle="--")
    axes.set(
        yscale="log",
        xscale="log",
        xlabel="megabytes, embedding included",
        ylabel="KL from the original, nats\n(below 10⁻⁵: drawn there)",
    )
    axes.set_xticks([1, 1.5, 2, 3, 4, 6], ["1", "1.5", "2", "3", "4", "6"])
    axes.minorticks_off()
    axes.set_title(title or (chosen or "no configuration keeps these limits"))
    axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    plt.close(figure)  # shown once, by whoever asked for it
    return figure
