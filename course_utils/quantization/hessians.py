"""Second moments of a layer's inputs, H = (2/N) XᵀX, and what the methods that correct errors make
of them.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError, CompressionWarning
from course_utils.models import parallel, walk

from .grids import check_matrix

LOUD = 100
PANEL = 128  # columns of XᵀX that are computed at once, at least


def is_loud(H: Tensor) -> bool:
    """Whether 1 % of the mean of diag H exceeds its median, over the inputs that are not always
    zero.
    """
    used = H.diagonal()[H.diagonal() > 0]
    return len(used) > 0 and bool(used.mean() > LOUD * used.median())


def hessian(x: Tensor) -> Tensor:
    """H = (2/N) XᵀX for inputs X (…, in), summed in float32 at least; N counts the tokens."""
    x = walk.exact(x.reshape(-1, x.shape[-1]))
    if len(x) == 0:
        raise CompressionError("x: no inputs; give at least one token.")
    return (2.0 / len(x)) * (x.T @ x)


def add_half(total: Tensor, x: Tensor) -> None:
    """Total += XᵀX for X (tokens, in), on and above the diagonal only, in panels of rows: half of
    the arithmetic.

    See `mirrored`.
    """
    panel = panel_of(total)
    for start in range(0, len(total), panel):
        end = start + panel
        total[start:end, start:].addmm_(x[:, start:end].T, x[:, start:])


def mirrored(total: Tensor) -> Tensor:
    """What `add_half` left out, filled in place: the panels below the diagonal."""
    panel = panel_of(total)
    for start in range(0, len(total), panel):
        end = start + panel
        total[end:, start:end] = total[start:end, end:].T
    return total


def panel_of(total: Tensor) -> int:
    """Rows of XᵀX that are computed at a time."""
    return max(PANEL, -(-len(total) // 8))


def damped(H: Tensor, damping: float) -> Tensor:
    """H + damping · min(mean, LOUD · median)(diag H) · I over inputs that are not always zero;
    those count as 1 on the diagonal.

    The official code takes the mean. A few loud inputs can make 1 % of it larger than what most
    inputs have on the diagonal: what is known about those is drowned. So the mean is bounded by
    LOUD = 100 times the median (`is_loud`).
    """
    H = H.clone()
    diagonal = H.diagonal()
    dead = diagonal == 0
    if not dead.all():
        ridge = damping * torch.minimum(diagonal[~dead].mean(), LOUD * diagonal[~dead].median())
    else:
        ridge = diagonal.new_zeros(())
    diagonal[dead] = 1
    diagonal += ridge
    return H


def chance(H: Tensor, tokens: int, enough: float = 1.0) -> float:
    """The part ρ of the correlations in H that so few tokens leave to chance; 0 from `enough`
    tokens an input on.

    With R the matrix of correlations, p inputs and N tokens

        ρ = min(1, ((1 − 2/p) ‖R‖² + p²) / ((N + 1 − 2/p) (‖R‖² − p)))

    the oracle approximating shrinkage (Chen et al., 2010, eq. 23), for normal inputs the one of the
    least expected error.
    """
    p = int((H.diagonal() > 0).sum())
    if tokens >= enough * len(H) or p < 2:
        return 0.0
    deviation = H.diagonal().clamp(min=torch.finfo(H.dtype).tiny).sqrt()
    size = float((H / deviation / deviation[:, None]).double().square().sum())
    return min(1.0, ((1 - 2 / p) * size + p * p) / ((tokens + 1 - 2 / p) * max(size - p, 1e-9)))


def shrunk(H: Tensor, tokens: int, enough: float = 1.0) -> Tensor:
    """H of few tokens drawn towards its diagonal by `chance`, R ← (1 − ρ) R + ρ I; H itself where
    that is 0.

    Without correlations GPTQ is plain rounding, and a refit changes nothing.
    """
    share = chance(H, tokens, enough)
    return torch.lerp(H, torch.diag(H.diagonal()), share) if share else H


def inverse_cholesky(H: Tensor) -> Tensor:
    """The upper triangular U with H⁻¹ = UᵀU.

    With J the reversal of order and JHJ = LLᵀ, U = J L⁻¹ J: one Cholesky factor and one triangular
    inverse.
    Raises CompressionError if H is not positive definite, or so nearly singular that rounding
    errors would decide.
    """
    # symmetric, and column by column in memory, as LAPACK wants it: factored in its place
    A = H.flip(0, 1).mT
    del H  # a wide layer's factors are large: hold as few at once as can be
    diagonal = A.diagonal().clone()
    L, failed = torch.linalg.cholesky_ex(
        A, out=(A, torch.empty((), dtype=torch.int32, device=A.device))
    )
    if failed or not (L.diagonal() ** 2 > 10 * torch.finfo(L.dtype).eps * diagonal).all():
        raise CompressionError(
            "H is not positive definite; use more calibration data or a larger damping (try 0.1)."
        )
    inverse = torch.eye(len(L), dtype=L.dtype, device=L.device)
    torch.linalg.solve_triangular(L, inverse, upper=False, out=inverse)
    del A, L
    return reversed_in_place(inverse)


def reversed_in_place(x: Tensor) -> Tensor:
    """`x.flip(0, 1)` of a square matrix in its own memory, a few rows at a time."""
    n = len(x)
    for start in range(0, n // 2, 256):
        end = min(start + 256, n // 2)
        top = x[start:end].clone()
        x[start:end] = x[n - end : n - start].flip(0, 1)
        x[n - end : n - start] = top.flip(0, 1)
    if n % 2:
        x[n // 2] = x[n // 2].flip(0)
    return x


def layer_error(weight: Tensor, quantized: Tensor, H: Tensor) -> float:
    """tr((W − Ŵ) H (W − Ŵ)ᵀ): the squared error of the layer's outputs, summed over outputs, mean
    over tokens, times 2.
    """
    total = 0.0
    for rows, rounded in zip(weight.split(256), quantized.split(256), strict=True):
        difference = (rows - rounded).to(H.dtype)
        total += float((difference @ H).mul_(difference).sum())
    return total


def check_hessian(H: Tensor, inputs: int) -> None:
    """Raises CompressionError unless H is finite and (inputs, inputs)."""
    if H.shape != (inputs, inputs):
        raise CompressionError(f"H: shape {tuple(H.shape)}, but the weight has {inputs} inputs.")
    if not torch.isfinite(H).all():
        raise CompressionError("H: contains NaN or infinity; check the calibration inputs.")


def check_walk(weight: Tensor, H: Tensor, damping: float, block_size: int) -> Tensor:
    """What a walk over the columns needs: `check_matrix` of the weight, a finite H that fits it,
    sensible settings.
    """
    weight = check_matrix(weight)
    check_hessian(H, weight.shape[1])
    if not 0 <= damping <= 1:
        raise CompressionError(f"damping={damping}: choose a number from 0 to 1, usually 0.01.")
    if block_size < 1:
        raise CompressionError(f"block_size={block_size}: choose a number of columns, usually 128.")
    return weight


def too_few(H: Tensor | None, tokens: int, calibration: Tensor) -> bool:
    """Whether a layer saw fewer tokens than it has inputs, though the calibration has as many.

    So it is with experts; H is then singular.
    """
    return H is None or tokens < min(len(H), calibration.numel())


def warn_of_few_tokens(calibration: Tensor, layers: dict[str, nn.Module]) -> None:
    """Warn where a layer has more inputs than there are tokens: its H is singular, and `shrunk`."""
    tokens = calibration.numel()
    short = {
        name: walk.weight_of(m).shape[1]
        for name, m in layers.items()
        if walk.weight_of(m).shape[1] > tokens
    }
    if short:
        widest = max(short, key=short.__getitem__)
        warnings.warn(
            (
                f"calibration: {tokens} tokens, but {len(short)} of {len(layers)} layers have more "
                f"inputs ({widest}: {short[widest]}). What these say of correlations is mostly "
                "chance, so that it is used in part only (hessians.shrunk), and little is gained; "
                f"give {8 * max(short.values())} or more."
            ),
            CompressionWarning,
            stacklevel=3,
        )


def block_hessians(
    block: nn.Module,
    states: Iterable,
    layers: Iterable[nn.Module] | None = None,
    counts: dict[nn.Module, int] | None = None,
) -> dict[nn.Module, Tensor]:
    """For each linear layer of a block: H = (2/N) XᵀX over the inputs that `states` bring to it.

    Layers that are fed the same tensor (query, key and value) share one sum, which they must not
    change. `layers`: only these; one that no token reaches is not in the answer. `counts`, if
    given, is filled with the tokens that each of them saw.
    """
    counts = {} if counts is None else counts
    sums: dict[nn.Module, _Sum] = {}
    latest: list[Any] = [None, None]  # the input with which the newest sum began, and that sum

    def collect(module: nn.Module, x: Tensor) -> None:
        counts[module] = counts.get(module, 0) + x.shape[:-1].numel()
        if module not in sums:
            if latest[0] is not x:
                latest[:] = x, _Sum.of(x)
            sums[module] = latest[1]
            latest[1].layers.add(module)
            return
        latest[:] = None, None
        if (own := sums[module]).input is not None and (own.input is not x or module in own.seen):
            sums.update(own.parted())
        own = sums[module]
        own.input = x
        own.seen.add(module)
        if own.seen == own.layers:
            own.add()

    def settle() -> None:
        latest[:] = None, None
        for own in [own for own in sums.values() if own.input is not None]:
            sums.update(own.parted())

    watched = list(walk.linears(block).values() if layers is None else layers)
    walk.watch(block, states, watched, collect, settle)
    totals = {module: own.total for module, own in sums.items()}
    sums.clear()
    parallel.add_up(totals, counts, watched)
    done: set[int] = set()
    for module, total in totals.items():  # layers that share a sum saw the same inputs
        if id(total) not in done:
            mirrored(total).mul_(2.0 / counts[module])
            done.add(id(total))
    return totals


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).float()


class _Sum:
    """XᵀX, `total` (`add_half`), of `layers` that were fed the same tensors so far.

    `input` is added, in place, when all of them have `seen` it.
    """

    def __init__(self, total: Tensor) -> None:
        self.total, self.input = total, None  # type: Tensor, Tensor | None
        self.layers: set[nn.Module] = set()
        self.seen: set[nn.Module] = set()

    @classmethod
    def of(cls, x: Tensor) -> "_Sum":
        rows = _rows(x)
        total = rows.new_zeros(rows.shape[1], rows.shape[1])
        add_half(total, rows)
        return cls(total)

    def add(self) -> None:
        assert self.input is not None
        add_half(self.total, _rows(self.input))
        self.input, self.seen = None, set()

    def parted(self) -> "dict[nn.Module, _Sum]":
        """The layers that saw `input` when others did not, with a sum of their own from here on."""
        if self.input is None:
            return {}
        apart = _Sum(self.total.clone())
        apart.layers, apart.seen, apart.input = self.seen, self.seen, self.input
        apart.add()
        self.layers, self.seen, self.input = self.layers - apart.layers, set(), None
        return dict.fromkeys(apart.layers, apart)
