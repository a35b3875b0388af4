"""Scale the inputs of some layers, and undo it in whatever comes before them: the function stays the same.

    W x = (W diag(s)) (diag(s)⁻¹ x),    and  diag(s)⁻¹ x  comes out of the source whose outputs are divided by s.

Sources are norms (their gain and shift are divided) and linear layers with nothing but positively homogeneous
operations between them and their targets (their rows are divided): v → o, up → down, and fc1 → fc2 with ReLU.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError
from course_utils.models import walk

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
LLAMA = (
    ("input_layernorm", ATTENTION),
    ("self_attn.v_proj", ("self_attn.o_proj",)),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.up_proj", ("mlp.down_proj",)),
)
OPT = (
    ("self_attn_layer_norm", ATTENTION),
    ("self_attn.v_proj", ("self_attn.out_proj",)),
    ("final_layer_norm", ("fc1",)),
    ("fc1", ("fc2",)),
)
GPT2 = (("ln_1", ("attn.c_attn",)), ("attn.c_attn", ("attn.c_proj",)), ("ln_2", ("mlp.c_fc",)))
KNOWN = {"llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "opt": OPT, "gpt2": GPT2}


@dataclass(frozen=True)
class Fold:
    """`source` gives `targets` their input. Output channels `first` … of the source are the ones concerned.

    With grouped-query attention each value channel is read by `repeat` heads: `copies` (inputs of the targets,) names
    the source channel behind each input.
    """

    name: str
    source: nn.Module
    targets: tuple[nn.Module, ...]
    target_names: tuple[str, ...]
    copies: Tensor
    first: int = 0
    is_norm: bool = False

    @property
    def channels(self) -> int:
        return int(self.copies.max()) + 1

    def gather(self, statistic: Tensor) -> Tensor:
        """A statistic of the targets' inputs (in,), as its mean for each source channel (channels,)."""
        total = torch.zeros(self.channels, dtype=statistic.dtype).index_add_(0, self.copies, statistic.cpu())
        return total / torch.bincount(self.copies)

    def spread(self, scale: Tensor) -> Tensor:
        """Scales of the source channels (channels,) for each input of the targets (in,)."""
        return scale[self.copies]


def folds(model: PreTrainedModel) -> list[list[Fold]]:
    """What can be folded, block by block. Raises CompressionError for an architecture that is not known."""
    kind = model.config.model_type
    if kind not in KNOWN or not getattr(model.config, "do_layer_norm_before", True):
        raise CompressionError(
            f"model: how to scale the inputs of a {kind!r} block is not known; supported are "
            f"{', '.join(KNOWN)} (OPT with its norms before the layers)."
        )
    relu = getattr(model.config, "activation_function", "relu") == "relu"
    table = [row for row in KNOWN[kind] if relu or row[0] != "fc1"]
    return [[_fold(model, block, source, targets) for source, targets in table] for block in walk.blocks(model)]


def _fold(model: PreTrainedModel, block: nn.Module, source: str, targets: tuple[str, ...]) -> Fold:
    modules = tuple(block.get_submodule(t) for t in targets)
    inputs = walk.weight_of(modules[0]).shape[1]
    module, first, copies = block.get_submodule(source), 0, torch.arange(inputs)
    if source == "attn.c_attn":  # query, key and value in one matrix
        first = 2 * inputs
    elif source.endswith("v_proj"):
        heads, width = model.config.num_attention_heads, inputs // model.config.num_attention_heads
        repeat = heads // (walk.weight_of(module).shape[0] // width)
        copies = (torch.arange(heads) // repeat).repeat_interleave(width) * width + torch.arange(width).repeat(heads)
    is_norm = not isinstance(module, nn.Linear | Conv1D)
    return Fold(source, module, modules, targets, copies, first, is_norm)


@torch.no_grad()
def apply(fold: Fold, scale: Tensor) -> None:
    """Divide the source's outputs by `scale` (channels,) and multiply the targets' inputs by it, in place.

    Raises CompressionError unless every scale is positive and finite.
    """
    if scale.shape != (fold.channels,) or not torch.isfinite(scale).all() or not (scale > 0).all():
        raise CompressionError(f"{fold.name}: expected {fold.channels} positive scales.")
    weight, bias = fold.source.weight, getattr(fold.source, "bias", None)
    assert isinstance(weight, Tensor)
    s = scale.to(weight)
    part = slice(fold.first, fold.first + fold.channels)
    if isinstance(fold.source, Conv1D):
        weight[:, part] /= s
    else:
        weight[part] /= s if weight.dim() == 1 else s[:, None]
    if isinstance(bias, Tensor):
        bias[part] /= s
    for target in fold.targets:
        spread = fold.spread(scale).to(target.weight)
        target.weight *= spread[:, None] if isinstance(target, Conv1D) else spread
