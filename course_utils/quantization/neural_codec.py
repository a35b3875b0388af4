"""A neural codec for blocks of numbers: a learned transform, rounding, and a learned model of the
codes (Ballé et al., 2017).

    y = f(x)     q = round(y)     x̂ = g(q)     bits = −Σ log₂ p_j(q_j)

f and g are linear, or linear with a small network beside it. Rounding has no gradient, so in
training noise u ~ U(−½, ½) stands for it, and the loss is

    bits / d + λ · mean (x − x̂)²,     p_j(q) = F_j(q + ½) − F_j(q − ½)

with F_j a mixture of three logistic distributions for each coordinate j. After training codes are
really rounded, and bits are those of the learned p_j on data that were not trained on: what an
arithmetic coder would write, to a hundredth.
Weights need f's and g's numbers beside the codes; `parameters` counts what the decoder holds.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.errors import CompressionError

COMPONENTS = 3


class Entropies(nn.Module):
    """p_j(q): a mixture of logistic distributions for each of `width` coordinates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(width, COMPONENTS))
        self.mean = nn.Parameter(torch.linspace(-1, 1, COMPONENTS).repeat(width, 1))
        self.log_scale = nn.Parameter(torch.zeros(width, COMPONENTS))

    def bits(self, y: Tensor) -> Tensor:
        """−log₂ (F(y + ½) − F(y − ½)), the shape of y (n, width)."""
        above, below = (
            (y[..., None] + d - self.mean) * (-self.log_scale).exp() for d in (0.5, -0.5)
        )
        # both in the lower tail, where the difference is exact
        mirror = torch.where(above + below > 0, -1.0, 1.0)
        mass = ((mirror * above).sigmoid() - (mirror * below).sigmoid()).abs()
        p = (self.share.softmax(-1) * mass).sum(-1)
        return -torch.log2(p.clamp(min=2.0**-24))


