"""Mixed precision on the bundled model: bits for each layer by several measures of sensitivity, at
equal mean bits.

    python benchmarks/mixed_precision.py          # eight minutes on one core
    python benchmarks/mixed_precision.py grids    # ten minutes: the published grid and the one of
                                                  # least squares beside it
    python benchmarks/mixed_precision.py rows     # five minutes: widths for each output channel

HQQ with fitted, unbiased scales, groups of 64, 2, 3 or 4 bits a layer. Sensitivities come from 64
windows of 128 training tokens (three sets), the damage of the result is measured on 64 other
windows of the validation split. Mean bits count the codes of all weights of the blocks; scales and
zero points (float16, 0.5 bit a weight) are the same for every row of the table and are added.
Writes learn/tables/mixed-layers.json, mixed-grids.json and mixed-rows.json.
"""

import copy
import functools
import sys

import torch
from tables import PROTOCOL, bundled

from course_utils import evaluation
from course_utils.evaluation import allocation, by_window, sensitivity
from course_utils.evaluation.comparison import compare
from course_utils.models import walk
from course_utils.quantization import hqq, mixed_rows
from course_utils.theory import noise

BITS, SWAPS = (2, 3, 4), 30
COMMAND = "python benchmarks/mixed_precision.py"
GRIDS = {
    "published": {},
    "least squares": {"fit_scale": True},
    "unbiased": {"fit_scale": True, "unbiased": True},
}


