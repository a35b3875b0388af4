"""Magnitude pruning: the smallest weights go (Han et al., 2015)."""

import time

from torch import nn

from course_utils.errors import CompressionError
from course_utils.models import experts, selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization.compressed import Compressed

from . import apply, masks, scores


def prune(
    model: nn.Module,
    sparsity: float = 0.5,
    *,
    pattern: str | None = None,
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:
    """Remove the weights with the smallest |θ|, with no data and no training.

    `pattern`: 'per_layer' (each layer loses the same fraction; the default), 'per_row', 'global'
    (one ranking over all layers), 'N:M', 'RxC', 'rows', 'columns'. Embeddings, norms and the output
    head stay. Works on a copy.
    Layers in whose names a regular expression of `ignore` is found stay dense; `per_layer` as in
    `apply.prune`.
    Raises CompressionError for NaN weights, or a bad sparsity or pattern.
    """
    walk.check_model(model, by_block=True)
    if pattern == "global":
        if walk.source_of(model) is not None:
            raise CompressionError(
                "pattern='global': one ranking needs all weights at once; "
                "load the whole model, or choose another pattern."
            )
        found = {
            name: scores.magnitude(walk.weight_of(module))
            for name, module in walk.compressible(experts.listed(model)).items()
        }
        return apply.prune(
            model,
            found,
            sparsity,
            pattern=pattern,
            method="magnitude",
            ignore=ignore,
            per_layer=per_layer,
        )
    began = time.perf_counter()
    original, model = model, sharing.structure(model)
    names = {id(module): name for name, module in walk.compressible(model).items()}
    chosen = selection.choose(model, {"sparsity": sparsity, "pattern": pattern}, ignore, per_layer)

    def one_block(block: nn.Module, _states: None) -> walk.Facts:
        layers = {names[id(module)]: module for module in walk.linears(block).values()}
        for name, module in layers.items():
            if name in chosen.own:
                score = scores.magnitude(walk.weight_of(module))
                apply.zero_outside(module, masks.make(score, **chosen.own[name]))
        return apply.facts_of(layers, chosen.own)

    total, share = apply.sparsity_from(walk.each_block(model, one_block, "magnitude"))
    settings = {
        "method": "magnitude",
        "sparsity": total,
        "pattern": pattern or "per_layer",
        **chosen.told,
    }
    return Compressed(
        sharing.own(experts.fuse(model), original),
        settings,
        time.perf_counter() - began,
        {"sparsity": share},
    )
