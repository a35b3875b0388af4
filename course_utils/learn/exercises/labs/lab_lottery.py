"""Lab 4.2: a round of pruning in all layers, training under a mask, the search for a ticket, its
control, the verdict.
"""

import torch
from torch import Tensor

from course_utils.learn.checks.exercise import Exercise

from ..draws import pick, turn, until
from ._lottery_verdict import t_quantile, verdict, verdict_inputs, verdict_with

LAB = "lab-4.2-lottery-ticket"
LARGE = (131, 133)  # beyond any likely block

# --- a round in all layers ---


def layers(rng: torch.Generator, shapes) -> dict[str, Tensor]:
    """Weights of layers with unlike scales."""
    return {
        f"layer{i}": torch.randn(shape, generator=rng, dtype=torch.float64) * 10**-i
        for i, shape in enumerate(shapes)
    }


def draw_round(rng: torch.Generator) -> dict:
    """Layers of unlike size and scale after some rounds; the optimizer has moved the pruned weights
    too.
    """
    shapes = turn(rng, [(5, 7), (8, 5)], [(6, 9), (4, 6), (3, 7)], [LARGE, (7, 9)])
    trained = layers(rng, shapes)
    masks = {
        name: torch.rand(w.shape, generator=rng) > pick(rng, 0.25, 0.5)
        for name, w in trained.items()
    }
    return {"trained": trained, "masks": masks, "rate": pick(rng, 0.2, 0.3, 0.45)}


def round_inputs(rng: torch.Generator) -> dict:
    """In the first layer the number that goes is no whole one, and is rounded up in most draws."""
    low, high = turn(rng, (0.55, 0.95), (0.05, 0.45), (0.55, 0.95))
    return until(
        rng,
        draw_round,
        lambda given: low < given["rate"] * int(given["masks"]["layer0"].sum()) % 1 < high,
    )


def next_masks(
    trained: dict[str, Tensor], masks: dict[str, Tensor], rate: float
) -> dict[str, Tensor]:
    """In each layer, of the n weights that are left, the round(rate n) smallest of |trained| go."""
    found = {}
    for name, mask in masks.items():
        left = int(mask.sum())
        size = torch.where(mask, trained[name].abs(), -1.0).flatten()
        new = torch.zeros(mask.numel(), dtype=torch.bool)
        new[size.argsort(descending=True)[: left - round(rate * left)]] = True
        found[name] = new.view(mask.shape)
    return found


def largest(size: Tensor, count: int) -> Tensor:
    new = torch.zeros(size.numel(), dtype=torch.bool)
    new[size.flatten().argsort(descending=True)[: max(0, count)]] = True
    return new.view(size.shape)


def each_layer(keep):
    return lambda trained, masks, rate: {
        name: keep(trained[name], mask, rate) for name, mask in masks.items()
    }


def _score(w: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, w.abs(), -1.0)


def _left(mask: Tensor, rate: float) -> int:
    return int(mask.sum()) - round(rate * int(mask.sum()))


def one_ranking(trained, masks, rate):
    """All layers compete with each other."""
    sizes = torch.cat([_score(trained[n], m).flatten() for n, m in masks.items()])
    every = torch.cat([m.flatten() for m in masks.values()])
    parts = largest(sizes, _left(every, rate)).split([m.numel() for m in masks.values()])
    return {
        name: part.view(mask.shape) for (name, mask), part in zip(masks.items(), parts, strict=True)
    }


# --- training under a mask ---


def training_inputs(rng: torch.Generator) -> dict:
    """A few batches for a linear classifier; some draws have no momentum, one is large."""
    (classes, inputs), batch = turn(rng, ((3, 5), 6), ((4, 6), 5), (LARGE, 133))
    batches = [torch.randn(batch, inputs, generator=rng, dtype=torch.float64) for _ in range(4)]
    labels = [torch.randint(classes, (batch,), generator=rng) for _ in batches]
    start = torch.randn(classes, inputs, generator=rng, dtype=torch.float64) / inputs**0.5
    mask = torch.rand(classes, inputs, generator=rng) < 0.5
    return {
        "start": start,
        "mask": mask,
        "batches": batches,
        "labels": labels,
        "rate": pick(rng, 0.3, 0.5),
        "momentum": turn(rng, 0.9, 0.5, 0.7),
    }


