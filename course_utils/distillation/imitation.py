"""Learning to act from an expert: a car that is pushed about, behaviour cloning, and DAgger.

A learner that clones an expert is trained on the states that the *expert* visits and then meets
those that its own errors lead to: with error ε on each of T steps the expected cost grows as ε T²
at the worst. DAgger (Ross, Gordon and Bagnell, 2011) lets the learner drive, asks the expert what
it would have done there, keeps all answers and trains again: ε T.

State: offset y of the car from the middle of the lane, its heading θ against the lane. A step:

    θ ← θ + a + noise · ξ        y ← y + SPEED · sin θ

The camera sees the lane's middle in two rows, NEAR and FAR ahead of it, at −y − distance · θ: one
row alone could not tell offset from heading. The expert steers by the state itself.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_utils.errors import CompressionError

from . import digits
from .fit import fit

SPEED, LIMIT = 0.25, 1.0  # half widths of the lane: in a step, and where it ends
PIXELS, VIEW, SPOT = 24, 2.4, 0.2  # of a camera row; half its width; the spot's
NEAR, FAR = 0.4, 2.0  # how far ahead the rows look
MOST = 0.5  # radians of steering in a step
# (camera (n, 2 · PIXELS), state (n, 2)) → steering (n,)
Policy = Callable[[Tensor, Tensor], Tensor]


def camera(state: Tensor) -> Tensor:
    """Two rows of PIXELS for each state (n, 2): a blurred bright spot where the middle of the lane
    is; dark where it is out of view.
    """
    across = torch.linspace(-VIEW, VIEW, PIXELS)
    seen = torch.stack([-state[:, 0] - ahead * state[:, 1] for ahead in (NEAR, FAR)], 1)
    return torch.exp(-(((seen[..., None] - across) / SPOT) ** 2)).flatten(1)


def expert(view: Tensor, state: Tensor) -> Tensor:
    """Steering in radians, at most MOST either way: back to the middle, and straight."""
    return (-0.9 * state[:, 1] - 0.5 * state[:, 0]).clamp(-MOST, MOST)


def move(state: Tensor, steering: Tensor, push: Tensor) -> Tensor:
    """The state (n, 2) after a step; `push` (n,) turns the car on top of what it steers."""
    heading = (state[:, 1] + steering + push).clamp(-1.4, 1.4)
    return torch.stack([state[:, 0] + SPEED * torch.sin(heading), heading], 1)


@dataclass(frozen=True)
class Drive:
    """`states` (T, n, 2) as they were before each step, and which cars (n,) stayed within ± LIMIT
    to the end.
    """

    states: Tensor
    stayed: Tensor


@torch.no_grad()
def drive(
    policy: Policy, *, cars: int = 200, steps: int = 100, noise: float = 0.1, seed: int = 0
) -> Drive:
    """Let cars drive; noise · N(0, 1) turns each at every step.

    A car that has left the road stays off and stands still.
    """
    if cars < 1 or steps < 1 or not noise >= 0:
        raise CompressionError(
            f"cars={cars}, steps={steps}, noise={noise}: at least one car and step, "
            "and no negative noise."
        )
    rng = torch.Generator().manual_seed(seed)
    state = torch.randn(cars, 2, generator=rng) * 0.05
    on, seen = torch.ones(cars, dtype=torch.bool), []
    for _ in range(steps):
        seen.append(state)
        push = noise * torch.randn(cars, generator=rng)
        after = move(state, policy(camera(state), state), push)
        state = torch.where(on[:, None], after, state)
        on = on & (state[:, 0].abs() <= LIMIT)
    return Drive(torch.stack(seen), on)


def by(network: nn.Module) -> Policy:
    """The policy of a network, which sees the camera alone."""
    return lambda view, state: network(view)[:, 0].clamp(-MOST, MOST)


def train(
    network: nn.Module,
    states: Tensor,
    steering: Tensor,
    *,
    steps: int = 800,
    peak: float = 3e-3,
    seed: int = 0,
) -> nn.Module:
    """Squared error of the steering (n,) from the camera's views of the states (n, 2); in place."""
    if len(states) != len(steering) or not len(states):
        raise CompressionError(
            f"states: {len(states)}, steering: {len(steering)}; give as many of both, at least one."
        )
    views = camera(states)

    def step(rows: Tensor) -> tuple[dict[str, Tensor], float]:
        return {"error": (network(views[rows])[:, 0] - steering[rows]).square().mean()}, float(
            len(rows)
        )

    fit(
        network,
        step,
        len(views),
        steps=steps,
        batch=min(64, len(views)),
        peak=peak,
        weight_decay=0.0,
        seed=seed,
        every=steps,
        progress=False,
    )
    return network.eval()


def fresh(seed: int) -> nn.Module:
    """An untrained driver: 2 · PIXELS pixels, 32 hidden units, one number."""
    return digits.network(2 * PIXELS, 32, 1, seed=seed)


def some(drove: Drive, labels: int, seed: int) -> Tensor:
    """`labels` states, drawn by chance from those of a drive in which a car was on the road."""
    flat = drove.states.flatten(0, 1)
    flat = flat[flat[:, 0].abs() <= LIMIT]
    if len(flat) < labels:
        raise CompressionError(
            f"labels={labels}: the drive has {len(flat)} states on the road; let more cars drive."
        )
    return flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))[:labels]]


def clone(
    labels: int = 2000, *, noise: float = 0.0, steps: int = 800, seed: int = 0
) -> tuple[nn.Module, Tensor]:
    """(driver, its states): trained on `labels` states that the expert visits while `noise` pushes
    it.
    """
    states = some(
        drive(expert, cars=max(40, labels // 20), noise=noise, seed=1000 + seed), labels, seed
    )
    return train(
        fresh(seed), states, expert(camera(states), states), steps=steps, seed=seed
    ), states


def dagger(
    labels: int = 2000,
    *,
    rounds: int = 5,
    noise: float = 0.0,
    first_noise: float | None = None,
    steps: int = 800,
    seed: int = 0,
) -> tuple[nn.Module, Tensor]:
    """(driver, its states): as many labels as `clone` and as many steps of training, both in
    `rounds` equal parts.

    The first part of the states comes from the expert's drive (pushed by `first_noise`, by default
    `noise`), each further one from the learner's own. The expert names the steering at all of them;
    each round goes on training on all labels so far.
    """
    if rounds < 1 or labels % rounds or steps % rounds:
        raise CompressionError(
            f"labels={labels}, steps={steps}, rounds={rounds}: choose rounds that divide both."
        )
    driver: Policy = expert
    states, network = torch.empty(0, 2), fresh(seed)
    for number in range(rounds):
        pushed = first_noise if number == 0 and first_noise is not None else noise
        drove = drive(
            driver, cars=max(40, labels // 20), noise=pushed, seed=1000 + seed + 100 * number
        )
        states = torch.cat([states, some(drove, labels // rounds, seed + number)])
        train(
            network,
            states,
            expert(camera(states), states),
            steps=steps // rounds,
            seed=seed + number,
        )
        driver = by(network)
    return network, states


def error(network: nn.Module, states: Tensor) -> float:
    """The root mean square error of the steering, in radians, at these states (n, 2)."""
    with torch.no_grad():
        miss = by(network)(camera(states), states) - expert(camera(states), states)
    return math.sqrt(float(miss.square().mean()))
