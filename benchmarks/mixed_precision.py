"""Mixed precision on the bundled model: bits for each layer by several measures of sensitivity, at equal mean bits.

    python benchmarks/mixed_precision.py          # ten minutes on one core

HQQ with fitted scales, groups of 64, 2, 3 or 4 bits a layer. Sensitivities come from 32 windows of 128 training tokens (three sets), the damage of
the result is measured on 64 other windows of the validation split. Mean bits count the codes of all weights of the
blocks; scales and zero points (float16, 0.5 bit a weight) are the same for every row of the table and are added.
Writes learn/tables/mixed-layers.json and mixed-grids.json.
"""

import copy
import functools

import torch
from tables import PROTOCOL, bundled

from course_utils import evaluation
from course_utils.evaluation import allocation, by_window, sensitivity
from course_utils.evaluation.comparison import compare
from course_utils.models import walk
from course_utils.quantization import fake_quantize, hqq
from course_utils.theory import noise

BITS, SWAPS = (2, 3, 4), 60


GRIDS = {
    "hqq": lambda w, bits: hqq.quantize_layer(w, bits=bits, fit_scale=True).weight,
    "min-max": lambda w, bits: fake_quantize(w, bits=bits, group_size=64),
}

def main() -> None:
    model, tokenizer, divergences = bundled()
    layers = {name: walk.weight_of(m).float() for name, m in walk.compressible(model).items()}
    weights = {name: w.numel() for name, w in layers.items()}
    total = sum(weights.values())
    size = {name: {b: n * b for b in BITS} for name, n in weights.items()}

    @functools.cache
    def text(seed: int):
        return evaluation.calibration(tokenizer, "bundled", n=32, context=128, seed=200 + seed)

    rounded = {(g, n, b): make(w, b) for g, make in GRIDS.items() for n, w in layers.items() for b in BITS}
    by_sum = {float(w.sum()): n for n, w in layers.items()}
    assert len(by_sum) == len(layers)

    @functools.cache
    def damages(seed: int, grid: str = "hqq"):
        options = {b: lambda w, b=b: rounded[grid, by_sum[float(w.sum())], b] for b in BITS}
        found = allocation.measured_damages(model, text(seed), options, progress=False)
        print("damages", grid, seed, flush=True)
        return found

    @functools.cache
    def weight_errors():
        return {n: {b: float((rounded["hqq", n, b] - w).square().sum()) for b in BITS} for n, w in layers.items()}

    @functools.cache
    def from_noise(seed: int):
        alpha = sensitivity.noise_sensitivities(model, text(seed))
        return {n: {b: alpha[n] * noise.relative_error(w, rounded["hqq", n, b]) for b in BITS} for n, w in layers.items()}

    def model_of(chosen, grid="hqq"):
        """The weights that the packed model computes with, without packing it."""
        made = copy.deepcopy(model)
        for name, module in walk.compressible(made).items():
            walk.weight_of(module).copy_(rounded[grid, name, chosen[name]])
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

    def swapped(seed, mean_bits, grid="hqq"):
        """From the optimum by added damages: random swaps of bits between layers that fit and lower the true KL on the same text."""
        chosen, ids, rng = best(damages(seed, grid), mean_bits), text(seed), torch.Generator().manual_seed(seed)
        goal = by_window.predictions(model, ids)
        least, names, tried = float(by_window.kl_by_window(goal, model_of(chosen, grid), ids).mean()), list(layers), 0
        start = least
        while tried < SWAPS:
            up, down = (names[i] for i in torch.randint(len(names), (2,), generator=rng).tolist())
            other = {**chosen, up: chosen[up] + 1, down: chosen[down] - 1}
            fits = sum(size[n].get(b, torch.inf) for n, b in other.items()) <= mean_bits * total
            if up == down or not fits:
                continue
            tried += 1
            if (found := float(by_window.kl_by_window(goal, model_of(other, grid), ids).mean())) < least:
                chosen, least = other, found
        print(f"swaps, {grid}, set {seed}: {start:.6f} → {least:.6f}", flush=True)
        return chosen

    ways = {
        "uniform 2": lambda s: dict.fromkeys(layers, 2), "uniform 3": lambda s: dict.fromkeys(layers, 3),
        "KL, 2.25": lambda s: best(damages(s), 2.25), "KL, 2.5": lambda s: best(damages(s), 2.5), "KL, 3": lambda s: best(damages(s), 3),
        "weight error, 2.25": lambda s: best(weight_errors(), 2.25), "weight error, 2.5": lambda s: best(weight_errors(), 2.5),
        "weight error, 3": lambda s: best(weight_errors(), 3),
        "noise, 2.25": lambda s: best(from_noise(s), 2.25), "noise, 2.5": lambda s: best(from_noise(s), 2.5), "noise, 3": lambda s: best(from_noise(s), 3),
        "random, 2.25": lambda s: random_choice(s, 2.25), "random, 2.5": lambda s: random_choice(s, 2.5),
        "KL and swaps, 2.5": lambda s: swapped(s, 2.5),
    }  # fmt: skip
    bits, predicted = {}, {}

    def row(label, choose, grid="hqq"):
        def run(seed):
            chosen = choose(seed)
            beside = (lambda b: 0.5) if grid == "hqq" else lambda b: 0.25 + b / 64
            bits[label] = f"{sum(weights[n] * (b + beside(b)) for n, b in chosen.items()) / total:.3f}"
            guess = sum(damages(seed, grid)[n][b] for n, b in chosen.items())
            predicted.setdefault(label, []).append(guess)
            found = divergences(model_of(chosen, grid))
            print(f"{label}, set {seed}: {bits[label]} bits, {float(found.mean()):.6f} (added damages {guess:.6f})", flush=True)
            return found

        return run

    def finish(title, rows, against, name, protocol):
        table = compare(title, rows, against=against, unit="nats", protocol=f"{PROTOCOL}; {protocol}")
        table.columns["bits a weight"] = {k: bits[k] for k in rows}
        table.columns["added damages"] = {k: f"{sum(predicted[k]) / len(predicted[k]):.2g}" for k in rows}
        print(table)
        table.save(name, command="python benchmarks/mixed_precision.py")

    one = best(damages(0), 2.5)  # written weights are those of the packed model
    packed = hqq.quantize(model, bits=2, fit_scale=True, per_layer=allocation.as_per_layer(one)).model
    assert torch.allclose(divergences(packed), divergences(model_of(one)), atol=1e-6)
    finish(
        "Bits for each layer, HQQ in groups of 64", {k: row(k, f) for k, f in ways.items()}, "uniform 3", "mixed-layers",
        "sensitivities from 32 windows of 128 training tokens, 3 sets; bits with 0.5 for scales and zero points",
    )  # fmt: skip
    grids = {
        "min-max, uniform 2": row("min-max, uniform 2", ways["uniform 2"], "min-max"),
        "min-max, KL, 2.5": row("min-max, KL, 2.5", lambda s: best(damages(s, "min-max"), 2.5), "min-max"),
        "min-max, KL and swaps, 2.5": row("min-max, KL and swaps, 2.5", lambda s: swapped(s, 2.5, "min-max"), "min-max"),
        "HQQ, uniform 2": row("HQQ, uniform 2", ways["uniform 2"]), "HQQ, KL, 2.5": row("HQQ, KL, 2.5", ways["KL, 2.5"]),
    }
    finish("Do damages add?", grids, "HQQ, KL, 2.5", "mixed-grids", "as in mixed-layers; min-max grids have codes for zero points")


if __name__ == "__main__":
    main()
