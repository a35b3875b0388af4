"""Magnitude pruning: the smallest weights go (Han et al., 2015)."""

from torch import nn

from course_utils.models import experts, walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization.compressed import Compressed

from . import apply, scores


def prune(
    model: nn.Module, sparsity: float = 0.5, *, pattern: str | None = None, ignore: Patterns = (), per_layer: PerLayer | None = None
) -> Compressed:
    """Remove the weights with the smallest |θ|, with no data and no training.

    `pattern`: 'per_layer' (each layer loses the same fraction; the default), 'per_row', 'global' (one ranking over
    all layers), 'N:M', 'RxC', 'rows', 'columns'. Embeddings, norms and the output head stay. Works on a copy.
    Layers in whose names a regular expression of `ignore` is found stay dense; `per_layer` as in
    `apply.prune`.
    Raises CompressionError for NaN weights, or a bad sparsity or pattern.
    """
    walk.check_model(model)
    model = experts.listed(model)
    found = {name: scores.magnitude(walk.weight_of(module)) for name, module in walk.compressible(model).items()}
    return apply.prune(model, found, sparsity, pattern=pattern, method="magnitude", ignore=ignore, per_layer=per_layer)
