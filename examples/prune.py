"""Half of the weights, then half of the MLP's channels: python examples/prune.py [MODEL] [TEXT]

Wanda sets weights to zero: the tensors keep their shape. Structured pruning takes channels out: the
tensors are smaller.
"""

import sys

from course_utils import evaluation, models, pruning
from course_utils.models import walk


def main(source="bundled", text="bundled"):
    model, tokenizer = models.load(source)
    tokens = evaluation.calibration(tokenizer, text, n=32, context=256)
    ids = evaluation.text.windows(tokenizer, text, split="validation", n=8, context=256, seed=0).ids
    made = {
        "Wanda, half of the weights": pruning.wanda.prune(model, tokens, sparsity=0.5),
        "half of the MLP's channels": pruning.structured.prune_mlp(model, tokens, keep=0.5),
    }
    for name, pruned in made.items():
        small = pruned.model
        zeros = sum(
            float((walk.weight_of(m) == 0).sum()) for m in walk.compressible(small).values()
        )
        damage = float(evaluation.kl_by_window(model, small, ids).mean())
        print(
            f"{name}: {small.num_parameters():,} parameters, {zeros:,.0f} of "
            f"them 0, KL {damage:.4f}"
        )
    return made


if __name__ == "__main__":
    main(*sys.argv[1:])
