"""The key-value cache in few bits: which numbers share a scale, before or after the rotary
embedding, rotated; which tokens stay.

    python benchmarks/kv_cache.py            # the bundled model, five minutes on one core
    python benchmarks/kv_cache.py smollm2    # SmolLM2-135M-Instruct, three minutes (its weights
                                             # were rounded to Q4_1 before)

Windows are read 32 tokens at a time; older tokens are packed in groups of 32, none is kept exact
unless a row says so. KL is from the same model with an ordinary cache. Writes
learn/tables/cache-{2,3,4}-bit.json, cache-tokens.json, cache-length.json and
cache-tokens-real.json.
TurboQuant draws three rotations.
"""

import sys

import torch
from tables import bundled

from course_utils import evaluation, models
from course_utils.evaluation.comparison import compare
from course_utils.quantization import kv_cache

COMMAND = "python benchmarks/kv_cache.py"
PLAIN = {"chunk": 32, "group": 32, "window": 0}
WAYS = {
    "one scale for each token": {"key_axis": "token", "value_axis": "token"},
    "keys by channel (KIVI)": {},
    "keys by channel, before RoPE": {"before_rope": True},
    "values by channel too": {"value_axis": "channel"},
    "TurboQuant": {"method": "turboquant"},
    "TurboQuant, unbiased keys": {"method": "turboquant-unbiased"},
}
TOKENS = {
    "nothing kept": {},
    "first 4 kept": {"first": 4},
    "first 32 kept": {"first": 32},
    "newest 32 kept": {"window": 32},
}


def tokens(model, ids, original, title, name, protocol, command):
    """2 bits, some tokens kept exact; only tokens behind the 64th count, for which every way has
    packed something.
    """
    bits = {}

    def row(label, settings):
        found, bits[label] = kv_cache.divergences(
            model, ids, original=original, bits=2, **{**PLAIN, **settings}
        )
        print(name, label, float(found[:, 64:].mean()), flush=True)
        return found[:, 64:].mean(1)

    table = compare(
        title,
        {k: row(k, v) for k, v in TOKENS.items()},
        against="nothing kept",
        unit="nats",
        protocol=protocol,
    )
    print(table.save(name, command=command), table, sep="\n")


def main() -> None:
    model, tokenizer, _ = bundled()
    ids = evaluation.text.windows(
        tokenizer, "bundled", split="validation", n=64, context=256, seed=0
    ).ids
    original = evaluation.predictions(model, ids)
    about = (
        "bundled model; 64 windows of 256 validation tokens, read 32 at a time; "
        "older tokens packed in groups of 32"
    )
    for bits in (2, 3, 4):
        took = {}

        def measured(label, settings, bits=bits, took=took):
            found, used = kv_cache.divergences(
                model, ids, original=original, bits=bits, **PLAIN, **settings
            )
            took[label] = f"{used:.2f}"
            print(bits, label, took[label], float(found.mean()), flush=True)
            return found.mean(1)

        def row(label, settings):
            if "method" in settings:
                return lambda seed: measured(label, {**settings, "seed": seed})
            return measured(label, settings)

        rows = {label: row(label, settings) for label, settings in WAYS.items()}
        table = compare(
            f"{bits}-bit cache: KL from the full cache",
            rows,
            against="keys by channel (KIVI)",
            unit="nats",
            protocol=about,
        )
        table.columns["bits a number"] = took
        print(table.save(f"cache-{bits}-bit", command=COMMAND), table, sep="\n")
    tokens(
        model,
        ids,
        original,
        "2-bit cache of the bundled model, some tokens exact",
        "cache-tokens",
        f"{about}; from the 65th token on",
        COMMAND,
    )
    long = evaluation.text.windows(
        tokenizer, "bundled", split="validation", n=64, context=512, seed=0
    ).ids
    found, _ = kv_cache.divergences(model, long, bits=2, **PLAIN)
    parts = {f"tokens {a} to {a + 63}": found[:, a : a + 64].mean(1) for a in range(64, 512, 64)}
    table = compare(
        "2-bit cache (KIVI) against context length",
        parts,
        against="tokens 64 to 127",
        unit="nats",
        protocol=about.replace("of 256", "of 512"),
    )
    print(table.save("cache-length", command=COMMAND), table, sep="\n")


def real() -> None:
    torch.set_num_threads(1)
    model, tokenizer = models.load("smollm2")
    ids = evaluation.text.windows(
        tokenizer, "pydoc", split="all", n=64, context=128, seed=0, scattered=True
    ).ids
    original = evaluation.predictions(model, ids)
    about = (
        "SmolLM2-135M-Instruct, weights rounded to Q4_1 before; 64 windows of 128 tokens of pydoc, "
        "from the 65th token on"
    )
    tokens(
        model,
        ids,
        original,
        "2-bit cache of SmolLM2, some tokens exact",
        "cache-tokens-real",
        about,
        f"{COMMAND} smollm2",
    )


if __name__ == "__main__":
    real() if "smollm2" in sys.argv else main()
