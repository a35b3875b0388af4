"""Which score?

Half of the weights of the bundled model go, by each score, with few and with many calibration
sequences.

    python benchmarks/pruning_scores.py      # a quarter of an hour on one core

Every score that looks at data sees the same 8 or 96 sequences of 256 tokens; three calibration
sets. Ranked within each layer and within each row. Then three patterns of masks by magnitude, Wanda
and SparseGPT. Writes learn/tables/pruning_scores.json and learn/tables/pruning_patterns.json.
"""

from tables import PROTOCOL, bundled

from course_utils import evaluation
from course_utils.evaluation.comparison import compare
from course_utils.pruning import apply, magnitude, sparsegpt, statistics, wanda

COMMAND = "python benchmarks/pruning_scores.py"
PLACES = {"layer": "per_layer", "row": "per_row"}


def main() -> None:
    model, tokenizer, divergences = bundled()

    def text(seed: int, n: int):
        return evaluation.calibration(tokenizer, "bundled", n=n, context=256, seed=100 + seed)

    def of_loss(kind, n, place):
        def row(seed):
            if (kind, n, seed) not in measured:
                measured[kind, n, seed] = statistics.scores_of(model, kind, text(seed, n))
            found = divergences(
                apply.prune(model, measured[kind, n, seed], 0.5, pattern=PLACES[place]).model
            )
            print(
                (
                    f"{kind}, {n} sequences, within each {place}, set {seed}: "
                    f"{float(found.mean()):.5f}"
                ),
                flush=True,
            )
            return found

        return row

    measured: dict[tuple[str, int, int], dict] = {}
    rows = {
        "random": lambda seed: divergences(
            apply.prune(model, statistics.scores_of(model, "random", seed=seed), 0.5).model
        )
    }
    for place, pattern in PLACES.items():
        score = statistics.scores_of(model, "magnitude")
        rows[f"magnitude, {place}"] = divergences(
            apply.prune(model, score, 0.5, pattern=pattern).model
        )
    for n in (8, 96):
        for kind in ("gradient", "fisher"):
            rows |= {f"{kind}, {place}, {n}": of_loss(kind, n, place) for place in PLACES}
        for place, pattern in PLACES.items():
            rows[f"Wanda, {place}, {n}"] = lambda seed, n=n, pattern=pattern: divergences(
                wanda.prune(model, text(seed, n), 0.5, pattern=pattern).model
            )
        rows[f"SparseGPT, {n}"] = lambda seed, n=n: divergences(
            sparsegpt.prune(model, text(seed, n), 0.5).model
        )
    table = compare(
        "Half of the weights gone: KL from the dense model", rows, against="magnitude, layer",
        unit="nats",
        protocol=f"{PROTOCOL}; 3 calibration sets of 8 or 96 sequences of 256 tokens",
    )  # fmt: skip
    print(table)
    table.save("pruning_scores", command=COMMAND)

    patterns = {}
    for label, pattern in {"free": None, "2:4": "2:4", "blocks of 4 × 4": "4x4"}.items():
        patterns[f"magnitude, {label}"] = divergences(
            magnitude.prune(model, 0.5, pattern=pattern).model
        )
        patterns[f"Wanda, {label}"] = lambda seed, p=pattern: divergences(
            wanda.prune(model, text(seed, 8), 0.5, pattern=p).model
        )
        if pattern != "4x4":
            patterns[f"SparseGPT, {label}"] = lambda seed, p=pattern: divergences(
                sparsegpt.prune(model, text(seed, 8), 0.5, pattern=p).model
            )
    table = compare(
        "Half of the weights gone, by pattern: KL from the dense model", patterns,
        against="magnitude, free", unit="nats",
        protocol=f"{PROTOCOL}; 3 calibration sets of 8 sequences of 256 tokens",
    )  # fmt: skip
    print(table)
    table.save("pruning_patterns", command=COMMAND)


if __name__ == "__main__":
    main()
