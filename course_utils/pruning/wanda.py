"""Wanda (Sun et al., 2024): prune by |W_ij| · ‖X_j‖₂, compared within each output row, without any
update.

A small weight on a loud input can matter more than a large one on a quiet input. Rows are ranked
separately, since each row makes its own output: ranked over the whole layer, rows of small weights
would lose everything.
"""

import time

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.models import experts, parallel, selection, sharing, walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization.compressed import Compressed
from course_utils.quantization.grids import check_matrix

from . import apply, masks, scores
from .anatomy import check_model


def input_norms(block: nn.Module, states: walk.States) -> dict[nn.Module, Tensor]:
    """‖X_j‖₂ of every input of every linear layer of a block, over all the tokens of the states:
    (in,).
    """
    squares: dict[nn.Module, Tensor] = {}
    counts: dict[nn.Module, int] = {}

    def see(module: nn.Module, x: Tensor) -> None:
        squares[module] = squares.get(module, 0) + x.square().sum(0, dtype=torch.float64)
        counts[module] = counts.get(module, 0) + len(x)

    walk.watch_inputs(block, states, see)
    parallel.add_up(
        squares, counts, list(walk.linears(block).values()), dimensions=1, dtype=torch.float64
    )
    return {module: total.sqrt().float() for module, total in squares.items()}


def mask_layer(
    weight: Tensor, input_norm: Tensor, *, sparsity: float = 0.5, pattern: str | None = None
) -> Tensor:
    """The mask of one weight (out, in) for the norms of its inputs (in,).

    `pattern` as in `masks.make`, by default 'per_row'.

    Raises CompressionError for NaN, shapes that do not match, a bad sparsity or pattern.
    """
    score = scores.wanda(check_matrix(weight), input_norm)
    return masks.make(score, sparsity, pattern or "per_row")


def mask_layer_spec(weight: Tensor, input_norm: Tensor, *, sparsity: float = 0.5) -> Tensor:
    """The same by plain loops: in each row, strike out the smallest score that is left, again and
    again.
    """
    mask = torch.ones_like(weight, dtype=torch.bool)
    for i in range(weight.shape[0]):
        for _ in range(masks.removed(weight.shape[1], sparsity)):
            left = [
                (float(weight[i, j].abs() * input_norm[j]), -j)
                for j in range(weight.shape[1])
                if mask[i, j]
            ]
            mask[i, -min(left)[1]] = False
    return mask


@torch.no_grad()
def prune(
    model: PreTrainedModel, calibration: Tensor, sparsity: float = 0.5, *,
    pattern: str | None = None, ignore: Patterns = (), per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Wanda for every linear layer in the blocks of a causal language model.

    `calibration` holds token ids (sequences, context). `pattern`: None for a fraction of each row,
    'N:M', or any other of `masks.make`. Blocks are done in order; each sees inputs that went
    through the pruned ones. Works on a copy.
    Layers in whose names a regular expression of `ignore` is found stay dense; `per_layer` gives
    some their own `sparsity` or `pattern` (as in `apply.prune`). Those that no calibration token
    reaches (experts) are pruned by magnitude, and named in `details["unreached"]`.
    Raises CompressionError for empty calibration data, NaN, or a bad sparsity or pattern.
    """
    began = time.perf_counter()
    check_model(model, by_block=True)
    calibration = walk.check_calibration(calibration, model)
    original, model = model, sharing.structure(model).eval()
    names = {id(module): name for name, module in walk.compressible(model).items()}
    chosen = selection.choose(model, {"sparsity": sparsity, "pattern": pattern}, ignore, per_layer)

    def one_block(block: nn.Module, states: walk.States) -> walk.Facts:
        norms = input_norms(block, states)
        layers = {names[id(module)]: module for module in walk.linears(block).values()}
        reached = {name for name, module in layers.items() if module in norms}
        for name, module in layers.items():
            if name in chosen.own:
                weight = walk.weight_of(module)
                norm = norms.get(module, weight.new_ones(weight.shape[1]))
                mask = mask_layer(weight, norm, **chosen.own[name])
                apply.zero_outside(module, mask)
        return {
            name: {**told, "reached": name in reached}
            for name, told in apply.facts_of(layers, chosen.own).items()
        }

    facts = walk.each_block(model, one_block, "Wanda", calibration)
    total, share = apply.sparsity_from(facts)
    settings = {
        "method": "wanda", "sparsity": total, "pattern": pattern or "per_row",
        "calibration": list(calibration.shape),
        **chosen.told,
    }  # fmt: skip
    details = {
        "sparsity": share,
        "unreached": [name for name in share if not facts[name]["reached"]],
    }
    return Compressed(
        sharing.own(experts.fuse(model), original), settings, time.perf_counter() - began, details
    )
