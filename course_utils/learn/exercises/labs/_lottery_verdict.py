"""Lab 4.2: the verdict on a ticket and its control."""

import torch

from course_utils.theory import intervals

from ..draws import pick, turn


def verdict_inputs(rng: torch.Generator) -> dict:
    """Accuracies by seed; the paired interval lies above 0, below it, or around it, often by
    little; seeds differ much or hardly.
    """
    n = turn(rng, 3, 4, 3, 131, 5)
    place = turn(rng, 1.1, 0.9, -1.1, 0.8, -0.9, 2.5, 0.3)
    base = 0.7 + turn(rng, 0.2, 1e-3) * torch.rand(n, generator=rng, dtype=torch.float64)
    noise = torch.randn(n, generator=rng, dtype=torch.float64)
    if n > 128:  # the last seeds decide
        noise, place = noise.sort().values, pick(rng, 1.1, -0.9)
    noise = (noise - noise.mean()) * pick(rng, 0.01, 0.02) / noise.std()
    half = intervals.interval(noise.tolist())[1]
    return {"ticket": (base + noise + place * half).tolist(), "control": base.tolist()}


def verdict(ticket: list[float], control: list[float]) -> str:
    """ "better", "worse" or "no difference seen": where the 95 % interval of the mean of ticket −
    control lies.
    """
    mean, half = intervals.interval([t - c for t, c in zip(ticket, control, strict=True)])
    if mean - half > 0:
        return "better"
    return "worse" if mean + half < 0 else "no difference seen"


def verdict_with(half):
    def answer(ticket, control):
        a, b = torch.tensor(ticket, dtype=torch.float64), torch.tensor(control, dtype=torch.float64)
        mean, width = float((a - b).mean()), float(half(a, b, len(a)))
        return "better" if mean > width else "worse" if mean < -width else "no difference seen"

    return answer


def t_quantile(n: int) -> float:
    return intervals.quantile(0.95, n - 1)
