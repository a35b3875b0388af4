"""Pipelines with their controls on the bundled model: the tables of lessons 2.4 and 2.5, and of lab
3.4.

    python benchmarks/pipelines.py [advice] [budget] [orders] [--seeds 3] [--write]

advice: each rule's advice beside the same without its idea. budget: what fits one small budget,
everything trained alike: 25 steps of 8 × 64 tokens on the original's probabilities and the text, at
the best of three peak learning rates, chosen for each row by 16 other windows. orders: lab 3.4's
steps, with the dropping of blocks apart from the training, all trained at the peak 5e-4, beside
pruning and 2 bits without training. Zeros are counted with a map. Every seed trains on other text;
losses on 64 validation windows of 256 tokens.
"""

import argparse
import functools

import torch

from course_utils import distillation, evaluation, models, pipeline, pruning
from course_utils.evaluation.comparison import compare
from course_utils.models import walk
from course_utils.models.data import mean_loss, token_windows
from course_utils.quantization import Compressed, extreme

STEPS, PEAKS = 25, (2e-4, 1e-3, 3e-3)
net, tokenizer = models.load("bundled")
windows = token_windows(tokenizer, "validation", 64, 256, 0)
others = token_windows(tokenizer, "validation", 16, 256, 1)
calibration = evaluation.calibration(tokenizer, n=32, context=128)
PROTOCOL = (
    f"bundled model, 64 validation windows of 256 tokens; {STEPS} steps of 8 × 64 tokens where "
    "trained, new text for each seed"
)


@functools.cache
def supplies(seed: int) -> pipeline.Supplies:
    data = evaluation.calibration(tokenizer, n=8 * STEPS, context=64, seed=seed + 1)
    return pipeline.Supplies(net, calibration, data, seed=seed)


def loss(thing) -> torch.Tensor:
    return evaluation.nats_by_window(pipeline.unpacked(thing.model), windows)


def made(steps, seed: int = 0, start=net) -> Compressed:
    return pipeline.run(start, steps, supplies(seed))


def with_map(model) -> int:
    """Bytes of the kept weights of the blocks in BF16 with a map of one bit for each, and of all
    else in BF16.
    """
    weights = [walk.weight_of(layer) for layer in walk.compressible(model).values()]
    inside = sum(w.numel() for w in weights)
    outside = sum(p.numel() for p in model.parameters()) - inside
    return inside // 8 + 2 * sum(int((w != 0).sum()) for w in weights) + 2 * outside


def table(title: str, rows: dict, against: str, seeds: int, protocol: str = PROTOCOL, **columns):
    """rows: {name: function of a seed → Compressed}; a row without chance is made once."""
    kept: dict = {}

    def measured(name, make):
        def run(seed):
            result = make(seed)
            kept[name] = with_map(result.model) if "half zero" in name else result.bytes_on_disk
            print(f"  {name}, seed {seed}: {float((found := loss(result)).mean()):.4f}", flush=True)
            return found

        return run if getattr(make, "trained", False) else run(0)

    columns["MB"] = {}
    found = compare(
        title, {name: measured(name, make) for name, make in rows.items()}, seeds=range(seeds),
        against=against, unit="nats per token", protocol=protocol, columns=columns, progress=False,
    )  # fmt: skip
    found.columns["MB"].update({name: round(size / 1e6, 3) for name, size in kept.items()})
    print(found, flush=True)
    return found


def steps(*pipeline_steps, trained: bool = False):
    def make(seed):
        return made(pipeline_steps, seed)

    make.trained = trained
    return make


def tuned(start_steps, after=(), start=None):
    """Cut, train at the best of PEAKS by the other windows (with seed 0),
    then the steps `after`.
    """
    first = start if start is not None else made(start_steps).model

    @functools.cache
    def peak() -> float:
        tried = {
            p: mean_loss(made([("distil", {"steps": STEPS, "peak": p})], 0, first).model, others)
            for p in PEAKS
        }
        print("   ", {p: round(x, 3) for p, x in tried.items()}, flush=True)
        return min(tried, key=tried.__getitem__)

    def make(seed):
        return made([("distil", {"steps": STEPS, "peak": peak()}), *after], seed, first)

    make.trained = True
    return make


