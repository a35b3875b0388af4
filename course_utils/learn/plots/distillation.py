"""Figures of the lessons on distillation that take more than a few lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from . import base as plots


def answers(
    logits: Tensor, temperature: float, word: Callable[[int], str], *, before: str, named: int = 14
) -> Figure:
    """What a model says of the next token, logits (V,): the likeliest tokens by name, and all of
    them in order.

    Both axes of probability are logarithmic, and both show τ = 1 beside `temperature`.
    """
    plain, soft = logits.softmax(-1), (logits / temperature).softmax(-1)
    shown = plain.topk(min(named, len(plain))).indices
    figure, (left, right) = plots.plt.subplots(
        1, 2, figsize=(9.5, 4.2), layout="constrained", width_ratios=(3, 2)
    )
    left.barh(range(len(shown)), soft[shown], color=plots.BLUE)
    left.plot(plain[shown], range(len(shown)), "D", color=plots.ORANGE)
    left.set_yticks(range(len(shown)), [word(int(token)) for token in shown])
    left.invert_yaxis()
    left.set(xscale="log", xlim=(1e-7, 1.5), xlabel="probability", title="the likeliest tokens")
    ranks = range(1, len(plain) + 1)
    for values, colour, style, tau in (
        (plain, plots.ORANGE, "D--", 1),
        (soft, plots.BLUE, "-", temperature),
    ):
        ordered = values.sort(descending=True).values.clamp(min=1e-12)
        right.loglog(
            ranks, ordered, style, color=colour, markevery=len(plain), label=f"τ = {tau:g}"
        )
    entropy = float(torch.distributions.Categorical(probs=soft).entropy().exp())
    right.axvline(entropy, color=plots.BLACK, linestyle=":", linewidth=1.2)
    right.set(ylim=(1e-8, 2), xlabel="rank among all tokens", title=f"all {len(plain):,}")
    right.legend(loc="lower left")
    figure.suptitle(
        f"… {before} ▁      at τ = {temperature:g} as unsure as among {entropy:.1f} equal tokens",
        x=0.01,
        ha="left",
    )
    return figure


def doubts(
    images: Mapping[str, Tensor],
    logits: Mapping[str, Tensor],
    temperatures: tuple[float, float] = (1, 4),
) -> Figure:
    """Left each image (8, 8), right what the teacher says of it at two temperatures."""
    figure, axes = plots.plt.subplots(
        len(images), 2, figsize=(7.5, 1.7 * len(images)), layout="constrained", width_ratios=(1, 3)
    )
    for (left, right), (name, image) in zip(axes, images.items(), strict=True):
        left.imshow(image, cmap="gray_r")
        left.set(xticks=[], yticks=[], title=name)
        for temperature, colour, shift in zip(
            temperatures, (plots.ORANGE, plots.BLUE), (-0.2, 0.2), strict=True
        ):
            places = torch.arange(len(logits[name])) + shift
            right.bar(
                places,
                (logits[name] / temperature).softmax(-1),
                0.4,
                color=colour,
                label=f"τ = {temperature:g}",
            )
        right.set(xticks=range(len(logits[name])), ylim=(0, 1), ylabel="probability")
    axes[0, 1].legend()
    axes[-1, 1].set_xlabel("digit")
    return figure


def shares(table: Tensor) -> Figure:
    """A map of (digits, digits): how the teacher's doubt about each digit is divided among the
    others.
    """
    figure, axes = plots.figure(
        title="Which wrong digits the teacher thinks of",
        xlabel="wrong answer",
        ylabel="true digit",
        size=(5.6, 4.6),
    )
    image = axes.imshow(table, cmap="Blues", vmin=0)
    axes.set(xticks=range(len(table)), yticks=range(len(table)))
    axes.grid(visible=False)
    figure.colorbar(image, label="share of the wrong answers, τ = 4")
    return figure


def courses(
    histories: Mapping[str, Sequence[Mapping]], *, start: float, teacher: float, title: str
) -> Figure:
    """Validation loss over training steps, one line for each way, a ring around the checkpoint it
    would keep.
    """
    figure, axes = plots.figure(
        title=title,
        xlabel="training step",
        ylabel="validation loss, nats per token",
        size=(7.5, 3.8),
    )
    for i, (name, history) in enumerate(histories.items()):
        steps, losses = [line["step"] for line in history], [line["validation"] for line in history]
        axes.plot(steps, losses, marker=plots.MARKERS[i], color=plots.COLOURS[i], label=name)
        best = min(range(len(losses)), key=losses.__getitem__)
        axes.plot(
            steps[best], losses[best], "o", markersize=15, fillstyle="none", color=plots.COLOURS[i]
        )
    axes.axhline(teacher, color=plots.BLACK, linestyle="--", linewidth=1.2, label="the teacher")
    top = max(line["validation"] for history in histories.values() for line in history)
    axes.set_ylim(top=min(top, start) + 0.1)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def looks(
    rows: Mapping[str, Tensor], words: Sequence[str], distances: Mapping[str, Tensor], *, query: str
) -> Figure:
    """Left: where one query looks, a row of weights for each model.

    Right: how far all maps are from the teacher's.

    `distances[name]` holds one divergence for each window; bars are means with 95 % intervals over
    the windows.
    """
    figure, (left, right) = plots.plt.subplots(
        1, 2, figsize=(9.5, 4.4), layout="constrained", width_ratios=(3, 2)
    )
    high = 0.8 / len(rows)
    for i, (name, weights) in enumerate(rows.items()):
        places = torch.arange(len(words)) + (i - (len(rows) - 1) / 2) * high
        left.barh(places, weights, high, color=plots.COLOURS[i], label=name)
    left.set_yticks(range(len(words)), words)
    left.invert_yaxis()
    left.set(xlabel="attention", title=f"where {query} looks")
    figure.legend(loc="outside lower center", ncols=len(rows))
    means = [float(d.mean()) for d in distances.values()]
    halves = [float(1.96 * d.std() / len(d) ** 0.5) for d in distances.values()]
    colours = [
        plots.COLOURS[list(rows).index(name) if name in rows else len(rows) + i]
        for i, name in enumerate(distances)
    ]
    right.barh(range(len(means)), means, xerr=halves, color=colours, capsize=4)
    right.set_yticks(range(len(means)), list(distances))
    right.invert_yaxis()
    right.set(xlabel="KL from the teacher, nats", title="all queries, last block")
    return figure


def by_setting(
    values: Sequence[float],
    means: Sequence[float],
    halves: Sequence[float],
    *,
    base: float,
    half: float,
    title: str,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """A measure over a setting with intervals, and a band for the row that does without it."""
    figure, axes = plots.figure(title=title, xlabel=xlabel, ylabel=ylabel, size=(7, 3.4))
    axes.errorbar(
        values,
        means,
        yerr=halves,
        marker="o",
        capsize=4,
        color=plots.BLUE,
        label="with the teacher",
    )
    axes.axhline(base, color=plots.ORANGE, linestyle="--", label="labels alone")
    axes.axhspan(base - half, base + half, color=plots.ORANGE, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(values), [f"{v:g}" for v in values])
    axes.legend()
    return figure


def directions(axis: Tensor, teacher: Tensor, forward: Tensor, backward: Tensor) -> Figure:
    """A teacher with two peaks, and the one hump that each divergence chooses: probabilities over
    the classes `axis`.
    """
    figure, axes = plots.figure(
        title="KL(T ‖ S) covers both peaks, KL(S ‖ T) chooses one",
        xlabel="the classes, in a row",
        ylabel="probability",
        size=(7, 3.4),
    )
    axes.fill_between(axis, teacher, color="0.85", label="teacher")
    axes.plot(axis, forward, color=plots.ORANGE, label="student, KL(T ‖ S)")
    axes.plot(axis, backward, "--", color=plots.GREEN, label="student, KL(S ‖ T)")
    axes.legend()
    return figure


def push(
    student: Tensor,
    teacher: Tensor,
    gradient: Tensor,
    words: Sequence[str],
    *,
    temperature: float,
    title: str,
) -> Figure:
    """Softened answers of both models for some tokens, and the push −gradient on the student's
    logits.
    """
    figure, (left, right) = plots.plt.subplots(
        1, 2, figsize=(8.5, 4), layout="constrained", sharey=True
    )
    for values, colour, name, shift in (
        (teacher, plots.BLUE, "teacher", -0.2),
        (student, plots.ORANGE, "student", 0.2),
    ):
        left.barh(torch.arange(len(words)) + shift, values, 0.4, color=colour, label=name)
    left.set_yticks(range(len(words)), words)
    left.invert_yaxis()
    left.set(title=f"answers at τ = {temperature:g}", xlabel="probability")
    left.legend()
    right.barh(
        range(len(words)),
        -gradient,
        color=[plots.GREEN if g < 0 else plots.RED for g in gradient.tolist()],
    )
    right.axvline(0, color=plots.BLACK, linewidth=1)
    right.set(title=title, xlabel="−gradient")
    return figure


def loudness(
    taus: Sequence[float], with_square: Sequence[float], without: Sequence[float], label: float
) -> Figure:
    """The size of the gradient in the logits over the temperature, with τ² and without, beside that
    of the label's part.
    """
    figure, axes = plots.figure(
        title="Without τ² the teacher falls silent",
        xlabel="temperature τ",
        ylabel="‖gradient in the logits‖",
    )
    axes.loglog(taus, with_square, color=plots.BLUE, label="τ² KL")
    axes.loglog(taus, without, "--", color=plots.ORANGE, label="KL")
    axes.axhline(label, color=plots.BLACK, linestyle=":", label="cross-entropy with the label")
    axes.legend()
    return figure
