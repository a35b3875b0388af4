"""Bits a number that a learned codec saves over entropy-coded rounding, at the same squared error:
where numbers hang together, and weights.

    python benchmarks/neural_codec.py     # five minutes on one core

Blocks of 8 (the ring: of 2), 1,500 steps of 512 blocks, three seeds of the training; rates on
20,000 blocks that were not trained on, by the learned probabilities. Rounding is given the entropy
of the very blocks that it codes. Writes learn/tables/neural-codec.json.
"""

import torch

from course_utils import models
from course_utils.evaluation.comparison import compare
from course_utils.models import walk
from course_utils.quantization import neural_codec

HELD, TRADE = 20_000, {"sequence": 60.0, "ring": 200.0, "weights": 10.0, "weights, shuffled": 10.0}


def sources() -> dict[str, torch.Tensor]:
    net, _ = models.load("bundled")
    layers = [walk.weight_of(m).detach().float() for m in walk.compressible(net).values()]
    blocks = torch.cat([(w / w.std()).reshape(-1, 8) for w in layers])
    rng = torch.Generator().manual_seed(0)
    blocks = blocks[torch.randperm(len(blocks), generator=rng)]
    shuffled = blocks.flatten()[torch.randperm(blocks.numel(), generator=rng)].view_as(blocks)
    return {
        "sequence": neural_codec.markov(100_000), "ring": neural_codec.ring(100_000),
        "weights": blocks, "weights, shuffled": shuffled,
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    found = sources()
    rates: dict[str, list[str]] = {}

    def row(source, hidden):
        label = f"{source}: {'network' if hidden else 'linear'}"

        def saved(seed):
            x = found[source]
            codec = neural_codec.train(x[HELD:], TRADE[source], hidden=hidden, seed=seed)
            bits, error = codec.measured(x[:HELD])
            plain = neural_codec.rounded(x[:HELD], error)
            rates.setdefault(label, []).append(f"{bits:.2f}")
            print(label, seed, bits, error, plain - bits, flush=True)
            return plain - bits

        return label, saved

    rows = dict(row(source, hidden) for source in found for hidden in (0, 32))
    table = compare(
        "Bits a number saved over entropy-coded rounding at equal error", rows, unit="bits",
        better="higher", against="weights, shuffled: network",
        protocol="blocks of 8 (ring: 2), 1,500 steps of 512 blocks, rates on 20,000 other blocks",
    )  # fmt: skip
    table.columns["bits a number"] = {k: v[0] for k, v in rates.items()}
    print(table.save("neural-codec", command="python benchmarks/neural_codec.py"), table, sep="\n")


if __name__ == "__main__":
    main()
