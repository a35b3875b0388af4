"""Lesson 5.4: the bundled model as a supernet.

How its shared weights are trained, and the loss of every subnet of a space.

    python benchmarks/supernet.py  # half an hour on one core; goes on where it was stopped
    python benchmarks/supernet.py --seconds 200

120 subnets: blocks 0 and 4 and any of 1 to 3, five numbers of MLP channels, 1, 2 or 4 key-value
heads. Each training takes 32 steps of 4 sequences × 128 tokens from 256, the same for all rows; 4
subnets share a step. A separate training gives one subnet all 32 steps. Each row trains at the best
of four rates, which another set of 256 sequences and 16 windows of training text choose: by the
mean loss of the three subnets of the tables, or by that of the one that is trained alone.
Writes learn/tables/supernet-mean.json, supernet-small.json, supernet-middle.json,
supernet-large.json and plain/supernet-space.json.
"""

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tables import PROTOCOL, Kept, bundled

from course_utils import evaluation
from course_utils.evaluation.comparison import TABLES, compare
from course_utils.pruning import subnets, supernet, supernet_training
from course_utils.pruning.subnets import Space, Subnet

COMMAND = "python benchmarks/supernet.py"
STEPS, SEEDS, RATES = 32, (0, 1, 2), (3e-4, 1e-3, 3e-3, 6e-3)
TUNING = 99  # the seed of the set that chooses the rates
DEPTHS = tuple(
    (0, *inner, 4) for count in range(4) for inner in itertools.combinations((1, 2, 3), count)
)
CHANNELS, HEADS = (64, 128, 256, 384, 512), (1, 2, 4)
BUDGET, TESTED = 1_700_000, 12
SHOWN = {
    "small": Subnet((0, 4), 64, 1),
    "middle": Subnet((0, 2, 3, 4), 256, 2),
    "large": Subnet((0, 1, 2, 3, 4), 512, 4),
}


