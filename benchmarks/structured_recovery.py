"""What a short training wins back after structured pruning of the bundled model, with three seeds.

    python benchmarks/structured_recovery.py      # some minutes on one core

Half of the MLP channels, half of the heads, or one of the layers go; then 24 steps of 4 × 64 tokens
with the dense model as teacher (`recovery.train`, peak 1e-4; a seed draws its own texts and their
order). Writes learn/tables/structured_recovery.json.
"""

from tables import PROTOCOL, bundled

from course_utils import evaluation
from course_utils.evaluation.comparison import compare
from course_utils.pruning import recovery, structured

STEPS, BATCH, CONTEXT = 24, 4, 64


def main() -> None:
    model, tokenizer, divergences = bundled()
    calibration = evaluation.calibration(tokenizer, "bundled", n=8)
    layers = model.config.num_hidden_layers
    cut = {
        "half of the MLP channels": structured.prune_mlp(model, calibration, keep=0.5).model,
        "half of the heads": structured.prune_heads(model, calibration, keep=0.5).model,
        f"1 of {layers} layers": structured.prune_layers(model, calibration, keep=layers - 1).model,
    }

    def trained(subject):
        def row(seed: int):
            ids = evaluation.calibration(
                tokenizer, "bundled", n=STEPS * BATCH, context=CONTEXT, seed=100 + seed
            )
            training = {
                "steps": STEPS,
                "batch": BATCH,
                "peak": 1e-4,
                "seed": seed,
                "progress": False,
            }
            return divergences(recovery.train(subject, ids, teacher=model, **training).model)

        return row

    rows = {}
    for name, subject in cut.items():
        rows[name] = divergences(subject)
        rows[f"{name}, then {STEPS} steps"] = trained(subject)
    table = compare(
        "Structured pruning, before and after a short training: KL from the dense model",
        rows,
        unit="nats",
        protocol=f"{PROTOCOL}; {STEPS} steps of {BATCH} × {CONTEXT} tokens",
    )
    print(table)
    table.save("structured_recovery", command="python benchmarks/structured_recovery.py")


if __name__ == "__main__":
    main()
