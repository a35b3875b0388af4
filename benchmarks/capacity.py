"""How many bits of fact a small store holds, and what rounding leaves of them, with three seeds.

    python benchmarks/capacity.py      # half a minute on one core

A store of 2,432 parameters (embeddings of two names and an attribute, one hidden layer) learns
random facts of 4 bits each: Adam, all facts at once, 1,500 steps, rate 0.01 with a cosine. Rounded:
symmetric, one scale for each row. Writes learn/tables/capacity.json (bits held for each parameter)
and learn/tables/capacity-rounded.json (share of the bits that rounding leaves).
"""

import copy
import functools

import torch

from course_utils.evaluation.comparison import compare
from course_utils.quantization import fake_quantize
from course_utils.theory import capacity

SEEDS, COUNTS, FEW, MANY = range(3), (300, 1500, 3000), 300, 1500


@functools.cache
def learned(count: int, seed: int):
    facts = capacity.random_facts(count, seed=seed)
    return capacity.learn(capacity.FactStore(seed=seed), facts, steps=1500), facts


@torch.no_grad()
def rounded(store, bits: int):
    work = copy.deepcopy(store)
    for p in work.parameters():
        rows = p if p.dim() == 2 else p[None]
        p.copy_(
            fake_quantize(
                rows, bits=bits, symmetric=True, narrow=True, granularity="per_channel"
            ).view_as(p)
        )
    return work


def left(count: int, bits: int, seed: int) -> float:
    store, facts = learned(count, seed)
    return round(
        capacity.held_bits(rounded(store, bits), facts) / capacity.held_bits(store, facts), 3
    )


def main() -> None:
    torch.set_num_threads(1)
    size = sum(p.numel() for p in capacity.FactStore().parameters())

    def held(count: int, seed: int) -> float:
        store, facts = learned(count, seed)
        return round(capacity.held_bits(store, facts) / size, 3)

    protocol = "store of 2,432 parameters, 4 bits a fact, 1,500 steps on all facts"
    table = compare(
        "Bits of fact for each parameter",
        {f"{n:,} facts": lambda seed, n=n: held(n, seed) for n in COUNTS}, seeds=SEEDS, unit="bits",
        better="higher", protocol=protocol,
        columns={"offered": {f"{n:,} facts": f"{4 * n / size:.2f}" for n in COUNTS}},
    )  # fmt: skip
    print(table)
    table.save("capacity", command="python benchmarks/capacity.py")
    table = compare(
        "Share of the bits that rounding leaves",
        {f"{n:,} facts, {b} bits": lambda seed, n=n, b=b:
            left(n, b, seed) for b in (8, 6, 5, 4) for n in (FEW, MANY)},
        seeds=SEEDS, better="higher", protocol=protocol + "; one scale for each row",
    )  # fmt: skip
    print(table)
    table.save("capacity-rounded", command="python benchmarks/capacity.py")


if __name__ == "__main__":
    main()
