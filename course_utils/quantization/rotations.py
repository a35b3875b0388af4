"""Rotations: another basis for what flows between the blocks, in which no channel stands out
(QuaRot, Ashkboos et al., 2024).

Blocks read the residual stream x through a norm and add to it. A norm without a gain only divides
by a length, which a rotation Q does not change: norm(Q x) = Q norm(x). So, once each norm's gain is
folded into the layers that read it,

    reader  W ← W diag(g) Qᵀ,     writer  W ← Q W,  b ← Q b,     embedding rows  e ← Q e,
    head  W ← W diag(g) Qᵀ

leaves the function as it is. A tied head must be untied first: embedding and head change
differently. With LayerNorm, which also takes out the mean, Q must leave the vector of ones as it is
(Q 1 = 1); a reflection behind any rotation sees to that, and no norm has to be exchanged for
another kind, as the paper does. Values of attention heads are rotated too (`heads`):

    v  W ← R W per head,     o  W ← W Rᵀ per head,

which the weighted sum over tokens does not see. Inputs behind an activation function can only be
rotated while the model runs:
`hadamard.OnlineHadamard`. Who reads and who writes is found by running the model, and checked: its
logits must stay.
"""

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError
from course_utils.models import experts, readers, walk
from course_utils.models.selection import Patterns, as_list

from . import folding, hadamard
from .layer import KINDS

BASES = ("hadamard", "random")
SAME = 1e-4  # relative change of the logits that rounding may cause in float32


class _Whole(readers.Probe):
    """The whole model instead of one block: norms and their readers, the last norm's reader being
    the head.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.block, self.layers = model, walk.linears(model)
        near, _ = readers.probe_ids(model)
        self.near = [(near.view(2, -1).to(model.device), {})]

    @torch.no_grad()
    def run(self, states: Any) -> list[Tensor]:
        return [_logits(self.block, ids) for ids, _ in states]


@torch.no_grad()
def _logits(model: Any, ids: Tensor | None = None) -> Tensor:
    ids = readers.probe_ids(model)[1] if ids is None else ids
    options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    return model(input_ids=ids.to(model.device), **options)[0].float()


def untie(model: PreTrainedModel) -> None:
    """Give the output head a weight of its own, in place, and say so in the config."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return
    name = next(name for name, module in model.named_modules() if module is head)
    head.weight = nn.Parameter(head.weight.detach().clone(), head.weight.requires_grad)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    model.all_tied_weights_keys = {k: v for k, v in tied.items() if f"{name}.weight" not in (k, v)}


@torch.no_grad()
def rotate(
    model: PreTrainedModel, *, basis: str | Tensor = "hadamard", seed: int = 0, heads: bool = True,
    online: Patterns = ()
) -> Any:  # fmt: skip
    """A copy of a causal language model with a rotated residual stream, which computes the same.

    basis: "hadamard" (random signs, `hadamard.randomized`), "random" (uniform over all rotations),
    or an orthogonal matrix (width, width) of one's own. `heads` rotates values within each head,
    too. `online`: regular expressions; the layers of the blocks in whose names one is found (such
    as "down_proj") get a Hadamard product before them, which costs time at each call.

    Without `online` the result is an ordinary model of its class (with an untied head): every
    method and every file takes it. With `online` it can be quantized and saved by
    `Compressed.save`; files of other tools have no place for the product and are refused.
    Weights are computed in float64 and rounded to the model's precision: load in float32, unless a
    small change does no harm.

    Raises CompressionError for a basis that is not orthogonal, and, naming the model, where a
    rotation would change what it computes (norms behind the layers as in Gemma 2 or OLMo 2, norms
    on the embeddings) or where no values of heads are found.
    """
    _check(model)
    chosen = _basis(basis, _width(model), seed)
    wanted = _logits(model.eval() if not model.training else copy.deepcopy(model).eval())
    made = experts.copy_listed(model).eval()
    untie(made)
    norms = norms_of_stream(made)
    if any(_centred(made, norm) for norm in norms):
        chosen = _keeping_ones(chosen)
    if heads:
        _rotate_heads(made, seed, wanted)
    for norm in norms:
        _fold(made, norm, chosen)
    rotate_writers(made, norms, chosen)
    if not _same(_logits(made), wanted, made.dtype):
        raise _refused(
            made,
            (
                "norms stand behind its layers or on its embeddings, or something else than "
                "a norm reads the stream"
            ),
        )
    if as_list(online):
        hadamard.before(made, online)
    return experts.fuse(made).train(model.training)


