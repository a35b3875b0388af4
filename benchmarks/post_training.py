"""The comparisons of lessons 3.1 to 3.4 that take minutes; writes the tables that the lessons show.

    python benchmarks/post_training.py [ranges gptq awq int8 narrow pruning few]

All on the bundled model: KL(original ‖ compressed) on 64 validation windows of 256 tokens. Every
row of a seed gets the same calibration sequences, drawn from the training text with that seed.
Groups of 64, asymmetric grids.
"""

import argparse
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils import evaluation
from course_utils.evaluation.comparison import compare
from course_utils.models import load
from course_utils.models.planting import plant_outliers
from course_utils.pruning import apply, magnitude, sparsegpt, statistics, wanda
from course_utils.quantization import awq, gptq, llm_int8, rtn, smoothquant, w8a8

COMMAND = "python benchmarks/post_training.py {}"
net, tokenizer = load("bundled")
windows = evaluation.text.windows(
    tokenizer, "bundled", split="validation", n=64, context=256, seed=0
).ids
exact = evaluation.predictions(net, windows)
BEST = "GPTQ, damping 0.001, act-order, static groups"
RULES = {"min-max": "min_max", "percentile": "percentile", "MSE": "mse", "KL": "entropy"}
VARIANTS = {
    "GPTQ, damping 0.001": {"damping": 0.001}, "GPTQ, damping 0.1": {"damping": 0.1},
    "GPTQ, static groups": {"static_groups": True}, "GPTQ, act-order": {"act_order": True},
    "GPTQ, act-order, static groups": {"act_order": True, "static_groups": True},
}  # fmt: skip


@functools.cache
def texts(seed: int, n: int) -> Tensor:
    return evaluation.calibration(tokenizer, "bundled", n=n, context=256, seed=seed)


def table(
    name: str,
    part: str,
    title: str,
    rows: dict[str, Callable],
    n: int,
    seeds,
    against: str,
    alike=(),
) -> None:
    """Compare `rows`, functions of calibration ids; those of `alike` do not depend on them and are
    made once.
    """

    @functools.cache
    def kl(label: str, seed: int) -> Tensor:
        return evaluation.kl_by_window(
            exact, rows[label](seed if label in alike else texts(seed, n)), windows
        )

    measured = {
        label: (lambda seed, label=label: kl(label, 0 if label in alike else seed))
        for label in rows
    }
    protocol = (
        f"bundled model; {n} calibration sequences of 256 tokens, {len(seeds)} sets; "
        "KL on 64 validation windows"
    )
    found = compare(
        title, measured, seeds=seeds, against=against, unit="nats of KL", protocol=protocol
    )
    found.save(name, command=COMMAND.format(part))
    print(found, flush=True)


def ranges(bits=(8, 6, 4)) -> None:
    for b in bits:
        rows = {
            label: lambda ids, rule=rule, b=b: w8a8.quantize(
                net, ids, observer=rule, activations="per_tensor", activation_bits=b
            )
            for label, rule in RULES.items()
        }
        title = f"Static ranges for activations of {b} bits, weights of 8"
        table(f"ranges-{b}-bit", "ranges", title, rows, 4, range(3), "min-max")


def gptq_(bits=(8, 4, 3, 2)) -> None:
    for b in bits:
        settings = {"bits": b, "group_size": 64}
        rows = {"rounding": lambda _, settings=settings: rtn.quantize(net, **settings)}
        for label, more in {"GPTQ": {}, **(VARIANTS if b in (4, 2) else {})}.items():
            rows[label] = lambda ids, more=more, settings=settings: gptq.quantize(
                net, ids, **settings, **more
            )
        table(
            f"gptq-{b}-bit",
            "gptq",
            f"{b} bits, groups of 64",
            rows,
            16,
            range(4),
            "rounding",
            ("rounding",),
        )


def models() -> dict:
    return {"outliers": plant_outliers(net), "as-trained": net}


def awq_() -> None:
    three = {"bits": 3, "group_size": 64}
    ways = {
        "AWQ, clipping only": {"scale": False}, "AWQ, scaling only": {"clip": False}, "AWQ": {},
        "GPTQ": {}, **{name: VARIANTS[name] for name in ("GPTQ, damping 0.001",
            "GPTQ, act-order, static groups")},
        BEST: {"damping": 0.001, "act_order": True, "static_groups": True},
    }  # fmt: skip
    left_out = {"as-trained": ("GPTQ, damping 0.001", BEST), "outliers": ("AWQ, clipping only",)}
    for name, model in models().items():
        rows = {"rounding": lambda _, m=model: rtn.quantize(m, **three)}
        for label, more in ways.items():
            method = (awq if label.startswith("AWQ") else gptq).quantize
            if label not in left_out[name]:
                rows[label] = lambda ids, m=model, f=method, more=more: f(m, ids, **three, **more)
        title = (
            "3 bits, groups of 64; "
            f"model {name.replace('outliers', 'with planted outliers').replace('-', ' ')}"
        )
        table(f"awq-{name}", "awq", title, rows, 8, range(3), "rounding", ("rounding",))


