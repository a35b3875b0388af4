"""Watch activations and choose the range [low, high] that a static grid covers.

A wide range clips nothing but has a large step; a narrow one has a small step but clips. min-max
never clips; the moving average forgets early batches; percentile, squared error and entropy clip a
little on purpose.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError
from course_utils.models import walk

from .grids import Grid, check_bits, scale_and_zero

BINS = 4096


class MinMax:
    """The smallest and the largest value seen."""

    low: Tensor | None = None
    high: Tensor | None = None

    def observe(self, x: Tensor) -> None:
        """Take in a tensor of any shape. Raises CompressionError for none, NaN or infinity."""
        x = x.detach().float()
        if x.numel() == 0 or not torch.isfinite(x).all():
            raise CompressionError(
                "activations: none, or NaN or infinity among them; check the calibration data."
            )
        low, high = x.min(), x.max()
        if self.low is None or self.high is None:
            self.low, self.high = low, high
        else:
            self.low, self.high = (
                self.merge(self.low, low, torch.minimum),
                self.merge(self.high, high, torch.maximum),
            )
        self.count(x)

    def merge(self, old: Tensor, new: Tensor, extreme: Callable) -> Tensor:
        """The extreme of what was seen and what is new."""
        return extreme(old, new)

    def count(self, x: Tensor) -> None:
        """Hook for observers that keep more than the extremes."""

    def extremes(self) -> tuple[Tensor, Tensor]:
        """(low, high) so far. Raises CompressionError if nothing was seen."""
        if self.low is None or self.high is None:
            raise CompressionError(
                "observer: has seen no activations; run the calibration data "
                "through the model first."
            )
        return self.low, self.high

    def range(self) -> tuple[Tensor, Tensor]:
        """(low, high), two scalars."""
        return self.extremes()


class MovingAverage(MinMax):
    """low ← m · low + (1 − m) · min(batch), and likewise high (Jacob et al., 2018, section 3.1)."""

    def __init__(self, momentum: float = 0.9) -> None:
        if not 0 <= momentum < 1:
            raise CompressionError(
                f"momentum={momentum}: choose a number from 0 to below 1, usually 0.9."
            )
        self.momentum = momentum

    def merge(self, old: Tensor, new: Tensor, extreme: Callable) -> Tensor:
        """Momentum · old + (1 - momentum) · new."""
        return self.momentum * old + (1 - self.momentum) * new


class Histogram(MinMax):
    """Counts in equal bins over [−r, r].

    When a larger value comes, r doubles and neighbouring bins are joined.
    """

    def __init__(self, bins: int = BINS) -> None:
        if bins < 8 or bins % 4:
            raise CompressionError(
                f"bins={bins}: choose a multiple of 4 from 8 on, usually {BINS}."
            )
        self.counts = torch.zeros(bins, dtype=torch.float64)
        self.reach = 0.0

    def count(self, x: Tensor) -> None:
        """Add values; where they reach further, bins are joined until they fit."""
        largest = max(float(x.abs().max()), torch.finfo(torch.float32).tiny)
        if self.reach == 0:
            self.reach = largest
        quarter = len(self.counts) // 4
        while self.reach < largest:
            joined = self.counts.view(-1, 2).sum(1)
            self.counts = torch.nn.functional.pad(joined, (quarter, quarter))
            self.reach *= 2
        self.counts += (
            torch.histc(x.flatten(), len(self.counts), -self.reach, self.reach).double().cpu()
        )

    def centres(self) -> Tensor:
        """The middle of each bin."""
        n = len(self.counts)
        return (torch.arange(n, dtype=torch.float64) + 0.5) * (2 * self.reach / n) - self.reach

    def within(self, low: float, high: float) -> tuple[Tensor, Tensor]:
        """The range, but not beyond what was seen."""
        seen_low, seen_high = self.extremes()
        return torch.tensor(low).clamp(min=float(seen_low)), torch.tensor(high).clamp(
            max=float(seen_high)
        )


class Percentile(Histogram):
    """Leaves (100 − percent) / 2 percent of the values outside on either side, to the width of a
    bin.
    """

    def __init__(self, percent: float = 99.9, bins: int = BINS) -> None:
        super().__init__(bins)
        if not 50 <= percent <= 100:
            raise CompressionError(f"percent={percent}: choose 50 to 100, usually 99 to 99.99.")
        self.percent = percent

    def range(self) -> tuple[Tensor, Tensor]:
        """(low, high) that leaves out the tails."""
        self.extremes()
        share = torch.cat(
            [torch.zeros(1, dtype=torch.float64), self.counts.cumsum(0) / self.counts.sum()]
        )
        edges = np.linspace(-self.reach, self.reach, len(share))
        tail = (100 - self.percent) / 200
        low = edges[max(0, int((share <= tail).sum()) - 1)]
        high = edges[int((share < 1 - tail).sum())]
        return self.within(float(low), float(high))


class SquaredError(Histogram):
    """The range with the least expected squared error E[(x − x̂)²] among shrunken versions of [min,
    max].
    """

    def __init__(self, bits: int = 8, symmetric: bool = True, bins: int = BINS) -> None:
        super().__init__(bins)
        check_bits(bits)
        self.bits, self.symmetric = bits, symmetric

    def range(self) -> tuple[Tensor, Tensor]:
        """(low, high) with the least squared error among fractions of the extremes."""
        low, high = (float(v) for v in self.extremes())
        fractions = torch.linspace(0.02, 1, 50, dtype=torch.float64)
        if self.symmetric:
            largest = max(-low, high)
            lows, highs = (
                (largest * fractions).neg().clamp(min=low),
                (largest * fractions).clamp(max=high),
            )
        else:
            pairs = torch.cartesian_prod(fractions[1::2], fractions[1::2])
            lows, highs = low * pairs[:, 0], high * pairs[:, 1]
        used = self.counts > 0
        errors = expected_error(
            self.centres()[used], self.counts[used], lows, highs, self.bits, self.symmetric
        )
        best = int(errors.argmin())
        return self.within(float(lows[best]), float(highs[best]))


class Entropy(Histogram):
    """The threshold t whose clipped and quantized distribution is closest in KL(P ‖ Q) to the one
    seen.

    On the histogram of |x|: for each t, P is the histogram up to t with all beyond it put into its
    last bin; Q is the histogram up to t merged into 2^(b−1) levels, each spread evenly over its
    bins that are not empty (Migacz, 2017, "8-bit Inference with TensorRT"). At most 256 thresholds
    are tried.
    """

    def __init__(self, bits: int = 8, bins: int = BINS) -> None:
        super().__init__(bins)
        check_bits(bits)
        self.bits = bits

    def range(self) -> tuple[Tensor, Tensor]:
        """(low, high) whose quantized histogram is nearest to the histogram in KL."""
        self.extremes()
        n = len(self.counts) // 2
        counts = (self.counts[n:] + self.counts[:n].flip(0)).numpy()
        levels = min(2 ** (self.bits - 1), n)
        ends = range(n, levels - 1, -max(1, n // 256))
        best = min(ends, key=lambda end: divergence(counts, end, levels))
        threshold = self.reach * best / n
        return self.within(-threshold, threshold)


def divergence(counts: np.ndarray, end: int, levels: int) -> float:
    """KL(P ‖ Q) in nats for the threshold at bin `end`; see Entropy."""
    kept = counts[:end]
    p = kept.copy()
    p[-1] += counts[end:].sum()
    starts = np.arange(levels) * end // levels
    used = kept > 0
    sums, filled = np.add.reduceat(kept, starts), np.add.reduceat(used.astype(float), starts)
    level = np.searchsorted(starts, np.arange(end), side="right") - 1
    q = np.where(used, sums[level] / np.maximum(filled[level], 1), 0)
    total_p, total_q = p.sum(), q.sum()
    if total_q == 0:
        return float("inf")
    p, q = p / total_p, q / total_q
    here = p > 0
    return float((p[here] * np.log(p[here] / np.maximum(q[here], 1e-12))).sum())


def expected_error(
    values: Tensor, weights: Tensor, low: Tensor, high: Tensor, bits: int, symmetric: bool
) -> Tensor:
    """Σ w (x − x̂)² / Σ w for each candidate range: values, weights (n,), low, high (candidates,) →
    (candidates,).
    """
    scale, zero = scale_and_zero(low, high, bits, symmetric, narrow=True)
    total = torch.zeros(len(low), dtype=torch.float64)
    for part in torch.arange(len(low)).split(64):
        s, z = scale[part, None].double(), zero[part, None].double()
        rounded = s * ((values / s).round().add(z).clamp(0, 2**bits - 1) - z)
        total[part] = ((values - rounded) ** 2 * weights).sum(1)
    return total / weights.sum()


OBSERVERS = ("min_max", "moving_average", "percentile", "mse", "entropy")


def make(name: str, *, bits: int = 8, symmetric: bool = True) -> MinMax:
    """A fresh observer by name. Raises CompressionError for an unknown one."""
    if name not in OBSERVERS:
        raise CompressionError(f"observer={name!r}: choose one of {', '.join(OBSERVERS)}.")
    if name == "mse":
        return SquaredError(bits, symmetric)
    if name == "entropy":
        return Entropy(bits)
    return {"min_max": MinMax, "moving_average": MovingAverage, "percentile": Percentile}[name]()


def grid(observer: MinMax, columns: int, *, bits: int = 8, symmetric: bool = True) -> Grid:
    """The per-tensor grid over an observer's range, for activations with `columns` features.

    Symmetric ones have the narrow range, ±127 with 8 bits, as `w8a8.to_int8`.
    """
    check_bits(bits)
    low, high = observer.range()
    scale, zero = scale_and_zero(low.view(1, 1), high.view(1, 1), bits, symmetric, narrow=True)
    return Grid(scale, zero, torch.zeros(columns, dtype=torch.long), bits, symmetric)


def watch(
    model: nn.Module, calibration: Tensor, make_observer: Callable[[], MinMax], batch: int = 8
) -> dict[str, MinMax]:
    """Run token ids (sequences, context) through the model; an observer of the input of each linear
    layer, by name.
    """
    found = {name: make_observer() for name in walk.compressible(model)}
    observe(model, calibration, found, batch)
    return found


@torch.no_grad()
def observe(
    model: nn.Module, calibration: Tensor, found: Mapping[str, MinMax], batch: int = 8
) -> None:
    """Show each observer the inputs of the layer of its name while token ids (sequences, context)
    go through the model.
    """
    calibration = walk.check_calibration(calibration, model)
    walk.check_finite(model)
    layers = walk.compressible(model)
    handles = [
        layers[name].register_forward_pre_hook(
            lambda _, args, observer=observer: observer.observe(args[0])
        )
        for name, observer in found.items()
    ]
    training = model.training
    model.eval()
    try:
        for ids in calibration.split(batch):
            model(input_ids=ids.to(next(model.parameters()).device), use_cache=False)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