def _check(model: PreTrainedModel) -> None:
    if not isinstance(model, PreTrainedModel):
        raise CompressionError(
            "model: expected a causal language model of transformers; "
            "the residual stream of other modules is not known."
        )
    walk.check_loaded(model)
    walk.blocks(model)  # refuses encoders with decoders
    packed = [
        name
        for name, m in model.named_modules()
        if type(m).__name__ in KINDS and not isinstance(m, hadamard.OnlineHadamard)
    ]
    if packed:
        raise CompressionError(
            f"model: {packed[0]} is compressed already; rotate the model first, then compress it."
        )
    walk.check_finite(model)


def _width(model: PreTrainedModel) -> int:
    embeddings: Any = model.get_input_embeddings()
    return embeddings.weight.shape[1]


def _refused(model: PreTrainedModel, why: str) -> CompressionError:
    return CompressionError(
        f"model: a rotated residual stream would change what {type(model).__name__} "
        f"({model.config.model_type}) computes: {why}. Use gptq, awq or hqq on the model as it is."
    )


def _same(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    near = SAME if dtype in (torch.float32, torch.float64) else 0.05
    return found.shape == wanted.shape and bool((found - wanted).norm() <= near * wanted.norm())


def _basis(basis: str | Tensor, width: int, seed: int) -> Tensor:
    if isinstance(basis, Tensor):
        found = basis.detach().double().cpu()
        if (
            found.shape != (width, width)
            or not (found @ found.T - torch.eye(width)).abs().max() < 1e-4
        ):
            raise CompressionError(
                f"basis: an orthogonal matrix ({width}, {width}) is needed, Q Qᵀ = I; "
                "take Q of torch.linalg.qr(basis)."
            )
        return found
    if basis not in BASES:
        raise CompressionError(
            f"basis={basis!r}: choose one of {', '.join(BASES)}, or give an orthogonal matrix."
        )
    return hadamard.randomized(width, seed) if basis == "hadamard" else hadamard.random(width, seed)


def _keeping_ones(Q: Tensor) -> Tensor:
    """V Q with the reflection V that takes Q u back to u = 1/√n: it leaves the mean of a vector as
    it is.
    """
    u = torch.full((len(Q),), len(Q) ** -0.5, dtype=Q.dtype)
    v = Q @ u - u
    return Q if v.norm() < 1e-9 else Q - 2 * torch.outer(v, v @ Q) / (v @ v)


def norms_of_stream(model: PreTrainedModel) -> list[readers.Norm]:
    """The norms of the residual stream, with their readers.

    Raises CompressionError where the head reads none of them.
    """
    width = _width(model)
    found = [n for n in _Whole(model).norms() if len(model.get_submodule(n.name).weight) == width]  # type: ignore[arg-type]
    head = model.get_output_embeddings()
    names = {name for name, module in model.named_modules() if module is head}
    if not any(names & set(norm.readers) for norm in found):
        raise _refused(model, "no norm with a gain stands directly before its head")
    return found


def _centred(model: PreTrainedModel, norm: readers.Norm) -> bool:
    """Whether a norm takes the mean out: then adding a number to all channels changes nothing."""
    module: Any = model.get_submodule(norm.name)
    x = torch.linspace(-1, 2, len(module.weight)).pow(3).to(module.weight)[None]
    return torch.allclose(module(x), module(x + 1), rtol=1e-2, atol=1e-2)


def _put(layer: Any, weight: Tensor) -> None:
    """Write a weight (out, in) into a linear layer, a Conv1D, an embedding or a router."""
    layer.weight.copy_(weight.T if isinstance(layer, Conv1D) else weight)


def _fold(model: PreTrainedModel, norm: readers.Norm, Q: Tensor) -> None:
    """Gain and shift of a norm into its readers, whose inputs are rotated then.

    A shift goes to their biases, or stays, rotated.
    """
    module: Any = model.get_submodule(norm.name)
    layers: list[Any] = [model.get_submodule(name) for name in (*norm.readers, *norm.others)]
    Q = Q.to(module.weight.device)
    gain = norm.offset + module.weight.double()
    shift = None if getattr(module, "bias", None) is None else module.bias.double()
    if (
        shift is not None
        and all(isinstance(layer.bias, Tensor) for layer in layers if hasattr(layer, "bias"))
        and not norm.others
    ):
        for layer in layers:
            layer.bias.copy_(layer.bias.double() + walk.weight_of(layer).double() @ shift)
        module.bias.zero_()
    elif shift is not None and bool((shift != 0).any()):
        if (gain.abs() < 1e-4 * gain.abs().max()).any():
            raise CompressionError(
                f"{norm.name}: its gain is nearly 0 somewhere and layers without a bias read it; "
                "its shift has nowhere to go."
            )
        module.bias.copy_(Q @ (shift / gain))
    for layer in layers:
        _put(layer, (walk.weight_of(layer).double() * gain) @ Q.T)
    module.weight.fill_(1 - norm.offset)


def rotate_writers(model: PreTrainedModel, norms: list[readers.Norm], Q: Tensor) -> None:
    """Layers of the blocks that put out as many numbers as the stream has channels and read no
    norm; embeddings outside the blocks.
    """
    reading = {name for norm in (*norms, *_Whole(model).norms()) for name in norm.readers}
    inside = {id(m) for m in walk.blocks(model).modules()}
    for name, module in walk.compressible(model).items():
        if name not in reading and len(walk.weight_of(module)) == len(Q):
            layer: Any = module
            R = Q.to(layer.weight.device)
            _put(layer, R @ walk.weight_of(layer).double())
            if layer.bias is not None:
                layer.bias.copy_(R @ layer.bias.double())
    for module in model.modules():
        if (
            isinstance(module, nn.Embedding)
            and id(module) not in inside
            and module.embedding_dim == len(Q)
        ):
            module.weight.copy_(module.weight.double() @ Q.to(module.weight.device).T)


def _rotate_heads(model: PreTrainedModel, seed: int, wanted: Tensor) -> None:
    """Rotate what values pass on, within each head, wherever the logits stay.

    Raises CompressionError where they stay nowhere.
    """
    size = _head_size(model)
    together = defaultdict(list)
    for fold in (fold for block in folding.folds(model) for fold in block if not fold.is_norm):
        if _by_heads(fold, size):
            together[fold.name].append(fold)
    R, done = hadamard.randomized(size, seed), 0
    for folds in together.values():
        parameters = [
            p for f in folds for m in (f.source, *f.targets) for p in m.parameters(recurse=False)
        ]
        kept = [p.clone() for p in parameters]
        for fold in folds:
            _rotate_fold(fold, R)
        if _same(_logits(model), wanted, model.dtype):
            done += 1
        else:
            for parameter, old in zip(parameters, kept, strict=True):
                parameter.copy_(old)
    if not done:
        raise _without_heads(model, "no layer of values was found whose heads can be rotated")


def _without_heads(model: PreTrainedModel, why: str) -> CompressionError:
    return CompressionError(
        f"heads: {type(model).__name__} ({model.config.model_type}): {why}; "
        "use heads=False, which rotates the residual stream alone."
    )


def _head_size(model: PreTrainedModel) -> int:
    """The one size of all heads.

    Raises CompressionError where there are no heads, or several sizes of them (Gemma 4).
    """
    config = model.config.get_text_config()
    try:
        return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    except (
        AttributeError,
        RuntimeError,
        ValueError,
    ) as error:  # transformers refuses to tell a number that differs between blocks
        raise _without_heads(model, "its config has no one size of heads") from error


def _by_heads(fold: folding.Fold, size: int) -> bool:
    """Whether source and target go by heads of this size, each head of the target reading one head
    of the source in order.
    """
    if len(fold.rows) % size or len(fold.copies) % size or size < 2:
        return False
    rows, copies = fold.rows.view(-1, size), fold.copies.view(-1, size)
    steps = torch.arange(size)
    return bool(
        (rows == rows[:, :1] + steps).all()
        and (copies == copies[:, :1] + steps).all()
        and (copies[:, 0] % size == 0).all()
    )


def _rotate_fold(fold: folding.Fold, R: Tensor) -> None:
    source, size = fold.source, len(R)
    R = R.to(source.weight.device)
    rows = fold.rows.to(source.weight.device)
    weight = walk.weight_of(source)
    weight[rows] = (
        (R @ weight[rows].double().view(-1, size, weight.shape[1])).view(len(rows), -1).to(weight)
    )
    if source.bias is not None:
        source.bias[rows] = (source.bias[rows].double().view(-1, size) @ R.T).flatten().to(weight)
    for target in fold.targets:
        old = walk.weight_of(target)
        _put(target, (old.double().view(len(old), -1, size) @ R.T).view(old.shape))
