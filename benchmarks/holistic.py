"""Lesson 5.8's comparisons on the bundled model, each at equal bytes and equal training tokens.

    # ten minutes on one core; goes on where it was stopped
    python benchmarks/holistic.py [together] [steps] [drafts] [front]

together: pruning a quarter of the MLP channels into 2 bits, in other orders and both at once. All
rows keep 128 of 512 channels and 2 bits in groups of 64; trained rows see 32 steps of 8 × 64 tokens
and minimize KL from the original, all with the same optimizer, at the best of four learning rates
on 16 other windows. Training without a grid is training on a grid of 8 bits. steps: 80 % of the
weights zero at once, in rounds and gradually, 60 steps of 4 × 128 tokens, the best of four rates.
drafts: tokens for each forward of the target, by a draft of k tokens, expected exactly from what
both models say of texts that the target wrote. front: a plain table of configurations.
"""

import json
import sys
import time

import torch
from tables import PROTOCOL, Kept, bundled

from course_utils import evaluation, pipeline, pruning
from course_utils.evaluation import by_window, comparison, memory
from course_utils.evaluation.comparison import compare
from course_utils.models.data import token_windows
from course_utils.quantization import gptq, qat, rtn
from course_utils.systems import latency, speculative

SEEDS, PEAKS, STEPS = (0, 1, 2), (1e-4, 3e-4, 1e-3, 3e-3), 32
kept = Kept("holistic")
net, tokenizer, divergences = bundled()
calibration = evaluation.calibration(tokenizer, n=32, context=128)
others = token_windows(tokenizer, "train", 16, 128, 90_001)
others_goal = by_window.predictions(net, others)


def data(seed: int):
    return evaluation.calibration(tokenizer, n=8 * STEPS, context=64, seed=seed + 1)


def trained(model, seed: int, peak: float, bits: int, steps: int = STEPS, skip: int = 0):
    """Train on the original's probabilities, through a grid of 2 or (nearly none) 8 bits; new text
    behind the first `skip` steps.
    """
    made = qat.quantize(
        model,
        data(seed)[8 * skip :],
        bits=bits,
        steps=steps,
        learning_rate=peak,
        seed=seed,
        teacher=net,
    )
    return pipeline.unpacked(made.model)


def prune(model):
    return pipeline.unpacked(pruning.structured.prune_mlp(model, calibration, keep=0.25).model)


def round_to_two(model):
    """(packed to 2 bits by GPTQ)."""
    return gptq.quantize(model, calibration, bits=2, group_size=64)