def main() -> None:
    model, tokenizer, divergences = bundled()
    layers = {name: walk.weight_of(m).float() for name, m in walk.compressible(model).items()}
    weights = {name: w.numel() for name, w in layers.items()}
    total = sum(weights.values())
    size = {name: {b: n * b for b in BITS} for name, n in weights.items()}

    @functools.cache
    def text(seed: int):
        return evaluation.calibration(tokenizer, "bundled", n=64, context=128, seed=200 + seed)

    @functools.cache
    def on(grid: str):
        return {
            (n, b): hqq.quantize_layer(w, bits=b, **GRIDS[grid]).weight
            for n, w in layers.items()
            for b in BITS
        }

    rounded = on("unbiased")
    by_sum = {float(w.sum()): n for n, w in layers.items()}
    assert len(by_sum) == len(layers)

    @functools.cache
    def damages(seed: int, grid: str = "unbiased"):
        options = {b: lambda w, b=b: on(grid)[by_sum[float(w.sum())], b] for b in BITS}
        found = allocation.measured_damages(model, text(seed), options, progress=False)
        print("damages", grid, seed, flush=True)
        return found

    @functools.cache
    def weight_errors():
        return {
            n: {b: float((rounded[n, b] - w).square().sum()) for b in BITS}
            for n, w in layers.items()
        }

    @functools.cache
    def from_noise(seed: int):
        alpha = sensitivity.noise_sensitivities(model, text(seed))
        return {
            n: {b: alpha[n] * noise.relative_error(w, rounded[n, b]) for b in BITS}
            for n, w in layers.items()
        }

    def model_of(chosen, grid="unbiased"):
        """The weights that the packed model computes with, without packing it."""
        made = copy.deepcopy(model)
        for name, module in walk.compressible(made).items():
            walk.weight_of(module).copy_(on(grid)[name, chosen[name]])
        return made

    def best(table, mean_bits):
        return allocation.allocate(table, size, mean_bits * total)

    def random_choice(seed, mean_bits):
        """Layers in random order get one bit more until the next does not fit."""
        chosen, left = dict.fromkeys(layers, 2), (mean_bits - 2) * total
        names = list(layers)
        for i in torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist():
            if weights[names[i]] <= left:
                chosen[names[i]] += 1
                left -= weights[names[i]]
        return chosen

    def swapped(seed, mean_bits):
        """From the optimum by added damages: random swaps of bits between layers that fit and lower
        the true KL on the same text.
        """
        chosen, ids, rng = (
            best(damages(seed), mean_bits),
            text(seed),
            torch.Generator().manual_seed(seed),
        )
        goal = by_window.predictions(model, ids)
        least, names, tried = (
            float(by_window.kl_by_window(goal, model_of(chosen), ids).mean()),
            list(layers),
            0,
        )
        start = least
        while tried < SWAPS:
            up, down = (names[i] for i in torch.randint(len(names), (2,), generator=rng).tolist())
            other = {**chosen, up: chosen[up] + 1, down: chosen[down] - 1}
            fits = sum(size[n].get(b, torch.inf) for n, b in other.items()) <= mean_bits * total
            if up == down or not fits:
                continue
            tried += 1
            if (found := float(by_window.kl_by_window(goal, model_of(other), ids).mean())) < least:
                chosen, least = other, found
        print(f"swaps, set {seed}: {start:.6f} → {least:.6f}", flush=True)
        return chosen

    ways = {
        "uniform 2": lambda s: dict.fromkeys(layers, 2),
        "uniform 3": lambda s: dict.fromkeys(layers, 3),
        "KL, 2.25": lambda s: best(damages(s), 2.25),
        "KL, 2.5": lambda s: best(damages(s), 2.5),
        "KL, 3": lambda s: best(damages(s), 3),
        "weight error, 2.25": lambda s: best(weight_errors(), 2.25),
        "weight error, 2.5": lambda s: best(weight_errors(), 2.5),
        "weight error, 3": lambda s: best(weight_errors(), 3),
        "noise, 2.25": lambda s: best(from_noise(s), 2.25),
        "noise, 2.5": lambda s: best(from_noise(s), 2.5),
        "noise, 3": lambda s: best(from_noise(s), 3),
        "random, 2.25": lambda s: random_choice(s, 2.25),
        "random, 2.5": lambda s: random_choice(s, 2.5),
        "KL and swaps, 2.5": lambda s: swapped(s, 2.5),
    }
    bits, predicted = {}, {}

    def row(label, choose, grid="unbiased"):
        def run(seed):
            chosen = choose(seed)
            bits[label] = f"{sum(weights[n] * (b + 0.5) for n, b in chosen.items()) / total:.3f}"
            guess = sum(damages(seed, grid)[n][b] for n, b in chosen.items())
            predicted.setdefault(label, []).append(guess)
            found = divergences(model_of(chosen, grid))
            print(
                (
                    f"{label}, set {seed}: {bits[label]} bits, {float(found.mean()):.6f} "
                    f"(added damages {guess:.6f})"
                ),
                flush=True,
            )
            return found

        return run

    def finish(title, rows, against, name, protocol, command=COMMAND):
        table = compare(
            title, rows, against=against, unit="nats", protocol=f"{PROTOCOL}; {protocol}"
        )
        table.columns["bits a weight"] = {k: bits[k] for k in rows}
        table.columns["added damages"] = {
            k: f"{sum(predicted[k]) / len(predicted[k]):.2g}" for k in rows
        }
        print(table)
        table.save(name, command=command)

    if "rows" in sys.argv:
        spent = {}

        def by_rows(label, table):
            def run(seed):
                size_of = {
                    n: torch.tensor([[w.shape[1] * b + 8.0 for b in BITS]]).expand(len(w), -1)
                    for n, w in layers.items()
                }
                chosen, bound = mixed_rows.allocate_rows(table(seed), size_of, 2.5 * total, BITS)
                made = copy.deepcopy(model)
                for n, module in walk.compressible(made).items():
                    for b in BITS:
                        walk.weight_of(module)[chosen[n] == b] = rounded[n, b][chosen[n] == b]
                taken = sum(
                    float((chosen[n].double() * w.shape[1] + 8).sum()) for n, w in layers.items()
                )
                spent[label] = f"{taken / total + 0.5:.3f}"
                found = divergences(made.eval())
                print(label, seed, spent[label], float(found.mean()), flush=True)
                return found

            return run

        @functools.cache
        def fisher(seed):
            return mixed_rows.row_damages(model, text(seed), BITS, seed=seed, **GRIDS["unbiased"])

        def of_layers(seed):
            """The same estimates, added up for each layer."""
            table = {
                n: dict(zip(BITS, d.sum(0).tolist(), strict=True)) for n, d in fisher(seed).items()
            }
            spent["layers, Fisher"] = "3.000"
            return divergences(model_of(best(table, 2.5)))

        def chance(seed):
            rng = torch.Generator().manual_seed(seed)
            return {
                n: torch.rand(len(w), 1, generator=rng).double() * torch.tensor([1.0, 0.1, 0.02])
                for n, w in layers.items()
            }

        rows = {
            "layers, Fisher": of_layers,
            "rows, Fisher": by_rows("rows, Fisher", fisher),
            "rows by chance": by_rows("rows by chance", chance),
        }
        about = (
            f"{PROTOCOL}; 64 windows of 128 training tokens, 3 sets; 2.5 bits a weight for codes "
            "and the widths of rows"
        )
        table = compare(
            "Bits for each row", rows, against="layers, Fisher", unit="nats", protocol=about
        )
        table.columns["bits a weight"] = spent
        return print(table.save("mixed-rows", command=f"{COMMAND} rows"), table, sep="\n")
    if "grids" in sys.argv:
        rows = {}
        for grid in GRIDS:
            rows |= {
                f"uniform {b}, {grid}": row(
                    f"uniform {b}, {grid}", lambda s, b=b: dict.fromkeys(layers, b), grid
                )
                for b in (2, 3)
            }
            rows |= {
                f"{m}, {grid}": row(
                    f"{m}, {grid}", lambda s, m=m, grid=grid: best(damages(s, grid), m), grid
                )
                for m in (2.25, 2.5)
            }
        finish(
            "Three grids of HQQ, bits for each layer by KL on that grid", rows,
            "uniform 2, unbiased", "mixed-grids", "sensitivities from 64 windows of 128 training "
                "tokens, 3 sets; bits with 0.5 for scales and zero points", f"{COMMAND} grids",
        )  # fmt: skip
    if "layers" not in sys.argv and len(sys.argv) > 1:
        return
    one = best(damages(0), 2.5)  # written weights are those of the packed model
    packed = hqq.quantize(
        model, bits=2, fit_scale=True, unbiased=True, per_layer=allocation.as_per_layer(one)
    ).model
    assert torch.allclose(divergences(packed), divergences(model_of(one)), atol=1e-6)
    finish(
        "Bits for each layer, HQQ in groups of 64", {k: row(k, f) for k, f in ways.items()},
        "uniform 3", "mixed-layers",
        "sensitivities from 64 windows of 128 training tokens, 3 sets; bits with 0.5 for scales "
        "and zero points",
    )  # fmt: skip


if __name__ == "__main__":
    main()