class Codec(nn.Module):
    """f, g and p for blocks of `width` numbers. `hidden`=0: f and g are matrices."""

    def __init__(self, width: int, hidden: int = 0, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.into, self.back = nn.Linear(width, width), nn.Linear(width, width)
            nn.init.orthogonal_(self.into.weight)
            self.back.weight.data.copy_(self.into.weight.T)
            for layer in (self.into, self.back):
                nn.init.zeros_(layer.bias)
            self.beside = nn.ModuleList(
                nn.Sequential(
                    nn.Linear(width, hidden),
                    nn.SiLU(),
                    nn.Linear(hidden, hidden),
                    nn.SiLU(),
                    nn.Linear(hidden, width),
                )
                for _ in range(2 if hidden else 0)
            )
            self.gain = nn.Parameter(torch.ones(width))  # of y; rounding is to whole numbers
            self.entropies = Entropies(width)

    def encode(self, x: Tensor) -> Tensor:
        """Real numbers, to be rounded."""
        y = self.into(x) + (self.beside[0](x) if self.beside else 0)
        return y * self.gain

    def decode(self, q: Tensor) -> Tensor:
        """What rounded numbers stand for."""
        y = q / self.gain
        return self.back(y) + (self.beside[1](y) if self.beside else 0)

    @property
    def parameters_of_decoder(self) -> int:
        """Numbers that a decoder holds: g, the gains and the tables' parameters."""
        kept = [
            self.gain,
            *self.back.parameters(),
            *self.entropies.parameters(),
            *(self.beside[1].parameters() if self.beside else ()),
        ]
        return sum(p.numel() for p in kept)

    @torch.no_grad()
    def measured(self, x: Tensor) -> tuple[float, float]:
        """(bits a number, mean squared error) of blocks x (n, width), really rounded."""
        q = self.encode(x).round()
        return float(self.entropies.bits(q).mean()), float((self.decode(q) - x).square().mean())


def train(
    blocks: Tensor,
    trade: float,
    *,
    hidden: int = 0,
    steps: int = 1500,
    batch: int = 512,
    rate: float = 5e-3,
    seed: int = 0,
) -> Codec:
    """A codec for blocks (n, width); `trade` is λ: bits that a unit of squared error is worth.

    Adam, the rate falling to 0.

    Raises CompressionError for blocks that are not finite, and for a trade that is not positive.
    """
    if blocks.dim() != 2 or not len(blocks) or not torch.isfinite(blocks).all() or not trade > 0:
        raise CompressionError(
            f"blocks: shape {tuple(blocks.shape)}, trade={trade}: give finite blocks (n, "
            "width) and a positive trade."
        )
    codec, rng = Codec(blocks.shape[1], hidden, seed), torch.Generator().manual_seed(seed)
    # at high rates a step s leaves s²/12, and d(bits)/d(error) = 1 / (2 ln 2 · error): start at the
    # step that this asks for
    codec.gain.data.fill_(min(1e3, math.sqrt(trade * 2 * math.log(2) / 12)))
    spread = (codec.encode(blocks[:4096]).detach().std(0) / 2).clamp(min=0.1)
    codec.entropies.log_scale.data.copy_(spread.log()[:, None])
    codec.entropies.mean.data.mul_(spread[:, None])
    optimizer = torch.optim.Adam(codec.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / steps)
    for _ in range(steps):
        x = blocks[torch.randint(len(blocks), (batch,), generator=rng)]
        y = codec.encode(x)
        y = y + torch.rand(y.shape, generator=rng) - 0.5
        loss = codec.entropies.bits(y).mean() + trade * F.mse_loss(codec.decode(y), x)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(codec.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return codec


def rounded(x: Tensor, error: float) -> float:
    """Bits a number of x (n, width) rounded alone with one step and coded at the entropy of all
    codes, at this mean squared error.

    The control: entropy-coded rounding of lesson 4.1. The step is found by bisection. Raises
    CompressionError for an error that is not between 0 and the mean square of x.
    """
    if not 0 < error < float(x.square().mean()):
        raise CompressionError(
            f"error={error}: choose one between 0 and the mean square of x, "
            f"{float(x.square().mean()):g}."
        )
    low, high = 0.0, 8 * float(x.abs().max())
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if float(((x / middle).round() * middle - x).square().mean()) < error
            else (low, middle)
        )
    counts = torch.unique((x / high).round(), return_counts=True)[1].double()
    p = counts / counts.sum()
    return float(-(p * p.log2()).sum())


def markov(n: int, width: int = 8, correlation: float = 0.95, seed: int = 0) -> Tensor:
    """Blocks (n, width) of a stationary normal sequence, x_t = ρ x_(t−1) + √(1 − ρ²) ε."""
    rng = torch.Generator().manual_seed(seed)
    noise, x = torch.randn(n, width, generator=rng), torch.empty(n, width)
    x[:, 0] = noise[:, 0]
    for t in range(1, width):
        x[:, t] = correlation * x[:, t - 1] + math.sqrt(1 - correlation**2) * noise[:, t]
    return x


def markov_gain(width: int, correlation: float) -> float:
    """Bits a number that the best linear transform saves on `markov` at high rates: −½ log₂ det(R)
    / d = −(d − 1)/(2 d) log₂(1 − ρ²).

    R is the covariance; the transform is its eigenvectors (Karhunen–Loève), the saving ½ log₂ of
    arithmetic over geometric mean of the eigenvalues (Jayant and Noll, 1984).
    """
    return -(width - 1) / (2 * width) * math.log2(1 - correlation**2)


def ring(n: int, width: int = 2, noise: float = 0.03, seed: int = 0) -> Tensor:
    """Points (n, 2) near a circle of radius 1: uncorrelated, of equal variance, and far from
    independent.
    """
    rng = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(n, generator=rng)
    return torch.stack([angle.cos(), angle.sin()], 1) * (
        1 + noise * torch.randn(n, 1, generator=rng)
    )