def together() -> None:
    cut = prune(net)
    ways = {
        "prune, quantize": lambda seed, peak: round_to_two(cut).model,
        "prune, train, quantize": lambda seed, peak: (
            round_to_two(trained(cut, seed, peak, 8)).model
        ),
        "train in 2 bits, prune, quantize": lambda seed, peak: (
            round_to_two(prune(trained(net, seed, peak, 2))).model
        ),
        "prune, quantize, train, quantize": lambda seed, peak: (
            round_to_two(trained(pipeline.unpacked(round_to_two(cut).model), seed, peak, 8)).model
        ),
        "prune, train half, train in 2 bits": lambda seed, peak: trained(
            trained(cut, seed, peak, 8, STEPS // 2), seed, peak, 2, STEPS // 2, STEPS // 2
        ),
        "prune, train in 2 bits": lambda seed, peak: trained(cut, seed, peak, 2),
    }

    def measured(name: str, seed: int, peak: float) -> dict:
        def make():
            began = time.perf_counter()
            model = ways[name](seed, peak)
            out = {
                "kl": divergences(model).tolist(),
                "others": float(by_window.kl_by_window(others_goal, model, others).mean()),
            }
            print(
                (
                    f"  {name}, seed {seed}, {peak}: {sum(out['kl']) / 64:.4f} "
                    f"({time.perf_counter() - began:.0f} s)"
                ),
                flush=True,
            )
            return out

        return kept.value(f"together, {name}, {seed}, {peak}", make)

    def row(name: str):
        peaks = PEAKS if "train" in name else (0.0,)
        best = min(peaks, key=lambda peak: measured(name, 0, peak)["others"])
        chosen[name] = best
        return lambda seed: torch.tensor(measured(name, seed if best else 0, best)["kl"])

    chosen: dict[str, float] = {}
    rows = {name: row(name) for name in ways}
    size = kept.value("together, bytes", lambda: round_to_two(cut).bytes_on_disk) / 1e6
    table = compare(
        f"A quarter of the channels in 2 bits, {size:.3f} MB: KL from the original", rows,
        seeds=SEEDS, against="prune, train, quantize", unit="nats of KL",
        protocol=f"{PROTOCOL}; {STEPS} steps of 8 × 64 tokens where trained, new text for "
                 "each seed",
                 columns={"learning rate": {name: rate or "" for name, rate in chosen.items()}},
                 progress=False,
    )  # fmt: skip
    print(table, flush=True)
    table.save("holistic-together", command="python benchmarks/holistic.py together")


def steps() -> None:
    ways = {
        "at once": lambda ids, **k: pruning.schedules.one_shot(net, ids, 0.8, update=5, **k),
        "five rounds": lambda ids, **k: pruning.schedules.iterative(net, ids, 0.8, rounds=5, **k),
        "gradually": lambda ids, **k: pruning.schedules.gradual(
            net, ids, 0.8, settle=0.45, update=5, **k
        ),
    }

    def measured(name: str, seed: int, peak: float) -> dict:
        def make():
            began = time.perf_counter()
            ids = token_windows(tokenizer, "train", 240, 128, 5000 + seed)
            model = ways[name](ids, steps=60, batch=4, peak=peak, seed=seed, progress=False).model
            out = {
                "kl": divergences(model).tolist(),
                "others": float(by_window.kl_by_window(others_goal, model, others).mean()),
            }
            print(
                (
                    f"  {name}, seed {seed}, {peak}: {sum(out['kl']) / 64:.4f} "
                    f"({time.perf_counter() - began:.0f} s)"
                ),
                flush=True,
            )
            return out

        return kept.value(f"steps, {name}, {seed}, {peak}", make)

    def row(name: str):
        best = min(PEAKS, key=lambda peak: measured(name, 0, peak)["others"])
        chosen[name] = best
        return lambda seed: torch.tensor(measured(name, seed, best)["kl"])

    chosen: dict[str, float] = {}
    table = compare(
        "80 % of the weights zero, the same training: KL from the original",
        {name: row(name) for name in ways}, seeds=SEEDS, against="at once", unit="nats of KL",
        protocol=f"{PROTOCOL}; magnitude, 60 steps of 4 × 128 tokens, new text for each seed",
        columns={"learning rate": chosen}, progress=False,
    )  # fmt: skip
    print(table, flush=True)
    table.save("holistic-steps", command="python benchmarks/holistic.py steps")


def the_drafts() -> dict:
    keep = pruning.structured.keep_layers
    return {
        "INT4": (rtn.quantize(net, bits=4).model, None),
        "INT2": (rtn.quantize(net, bits=2).model, None),
        "GPTQ, 2 bits": (gptq.quantize(net, calibration, bits=2).model, None),
        "one block skipped": (keep(net, [0, 1, 2, 4]), None),
        "two blocks skipped": (keep(net, [0, 1, 4]), None),
        "Wanda, 70 % zero": (pruning.wanda.prune(net, calibration, 0.7).model, None),
    }


def drafts() -> None:
    models, found = the_drafts(), {}
    for seed in SEEDS:

        def make(seed=seed):
            ids = speculative.sample(
                net,
                token_windows(tokenizer, "validation", 64, 16, 100 + seed),
                new_tokens=112,
                seed=seed,
            )
            target, out = by_window.predictions(net, ids), {}
            for name, (model, _) in models.items():
                alpha, r = (
                    x[:, 15:]
                    for x in speculative.chances(target, by_window.predictions(model, ids), ids)
                )
                tokens = {k: speculative.tokens_per_round(r, k).tolist() for k in (1, 2, 4, 8)}
                # the formula, by the same count
                beside = speculative.tokens_per_round(alpha.mean().expand(1, 200), 8)
                assert (
                    abs(float(beside) - speculative.expected_tokens(float(alpha.mean()), 8)) < 1e-9
                )
                agree = float(
                    (target.argmax(-1) == by_window.predictions(model, ids).argmax(-1))[:, 15:-1]
                    .double()
                    .mean()
                )
                out[name] = {
                    "alpha": alpha.mean(1).tolist(),
                    "greedy": agree,
                    "tokens": tokens,
                    "pairs": float((r[:, :-1] * r[:, 1:]).mean()),
                }
            return out

        found[seed] = kept.value(f"drafts, {seed}", make)
    rows = {}
    for name in models:
        for k in ("1", "4", "8"):
            rows[f"{name}, k = {k}"] = lambda seed, name=name, k=k: torch.tensor(
                _by(found[seed][name]["tokens"], k)
            )
    alphas = {
        name: sum(sum(found[s][name]["alpha"]) for s in SEEDS) / 64 / len(SEEDS) for name in models
    }
    formula = {
        f"{name}, k = {k}": round(speculative.expected_tokens(alphas[name], int(k)), 3)
        for name in models
        for k in "148"
    }
    table = compare(
        "Tokens for each forward of the target", rows, seeds=SEEDS, unit="tokens", better="higher",
        protocol="bundled model at temperature 1; 64 texts of 112 tokens that it wrote itself, "
                 "for each seed; expectation over what is accepted",
        columns={"by the formula": formula}, progress=False,
    )  # fmt: skip
    print(table, flush=True)
    table.save("holistic-drafts", command="python benchmarks/holistic.py drafts")
    rates = compare(
        "α, the mean acceptance",
        {n: (lambda seed, n=n: torch.tensor(found[seed][n]["alpha"])) for n in models}, seeds=SEEDS,
        unit="", better="higher", protocol=table.protocol, progress=False,
        columns={"same greedy token": {
            n: round(sum(found[s][n]["greedy"] for s in SEEDS) / len(SEEDS), 3) for n in models}},
    )  # fmt: skip
    print(rates, flush=True)
    rates.save("holistic-alpha", command="python benchmarks/holistic.py drafts")


def _by(table: dict, k: str) -> list[float]:
    return table[k] if k in table else table[int(k)]


def configurations() -> dict:
    """{name: function that makes it}: shapes, then bits."""
    shapes = {
        "whole": lambda: net,
        "four blocks": lambda: pruning.structured.prune_layers(net, calibration, keep=4).model,
    }
    for percent in (75, 50, 25):
        shapes[f"{percent} % of the channels"] = lambda share=percent / 100: (
            pruning.structured.prune_mlp(net, calibration, keep=share).model
        )
    found = {}
    for name, make in shapes.items():
        found[f"{name}, 16 bits"] = lambda make=make: pipeline.run(
            pipeline.unpacked(make()),
            [("half", {})],
            pipeline.Supplies(net, calibration, calibration),
        )
        for bits in (4, 3, 2):
            found[f"{name}, GPTQ {bits} bits"] = lambda make=make, bits=bits: gptq.quantize(
                pipeline.unpacked(make()), calibration, bits=bits
            )
    for bits in (8, 4, 3, 2):
        found[f"whole, rounded to {bits} bits"] = lambda bits=bits: rtn.quantize(net, bits=bits)
    return found


def front() -> None:
    rows = {}
    for name, make in configurations().items():

        def measured(make=make, name=name):
            made = make()
            kl = divergences(made.model)
            score = evaluation.task_scores(
                made.model, tokenizer, tasks=["facts"], n=300, split="test"
            )["facts"]
            plain = pipeline.unpacked(made.model)
            table = latency.parts(plain)
            embedding = 2 * plain.get_input_embeddings().weight.numel()
            cache = memory.kv_cache(plain.config, context=512, batch=1)
            out = {
                "bytes": made.bytes_on_disk, "embedding": embedding, "cache": cache,
                "kl": float(kl.mean()), "kl_half": comparison.compare("", {"a": kl}, seeds=(0,),
                    progress=False).half_width("a"), "facts": score.accuracy,
                "flops": latency.flops(plain, 1), "parts": [list(p) for p in table],
            }  # fmt: skip
            print(
                (
                    f"  {name}: {out['bytes']:,} bytes, KL {out['kl']:.4f} ± {out['kl_half']:.4f}, "
                    f"facts {out['facts']:.3f}"
                ),
                flush=True,
            )
            return out

        rows[name] = dict(kept.value(f"front, {name}", measured))
    wanted = {tuple(part) for row in rows.values() for part in row["parts"]}
    seconds = kept.value(
        "front, latency",
        lambda: [
            [list(p), s]
            for p, s in latency.measure(sorted(wanted), batch=1, context=64)[0].seconds.items()
        ],
    )
    table = latency.LatencyTable({(p[0], p[1], p[2]): s for p, s in seconds}, 1, 64)
    for row in rows.values():
        row["milliseconds"] = round(1000 * table.total([tuple(p) for p in row.pop("parts")]), 3)
    held: dict = {
        "command": "python benchmarks/holistic.py front", "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
        "protocol": f"{PROTOCOL}; 300 test questions; milliseconds: one thread, 64 tokens, "
                    "dense products in FP32, the parts of a latency table added",
    }  # fmt: skip
    (comparison.TABLES / "plain" / "holistic-front.json").write_text(
        json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    parts = {"drafts": drafts, "front": front, "together": together, "steps": steps}
    for part in [a for a in sys.argv[1:] if a in parts] or parts:
        parts[part]()