def int8() -> None:
    for name, model in models().items():
        rows = {
            "W8A8, a scale for each tensor": lambda _, m=model: w8a8.quantize(
                m, activations="per_tensor"
            ),
            "W8A8, a scale for each token": lambda _, m=model: w8a8.quantize(
                m, activations="per_token"
            ),
            "SmoothQuant, a scale for each tensor": lambda ids, m=model: smoothquant.quantize(
                m, ids
            ),
            "SmoothQuant, static scales": lambda ids, m=model: smoothquant.quantize(
                m, ids, observer="min_max"
            ),
            "LLM.int8()": lambda _, m=model: llm_int8.quantize(m),
        }
        title = (
            "Weights and activations in INT8; "
            f"model {name.replace('outliers', 'with planted outliers').replace('-', ' ')}"
        )
        table(
            f"int8-{name}",
            "int8",
            title,
            rows,
            8,
            range(3),
            next(iter(rows)),
            [r for r in rows if "Smooth" not in r],
        )


def narrow() -> None:
    planted, three = plant_outliers(net), {"bits": 3, "group_size": 64}
    methods = {
        "AWQ": lambda ids: awq.quantize(planted, ids, **three),
        "GPTQ, damping 0.001": lambda ids: gptq.quantize(planted, ids, **three, damping=0.001),
    }

    def one_token(ids: Tensor) -> Tensor:
        """As many tokens, all the same: a digit that the set's first sequence chooses."""
        digit = str(int(ids[0].sum()) % 10)
        return torch.full_like(ids, tokenizer(digit, add_special_tokens=False)["input_ids"][-1])

    rows = {f"{label}: text": method for label, method in methods.items()}
    rows |= {
        f"{label}: one token": lambda ids, m=m: m(one_token(ids)) for label, m in methods.items()
    }
    title = "Calibrated on text, or on one token again and again; model with planted outliers"
    table("narrow-calibration", "narrow", title, rows, 8, range(3), "AWQ: text")


def pruning() -> None:
    @functools.cache
    def score(kind: str, seed: int) -> dict:
        return statistics.scores_of(net, kind, texts(seed, 64))

    def seed_of(ids: Tensor) -> int:
        return next(seed for seed in range(3) if texts(seed, 64) is ids)

    for name, patterns in {"rows": ("per_row", "per_layer"), "two-four": ("2:4",)}.items():
        rows = {}
        for p in patterns:
            of = {"per_row": ", within rows", "per_layer": ", within layers"}.get(p, "")
            rows[f"magnitude{of}"] = lambda _, p=p: magnitude.prune(net, 0.5, pattern=p)
            for kind in ("gradient", "fisher"):
                rows[f"{kind.capitalize()}{of}"] = lambda ids, p=p, kind=kind: apply.prune(
                    net, score(kind, seed_of(ids)), 0.5, pattern=p
                )
            rows[f"Wanda{of}"] = lambda ids, p=p: wanda.prune(net, ids, 0.5, pattern=p)
            if p != "per_layer":
                rows[f"SparseGPT{of}"] = lambda ids, p=p: sparsegpt.prune(net, ids, 0.5, pattern=p)
        first = next(iter(rows))
        title = "Half of the weights go" if name == "rows" else "2:4, half of every four neighbours"
        alike = [r for r in rows if r.startswith("magnitude")]
        table(f"pruning-{name}", "pruning", title, rows, 64, range(3), first, alike)


def few() -> None:
    rows = {"magnitude": lambda _: magnitude.prune(net, 0.5, pattern="per_row")}
    rows["Fisher"] = lambda ids: apply.prune(
        net, statistics.scores_of(net, "fisher", ids), 0.5, pattern="per_row"
    )
    rows["Wanda"] = lambda ids: wanda.prune(net, ids, 0.5, pattern="per_row")
    table(
        "pruning-few",
        "few",
        "Half of each row goes, 8 sequences",
        rows,
        8,
        range(3),
        "magnitude",
        ("magnitude",),
    )


if __name__ == "__main__":
    parts = {
        "ranges": ranges,
        "gptq": gptq_,
        "awq": awq_,
        "int8": int8,
        "narrow": narrow,
        "pruning": pruning,
        "few": few,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="which tables to make (all)")
    for part in parser.parse_args().parts or parts:
        parts[part]()