def gradient(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Of the mean cross-entropy of softmax(x Wᵀ)."""
    error = torch.softmax(x @ weight.T, -1)
    error[torch.arange(len(y)), y] -= 1
    return error.T @ x / len(y)


def train_masked(
    start: Tensor,
    mask: Tensor,
    batches: list[Tensor],
    labels: list[Tensor],
    rate: float,
    momentum: float,
) -> Tensor:
    """W = start ∘ mask; for each batch v ← μ v + ∇, W ← (W − η v) ∘ mask."""
    weight, speed = start * mask, torch.zeros_like(start)
    for x, y in zip(batches, labels, strict=True):
        speed = momentum * speed + gradient(weight, x, y)
        weight = (weight - rate * speed) * mask
    return weight


def training_with(
    begin=lambda w, m: w * m,
    held=lambda w, m, start: w * m,
    end=lambda w, m: w,
    speed=1.0,
    sign=-1.0,
):
    """The training with another beginning, another hold after each step, another end, momentum or
    direction.
    """

    def answer(start, mask, batches, labels, rate, momentum):
        weight, v = begin(start, mask), torch.zeros_like(start)
        for x, y in zip(batches, labels, strict=True):
            v = speed * momentum * v + gradient(weight, x, y)
            weight = held(weight + sign * rate * v, mask, start)
        return end(weight, mask)

    return answer


# --- the search ---


def search_inputs(rng: torch.Generator) -> dict:
    """A training that depends on where it begins and on which weights are left."""
    shapes = turn(rng, [(6, 8), (5, 9)], [(9, 7)], [LARGE])
    start = layers(rng, shapes)
    drift = {
        name: w.std() * torch.randn(w.shape, generator=rng, dtype=torch.float64)
        for name, w in start.items()
    }
    return {
        "start": start,
        "train": Training(drift),
        "rounds": turn(rng, 3, 4, 2),
        "rate": pick(rng, 0.3, 0.4),
    }


class Training:
    """Trained weights that are a function of the weights and of how many are left; pruned ones move
    as well.
    """

    def __init__(self, drift: dict[str, Tensor]) -> None:
        self.drift = drift

    def __repr__(self) -> str:  # in a message: the same in every process
        return "train(weights, masks)"

    def __call__(self, weights: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
        left = sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
        return {
            n: w + torch.roll(self.drift[n], int(17 * left), 1) * (1 + w)
            for n, w in weights.items()
        }


def find_ticket(
    start: dict[str, Tensor], train, rounds: int, rate: float
) -> list[dict[str, Tensor]]:
    """[all kept, after one round, …]: train from the initial weights, prune what was trained, begin
    again.
    """
    found = [{name: torch.ones(w.shape, dtype=torch.bool) for name, w in start.items()}]
    for _ in range(rounds):
        trained = train(start, found[-1])
        found.append(next_masks(trained, found[-1], rate))
    return found


def search_with(
    weights="start", masks="last", prune="last", rank="trained", part=slice(None), extra=0
):
    """The search with one thing wrong."""

    def answer(start, train, rounds, rate):
        found = [{name: torch.ones(w.shape, dtype=torch.bool) for name, w in start.items()}]
        trained = start
        for done in range(rounds + extra):
            if done == 0 or weights != "once":
                trained = train(
                    start if weights != "trained" else trained,
                    found[-1] if masks == "last" else found[0],
                )
            if prune == "anew":
                found.append(next_masks(trained, found[0], 1 - (1 - rate) ** (done + 1)))
            else:
                found.append(next_masks(start if rank == "start" else trained, found[-1], rate))
        return found[part]

    return answer


# --- the control ---


def control_inputs(rng: torch.Generator) -> dict:
    """Masks that keep unlike shares of their layers, and favour some rows and columns, as tickets
    do.
    """
    shapes = turn(rng, [(12, 15), (9, 20)], [(16, 11), (10, 14), (8, 9)], [LARGE, (20, 17)])
    shares = [0.06, 0.3, 0.6]
    masks = {}
    for i, shape in enumerate(shapes):
        rows, columns = (torch.randn(n, generator=rng).exp() for n in shape)
        odds = torch.outer(rows, columns)
        masks[f"layer{i}"] = torch.rand(shape, generator=rng) < shares[i] * odds / odds.mean()
    return {"masks": masks, "seed": int(torch.randint(10_000, (), generator=rng))}


def random_masks(masks: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """In each layer as many True as in the mask, in places drawn by chance."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, mask in masks.items():
        new = torch.zeros(mask.numel(), dtype=torch.bool)
        new[torch.randperm(mask.numel(), generator=generator)[: int(mask.sum())]] = True
        found[name] = new.view(mask.shape)
    return found


def counts(inputs: dict, result: dict[str, Tensor]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in result.items()}


def by_chance(inputs: dict, result: dict[str, Tensor]) -> bool:
    """No more in common with the ticket than chance gives, no lean to one end of rows or columns,
    at five deviations, and rows and columns filled as evenly as chance fills them (χ² within eight
    deviations).
    """
    for name, mask in inputs["masks"].items():
        new, n, size = result[name], int(mask.sum()), mask.numel()
        expected = n * n / size
        if (
            abs(int((new & mask).sum()) - expected)
            > 5 * max(1.0, expected * (1 - n / size) ** 2) ** 0.5
        ):
            return False
        places = torch.nonzero(new).double()
        for axis, length in enumerate(mask.shape):
            deviation = ((length**2 - 1) / 12 / n) ** 0.5
            if abs(float(places[:, axis].mean()) - (length - 1) / 2) > 5 * deviation:
                return False
            even = n / length
            spread = float(((new.sum(1 - axis) - even) ** 2).sum()) / (even * (1 - n / size))
            if spread > length + 8 * (2 * length) ** 0.5 + 8:
                return False
    return True


EXERCISES = [
    Exercise(
        "lab_lottery.next_masks", round_inputs, next_masks,
        {
            "revived": each_layer(lambda w, m, rate: largest(w.abs(), _left(m, rate))),
            "mask_reset": each_layer(lambda w, m, rate:
                largest(w.abs(), m.numel() - round(rate * m.numel()))),
            "rate_of_all": each_layer(lambda w, m, rate:
                largest(_score(w, m), int(m.sum()) - round(rate * m.numel()))),
            "cut_off": each_layer(lambda w, m, rate:
                largest(_score(w, m), int(m.sum()) - int(rate * int(m.sum())))),
            "largest_go": each_layer(lambda w, m, rate:
                largest(torch.where(m, -w.abs(), -99.0), _left(m, rate))),
            "signed": each_layer(lambda w, m, rate:
                largest(torch.where(m, w, -99.0), _left(m, rate))),
            "one_ranking": one_ranking,
            "kept_share": each_layer(lambda w, m, rate:
                largest(_score(w, m), round(rate * int(m.sum())))),
        },
        lesson=LAB, trials=6,
    ),
    Exercise(
        "lab_lottery.train_masked", training_inputs, train_masked,
        {
            "revived": training_with(held=lambda w, m, start: w),
            "masked_at_the_end": training_with(begin=lambda w, m: w, held=lambda w, m, start: w,
                                               end=lambda w, m: w * m),
            "not_masked_at_the_start": training_with(begin=lambda w, m: w),
            "pruned_stay": training_with(begin=lambda w, m: w, held=lambda w, m, start:
                torch.where(m, w, start)),
            "inverted": training_with(begin=lambda w, m: w * ~m, held=lambda w, m, start: w * ~m),
            "no_momentum": training_with(speed=0.0),
            "uphill": training_with(sign=1.0),
        },
        lesson=LAB, trials=6, tolerance=1e-6,
    ),
    Exercise(
        "lab_lottery.find_ticket", search_inputs, find_ticket,
        {
            "not_rewound": search_with(weights="trained"),
            "trained_once": search_with(weights="once"),
            "pruned_anew": search_with(prune="anew"),
            "ranked_by_start": search_with(rank="start"),
            "last_only": search_with(part=slice(-1, None)),
            "first_missing": search_with(part=slice(1, None)),
            "one_round_more": search_with(extra=1),
        },
        lesson=LAB, trials=6,
    ),
    Exercise(
        "lab_lottery.random_masks", control_inputs, random_masks,
        {
            "share_of_all": lambda masks, seed: share_of_all(masks, seed),
            "gone_for_kept": lambda masks, seed:
                {name: ~m for name, m in random_masks(masks, seed).items()},
        },
        {"by_chance": by_chance}, lesson=LAB, trials=6, counts=counts,
    ),
    Exercise(
        "lab_lottery.verdict", verdict_inputs, verdict,
        {
            "mean_only": verdict_with(lambda a, b, n: 0.0),
            "unpaired": verdict_with(lambda a, b, n:
                t_quantile(n) * ((a.var() + b.var()) / n) ** 0.5),
            "normal_quantile": verdict_with(lambda a, b, n: 1.96 * (a - b).std() / n**0.5),
            "spread": verdict_with(lambda a, b, n: t_quantile(n) * (a - b).std()),
            "degrees_of_freedom": verdict_with(lambda a, b, n:
                t_quantile(n) * (a - b).std(unbiased=False) / n**0.5),
            "turned": lambda ticket, control: verdict(control, ticket),
        },
        lesson=LAB, trials=21,
    ),
]  # fmt: skip


def share_of_all(masks, seed):
    """The same share in every layer, that of the whole network."""
    share = sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
    return random_masks(
        {
            n: torch.arange(m.numel()).view(m.shape) < round(share * m.numel())
            for n, m in masks.items()
        },
        seed,
    )
