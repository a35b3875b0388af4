"""Wanda (Sun et al., 2024): prune by |W_ij| · ‖X_j‖₂, compared within each output row, without any update.

A small weight on a loud input can matter more than a large one on a quiet input. Rows are ranked separately, since
each row makes its own output: ranked over the whole layer, rows of small weights would lose everything.
"""

import time

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from course_utils.models import experts, selection, walk
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization.compressed import Compressed
from course_utils.quantization.grids import check_matrix

from . import apply, masks, scores
from .anatomy import check_model


def input_norms(block: nn.Module, states: walk.States) -> dict[nn.Module, Tensor]:
    """‖X_j‖₂ of every input of every linear layer of a block, over all the tokens of the states: (in,)."""
    squares: dict[nn.Module, Tensor] = {}

    def see(module, x):
        squares[module] = squares.get(module, 0) + x.square().sum(0, dtype=torch.float64)

    walk.watch_inputs(block, states, see)
    return {module: total.sqrt().float() for module, total in squares.items()}


def mask_layer(weight: Tensor, input_norm: Tensor, *, sparsity: float = 0.5, pattern: str | None = None) -> Tensor:
    """The mask of one weight (out, in) for the norms of its inputs (in,). `pattern` as in `masks.make`, by default 'per_row'.

    Raises CompressionError for NaN, shapes that do not match, a bad sparsity or pattern.
    """
    score = scores.wanda(check_matrix(weight), input_norm)
    return masks.make(score, sparsity, pattern or "per_row")


def mask_layer_spec(weight: Tensor, input_norm: Tensor, *, sparsity: float = 0.5) -> Tensor:
    """The same by plain loops: in each row, strike out the smallest score that is left, again and again."""
    mask = torch.ones_like(weight, dtype=torch.bool)
    for i in range(weight.shape[0]):
        for _ in range(masks.removed(weight.shape[1], sparsity)):
            left = [(float(weight[i, j].abs() * input_norm[j]), -j) for j in range(weight.shape[1]) if mask[i, j]]
            mask[i, -min(left)[1]] = False
    return mask


@torch.no_grad()
def prune(
    model: PreTrainedModel, calibration: Tensor, sparsity: float = 0.5, *, pattern: str | None = None,
    ignore: Patterns = (), per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """Wanda for every linear layer in the blocks of a causal language model.

    `calibration` holds token ids (sequences, context). `pattern`: None for a fraction of each row, 'N:M', or any
    other of `masks.make`. Blocks are done in order; each sees inputs that went through the pruned ones. Works on a copy.
    Layers in whose names a regular expression of `ignore` is found stay dense; `per_layer` gives some their own
    `sparsity` or `pattern` (as in `apply.prune`). Those that no calibration token reaches
    (experts) are pruned by magnitude, and named in `details["unreached"]`.
    Raises CompressionError for empty calibration data, NaN, or a bad sparsity or pattern.
    """
    began = time.perf_counter()
    check_model(model)
    calibration = walk.check_calibration(calibration, model)
    model = experts.copy_listed(model).eval()
    names = {id(module): name for name, module in selection.selected(model, ignore).items()}
    common = {"sparsity": sparsity, "pattern": pattern}
    selection.check_per_layer(per_layer, names.values(), common)
    unreached: list[str] = []
    for block, states in walk.through_blocks(model, calibration, "Wanda"):
        norms = input_norms(block, states)
        for module in walk.linears(block).values():
            if id(module) not in names:
                continue
            weight = walk.weight_of(module)
            unreached += [names[id(module)]] * (module not in norms)
            norm = norms.get(module, weight.new_ones(weight.shape[1]))
            weight.masked_fill_(~mask_layer(weight, norm, **selection.settings_of(names[id(module)], common, per_layer)), 0)
    settings = {
        "method": "wanda", "sparsity": apply.sparsity_of(model), "pattern": pattern or "per_row",
        "calibration": list(calibration.shape), **selection.kept(ignore, per_layer),
    }  # fmt: skip
    share = {name: value for name, value in apply.zeros(model).items() if name in names.values()}
    details = {"sparsity": share, "unreached": unreached}
    return Compressed(experts.fuse(model), settings, time.perf_counter() - began, details)