def main() -> None:
    kept = Kept("supernet")
    model, tokenizer, _ = bundled()
    test = evaluation.text.windows(
        tokenizer, "bundled", split="validation", n=64, context=128, seed=0
    ).ids
    search = evaluation.text.windows(
        tokenizer, "bundled", split="train", n=16, context=128, seed=9
    ).ids
    texts = {
        seed: evaluation.calibration(tokenizer, "bundled", n=256, context=128, seed=300 + seed)
        for seed in (*SEEDS, TUNING)
    }
    space = subnets.space(model, depths=DEPTHS, channels=CHANNELS, heads=HEADS)
    whole = [(space, STEPS)]
    ways = {
        "slices, untrained": None,
        "only draws": {"stages": whole, "sandwich": False, "distill": False},
        "sandwich, text": {"stages": whole, "distill": False},
        "sandwich, in-place": {"stages": whole},
        "progressive": {"stages": supernet_training.progressive(space, STEPS)},
    }

    def ordered(seed: int) -> supernet.Supernet:
        net = supernet.Supernet(model)
        net.order(texts[seed][:16])
        return net

    def trained(way: str, seed: int, rate: float) -> supernet.Supernet:
        net = ordered(seed)
        if ways[way]:
            supernet_training.train(net, texts[seed], seed=seed, learning_rate=rate, **ways[way])
        return net

    def alone(name: str, seed: int, rate: float) -> supernet.Supernet:
        net, only = ordered(seed), SHOWN[name]
        one = Space((only.blocks,), (only.channels,), (only.heads,))
        supernet_training.train(
            net, texts[seed], [(one, STEPS)], seed=seed, learning_rate=rate,
            sandwich=False, distill=False, each=1,
        )  # fmt: skip
        return net

    def best_rate(key: str, train: Callable, shown: Sequence[str]) -> float:
        """The rate with the least mean loss of these subnets on the windows of the search."""

        def loss(rate: float) -> float:
            net = train(TUNING, rate)
            return sum(float(nats(net, SHOWN[n], search).mean()) for n in shown) / len(shown)

        return kept.best(key, RATES, loss)

    rates = {
        way: best_rate(way, functools.partial(trained, way), list(SHOWN)) if ways[way] else 0.0
        for way in ways
    }
    own = {
        name: best_rate(f"alone {name}", functools.partial(alone, name), [name]) for name in SHOWN
    }

    def measured(way: str, seed: int) -> dict[str, list[float]]:
        net = trained(way, seed, rates[way])
        return {name: nats(net, subnet, test).tolist() for name, subnet in SHOWN.items()}

    for seed in SEEDS:
        for way in ways:
            found = kept.value(f"{way}, {seed}", lambda way=way, seed=seed: measured(way, seed))
            print(seed, way, {n: round(sum(v) / len(v), 3) for n, v in found.items()}, flush=True)
        for name in SHOWN:
            kept.value(
                f"separate {name}, {seed}",
                lambda name=name, seed=seed: nats(
                    alone(name, seed, own[name]), SHOWN[name], test
                ).tolist(),
            )

    dense = torch.tensor(evaluation.nats_by_window(model, test).tolist(), dtype=torch.float64)
    size = supernet.Supernet(model)

    def nats_of(way: str, name: str, seed: int) -> torch.Tensor:
        """Nats of each window, of a subnet or in the mean of the three."""
        if name == "mean":
            return torch.stack([nats_of(way, n, seed) for n in SHOWN]).mean(0)
        if way == "trained alone":
            return torch.tensor(kept.values[f"separate {name}, {seed}"], dtype=torch.float64)
        return torch.tensor(kept.values[f"{way}, {seed}"][name], dtype=torch.float64)

    for name in ("mean", *SHOWN):
        rows: dict[str, Any] = {
            way: lambda seed, way=way, name=name: nats_of(way, name, seed)
            for way in (*ways, "trained alone")
        }
        table = compare(
            "The mean of the three subnets" if name == "mean" else titled(size, SHOWN[name]),
            rows | {"the whole model, as it was": dense},
            against="sandwich, in-place",
            unit="nats a token",
            protocol=f"{PROTOCOL}; {STEPS} steps, at the best of {len(RATES)} rates each",
            columns={
                "learning rate": {way: rate or "" for way, rate in rates.items()}
                | {"trained alone": own.get(name, "")}
            },
        )
        print(table, flush=True)
        table.save(f"supernet-{name}", command=COMMAND)

    done = all(f"space {s}" in kept.values for s in space)
    way = "sandwich, in-place"
    net = ordered(0) if done else trained(way, 0, rates[way])
    scored = {
        s: kept.value(f"space {s}", lambda s=s: float(nats(net, s, search).mean())) for s in space
    }
    sizes = {s: size.parameters(s) for s in space}
    best = sorted((s for s in space if sizes[s] <= BUDGET), key=scored.__getitem__)[:TESTED]
    tested = {s: kept.value(f"test {s}", lambda s=s: nats(net, s, test).tolist()) for s in best}
    listed = [
        {"blocks": s.blocks, "channels": s.channels, "heads": s.heads, "parameters": sizes[s],
         "search": round(scored[s], 5),
         "test": round(sum(tested[s]) / len(tested[s]), 5) if s in tested else None}
        for s in space
    ]  # fmt: skip
    protocol = (
        "in-place, seed 0; search: 16 windows of 128 training tokens; test: "
        f"64 of validation, for the {TESTED} best of at most {BUDGET} numbers"
    )
    told = {"command": COMMAND, "protocol": protocol, "budget": BUDGET, "subnets": listed}
    (TABLES / "plain" / "supernet-space.json").write_text(
        json.dumps(told).replace('{"blocks"', '\n{"blocks"') + "\n"
    )


def titled(net: supernet.Supernet, subnet: Subnet) -> str:
    millions = net.parameters(subnet) / 1e6
    return (
        f"{len(subnet.blocks)} blocks, {subnet.channels} channels, {subnet.heads} key-value heads: "
        f"{millions:.2f} M numbers"
    )


@torch.no_grad()
def nats(net: supernet.Supernet, subnet: Subnet, ids: torch.Tensor) -> torch.Tensor:
    """Nats a token of each window."""
    found = []
    for part in ids.long().split(16):
        logits = net.logits(subnet, part)[:, :-1].float().log_softmax(-1)
        found.append(-logits.gather(-1, part[:, 1:, None])[..., 0].double().mean(1))
    return torch.cat(found)


if __name__ == "__main__":
    main()
