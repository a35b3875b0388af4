"""From eyes to ears: a network for sounds that is taught by one for pictures, and a student that
sees less than its teacher.

A telephone's keypad says each digit by two sines (DTMF, ITU-T Q.23), one for its row and one for
its column:

          1209  1336  1477 Hz
     697    1     2     3
     770    4     5     6
     852    7     8     9
     941          0

The ear is the power at these seven frequencies (Goertzel, 1958). Where pictures and sounds come in
pairs, what a network says of the picture is a target for the sound; nobody needs to name either
(Gupta, Hoffman and Malik, 2016). A teacher that sees both inputs may also teach a student that will
have one (generalized distillation; Lopez-Paz et al., 2016).
"""

import math

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError

from .fit import fit

RATE, SAMPLES = 8000, 205  # Hz, and the usual length for telling these tones apart: 26 ms
ROWS, COLUMNS = (697, 770, 852, 941), (1209, 1336, 1477)
PLACES = ((3, 1), *((i // 3, i % 3) for i in range(9)))  # (row, column) of the digits 0 … 9


def tones(digits: Tensor, *, noise: float = 1.0, seed: int = 0) -> Tensor:
    """Sounds (n, SAMPLES) of digits (n,): two sines of amplitude 1 with phases by chance, and noise
    of this standard deviation.
    """
    if (
        digits.ndim != 1
        or not len(digits)
        or digits.min() < 0
        or digits.max() > 9
        or not noise >= 0
    ):
        raise CompressionError(
            f"digits: shape {tuple(digits.shape)}, noise={noise}; give a row of digits 0 … 9, "
            "and no negative noise."
        )
    rng = torch.Generator().manual_seed(seed)
    hertz = torch.tensor([[ROWS[r], COLUMNS[c]] for r, c in PLACES], dtype=torch.float32)[digits]
    phase = 2 * math.pi * torch.rand(len(digits), 2, 1, generator=rng)
    waves = torch.sin(2 * math.pi * hertz[..., None] * torch.arange(SAMPLES) / RATE + phase).sum(1)
    return waves + noise * torch.randn(waves.shape, generator=rng)


def goertzel(sounds: Tensor, hertz: float) -> Tensor:
    """The power (n,) of sounds (n, SAMPLES) at one frequency, |Σ_t x_t e^{−iωt}|², by two additions
    and one product a sample.

    s_t = x_t + 2 cos ω · s_{t−1} − s_{t−2};  power = s_T² + s_{T−1}² − 2 cos ω · s_T · s_{T−1}.
    Source: Goertzel (1958).
    """
    twice = 2 * math.cos(2 * math.pi * hertz / RATE)
    before = last = torch.zeros(len(sounds), dtype=torch.float64)
    for x in sounds.double().T:
        before, last = last, x + twice * last - before
    return (last.square() + before.square() - twice * last * before).to(sounds.dtype)


def ear(sounds: Tensor) -> Tensor:
    """(n, 7): the logarithm of the power at each frequency of the keypad, about −2 to 2."""
    powers = torch.stack([goertzel(sounds, f) for f in (*ROWS, *COLUMNS)], 1)
    return (powers / SAMPLES).clamp(min=1e-6).log() / 2 - 1


def one_hot(names: Tensor) -> Tensor:
    """(n, 10) of zeros and ones."""
    return nn.functional.one_hot(names, 10).float()


@torch.no_grad()
def soft(teacher: nn.Module, x: Tensor, temperature: float = 1.0) -> Tensor:
    """What a teacher says of its own inputs: softmax(teacher(x) / temperature), (n, 10)."""
    return (teacher(x) / temperature).softmax(-1)


def teach(
    student: nn.Module,
    x: Tensor,
    targets: Tensor,
    *,
    steps: int = 300,
    peak: float = 1e-2,
    seed: int = 0,
) -> nn.Module:
    """Train in place by −Σ targets · log softmax(student(x)); row i of `targets` (n, 10) may come
    from a teacher that saw another half of pair i.

    One loss for labels (`one_hot`) and for answers (`soft`).
    """
    if len(x) != len(targets) or not len(x):
        raise CompressionError(
            f"x, targets: {len(x)} and {len(targets)} rows; pairs need as many "
            "of both, at least one."
        )

    def step(rows: Tensor) -> tuple[dict[str, Tensor], float]:
        return {
            "answers": -(targets[rows] * student(x[rows]).log_softmax(-1)).sum(-1).mean()
        }, float(len(rows))

    fit(
        student,
        step,
        len(x),
        steps=steps,
        batch=min(64, len(x)),
        peak=peak,
        seed=seed,
        every=steps,
        progress=False,
    )
    return student.eval()


def mislabelled(names: Tensor, share: float, seed: int = 0) -> Tensor:
    """Names (n,) of which about `share` are replaced by another digit, drawn by chance."""
    rng = torch.Generator().manual_seed(seed)
    other = (names + torch.randint(1, 10, names.shape, generator=rng)) % 10
    return torch.where(torch.rand(names.shape, generator=rng) < share, other, names)