def advice(seeds: int):
    distil, four = ("distil", {"steps": STEPS, "peak": 1e-4}), ("quantize", {"bits": 4})
    half = ("channels", {"keep": 0.5})
    zeros = pruning.magnitude.prune(net, 0.5)

    def repaired(seed):
        trained = pruning.recovery.train(
            zeros.model,
            supplies(seed).data,
            steps=STEPS,
            peak=1e-4,
            batch=8,
            seed=seed,
            progress=False,
        )
        return Compressed(pipeline.stored(trained.model), trained.settings, trained.seconds)

    repaired.trained = True
    rows = {
        "original": steps(("half", {})),
        "edge: student + 4 bits": steps(
            ("student", {"keep": 0.5, "steps": STEPS, "peak": 2e-3}), four, trained=True
        ),
        "control: half the channels + GPTQ 3 bits": steps(
            half, ("quantize", {"method": "gptq", "bits": 3})
        ),
        "memory: 4 bits": steps(four),
        "control: 3 bits": steps(("quantize", {"bits": 3})),
        "speed: half the channels, trained, 8 bits": steps(
            half, distil, ("quantize", {"bits": 8}), trained=True
        ),
        "control: the same, not trained": steps(half, ("quantize", {"bits": 8})),
        "cloud: 88 % of the channels, 16 bits": steps(("channels", {"keep": 0.875}), ("half", {})),
        "control: 8 bits": steps(("quantize", {"bits": 8})),
        "quality: GPTQ 4 bits": steps(("quantize", {"method": "gptq", "bits": 4})),
        "quality: AWQ 4 bits": steps(("quantize", {"method": "awq", "bits": 4})),
        "quality: gradual, half zero": steps(
            ("gradual", {"sparsity": 0.5, "steps": STEPS, "peak": 1e-4}), trained=True
        ),
        "control: half zero at once, then trained": repaired,
        "control: half zero at once": lambda seed: Compressed(
            pipeline.stored(zeros.model), {"method": "zeros"}, 0.0
        ),
    }
    return table("Advice and controls", rows, "original", seeds)


def budget(seeds: int):
    last = ("quantize", {"method": "gptq", "bits": 2})
    cut = [("layers", {"keep": 1}), ("channels", {"keep": 0.1})]
    narrow = distillation.students.from_layers(
        net, range(5), hidden=88, mlp=176, heads=4, calibration=calibration
    )
    some = [("channels", {"keep": 0.25})]
    rows = {
        "original": steps(("half", {})),
        "quantization alone: binary": lambda seed: extreme.quantize(net, kind="binary"),
        "pruning alone: a block and 10 % of its channels": steps(*cut),
        "pruning alone, trained": tuned(cut),
        "a narrow student alone, trained": tuned([], start=narrow),
        "a quarter of the channels and 2 bits": steps(*some, last),
        "a quarter of the channels, trained, 2 bits": tuned(some, [last]),
    }
    return table("One budget", rows, "a quarter of the channels, trained, 2 bits", seeds)


def orders(seeds: int):
    train, three, prune = (
        ("distil", {"steps": STEPS, "peak": 5e-4}),
        ("quantize", {"bits": 3}),
        ("channels", {"keep": 0.25}),
    )
    drop, wider = ("layers", {"keep": 3}), ("channels", {"keep": 0.375})
    two = ("quantize", {"method": "gptq", "bits": 2})
    rows = {
        "original": steps(("half", {})),
        "prune": steps(prune),
        "drop two blocks": steps(drop),
        "prune, drop": steps(prune, drop),
        "prune, drop, train": steps(prune, drop, train, trained=True),
        "prune, drop, train, 3 bits": steps(prune, drop, train, three, trained=True),
        "prune, drop, 3 bits": steps(prune, drop, three),
        "prune, 3 bits, drop, train, 3 bits": steps(prune, three, drop, train, three, trained=True),
        "prune, train, 2 bits": steps(prune, train, two, trained=True),
        "prune, 2 bits": steps(prune, two),
        "3/8 of the channels, 2 bits": steps(wider, two),
        "3/8 of the channels, train, 2 bits": steps(wider, train, two, trained=True),
    }
    return table(
        "What each step does", rows, "prune, 2 bits", seeds, PROTOCOL + "; peak learning rate 5e-4"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", default=["advice", "budget", "orders"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    for name in a.tables:
        found = {"advice": advice, "budget": budget, "orders": orders}[name](a.seeds)
        if a.write:
            found.save(
                f"pipelines-{name}", command=f"python benchmarks/pipelines.py {name} --write"
            )
