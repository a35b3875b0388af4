"""What scores are made of: gradients, Fisher and Hessian diagonals, input norms, movement —
measured on a model.

Each function returns a dict from the names of `walk.compressible` to tensors (out, in).
`loss(model, batch)` gives a scalar; by default the mean next-token loss of token ids (sequences,
context).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.quantization.gptq import damped

from . import apply, scores

Loss = Callable[[nn.Module, Any], Tensor]
LARGEST_EXACT = 20_000
LARGE = 2**28  # numbers of Hessians that are held at a time: a gibibyte in float32


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, in nats."""
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    found: dict[str, Any] = {
        name: module.weight for name, module in walk.compressible(model).items()
    }
    if not all(parameter.requires_grad for parameter in found.values()):
        raise CompressionError(
            "model: some weights do not require a gradient; call model.requires_grad_(True) first."
        )
    return found


def _turned(model: nn.Module, values: Iterable[Tensor]) -> dict[str, Tensor]:
    """Values in the parameters' own layout as (out, in), by name."""
    layers = walk.compressible(model)
    return {
        n: v.T if isinstance(m, Conv1D) else v
        for (n, m), v in zip(layers.items(), values, strict=True)
    }


def _zeros(weights: Iterable[Tensor]) -> list[Tensor]:
    """Where sums are gathered: in float32 at least, since squares and long sums do not fit half
    precision.
    """
    return [torch.zeros_like(walk.exact(w)) for w in weights]


def _batches(batches: Iterable[Any] | Tensor, size: int) -> list[Any]:
    found = list(batches.split(size)) if isinstance(batches, Tensor) else list(batches)
    if not found:
        raise CompressionError("batches: empty; give at least one example.")
    return found


def gradients(model: nn.Module, batches: Any, loss: Loss = next_token_loss) -> dict[str, Tensor]:
    """G = ∂L/∂θ, L the mean of `loss` over the batches (a tensor of token ids is cut into batches
    of 8).
    """
    weights = list(_parameters(model).values())
    parts = _batches(batches, 8)
    total = _zeros(weights)
    for part in parts:
        for sum_, g in zip(total, torch.autograd.grad(loss(model, part), weights), strict=True):
            sum_ += g / len(parts)
    return _turned(model, total)


def fisher_diagonal(
    model: nn.Module, examples: Any, loss: Loss = next_token_loss
) -> dict[str, Tensor]:
    """F_ii = (1/N) Σ_n (∂ℓ_n/∂θ_i)², the diagonal of the empirical Fisher matrix.

    ℓ_n is the loss of example n alone: the square must be taken before the mean. A tensor of token
    ids is cut into single sequences.
    """
    weights = list(_parameters(model).values())
    parts = _batches(examples, 1)
    total = _zeros(weights)
    for part in parts:
        for sum_, g in zip(total, torch.autograd.grad(loss(model, part), weights), strict=True):
            sum_ += g.to(sum_).square() / len(parts)
    return _turned(model, total)


def hessian_diagonal(
    model: nn.Module,
    batch: Any,
    loss: Loss = next_token_loss,
    *,
    probes: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """H_ii = ∂²L/∂θ_i² on one batch.

    `probes=None`: exact, one backward pass for each weight (at most 20,000 of them). Otherwise
    Hutchinson's estimate, the mean of z ⊙ Hz over that many vectors z of random signs: unbiased,
    with variance Σ_{j≠i} H_ij² for each probe, where i and j run over all the weights together.
    """
    weights = list(_parameters(model).values())
    count = sum(w.numel() for w in weights)
    if probes is None and count > LARGEST_EXACT:
        raise CompressionError(
            f"probes: the exact diagonal of {count} weights takes as many backward passes; "
            "give probes=32."
        )
    if probes is not None and probes < 1:
        raise CompressionError(f"probes={probes}: choose 1 or more.")
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention has no second derivative
        first = torch.autograd.grad(loss(model, batch), weights, create_graph=True)
        if probes is None:
            return _turned(model, [_exact(g, w) for g, w in zip(first, weights, strict=True)])
        generator = torch.Generator().manual_seed(seed)
        total = _zeros(weights)
        for _ in range(probes):
            signs = [
                (torch.randint(0, 2, w.shape, generator=generator) * 2 - 1).to(w) for w in weights
            ]
            products = torch.autograd.grad(first, weights, grad_outputs=signs, retain_graph=True)
            for sum_, z, product in zip(total, signs, products, strict=True):
                sum_ += z * product / probes
    return _turned(model, total)


def _exact(gradient: Tensor, weight: Tensor) -> Tensor:
    flat = gradient.flatten()
    rows = []
    for i in range(len(flat)):
        (second,) = torch.autograd.grad(flat[i], weight, retain_graph=True, allow_unused=True)
        rows.append(torch.zeros_like(flat[i]) if second is None else second.flatten()[i])
    return torch.stack(rows).view_as(weight).detach()


def layer_hessians(
    model: nn.Module, ids: Tensor, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """H = (2/N) XᵀX (in, in) of each linear layer's own output error (of those named), for inputs
    of the dense model.
    """
    return _mean_over_tokens(model, ids, lambda x: 2 * x.T @ x, names)


def in_turns(weights: Mapping[str, Tensor], most: int = LARGE) -> list[list[str]]:
    """The names in runs whose Hessians hold at most `most` numbers together, one layer at least."""
    turns: list[list[str]] = [[]]
    held = 0
    for name, weight in weights.items():
        numbers = weight.shape[-1] ** 2
        if turns[-1] and held + numbers > most:
            turns.append([])
            held = 0
        turns[-1].append(name)
        held += numbers
    return turns


def input_sizes(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """√(diag H) (in,) of each linear layer: ‖X_j‖ √(2/N), without the rest of H."""
    return {
        name: mean.sqrt()
        for name, mean in _mean_over_tokens(model, ids, lambda x: 2 * x.square().sum(0)).items()
    }


@torch.no_grad()
def _mean_over_tokens(
    model: nn.Module,
    ids: Tensor,
    of: Callable[[Tensor], Tensor],
    chosen: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """Σ of(x) / N over the inputs x (tokens, in) of each linear layer, by name."""
    if isinstance(model, PreTrainedModel):
        ids = walk.check_calibration(ids, model).to(model.device)
    layers = walk.compressible(model)
    layers = layers if chosen is None else {name: layers[name] for name in chosen}
    names = {id(module): name for name, module in layers.items()}
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def see(module: nn.Module, args: tuple[Any, ...]) -> None:
        x, name = walk.exact(args[0].reshape(-1, args[0].shape[-1])), names[id(module)]
        sums[name] = sums.get(name, 0) + of(x)
        counts[name] = counts.get(name, 0) + len(x)

    handles = [module.register_forward_pre_hook(see) for module in layers.values()]
    try:
        for part in ids.split(8):
            model(part)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in sums.items()}


class Movement:
    """Σ_t g_t θ_t of every weight over the optimizer steps on a model: `scores.movement` is minus
    this.

    Use as a context while training; `total` then holds tensors (out, in) by name.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.sums = _zeros(_parameters(model).values())

    def _add(self) -> None:
        for sum_, weight in zip(self.sums, _parameters(self.model).values(), strict=True):
            if weight.grad is not None:
                sum_ += weight.grad.to(sum_) * weight.detach()

    def __enter__(self) -> "Movement":
        self.context = apply.each_step(self.model, before=self._add)
        self.context.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self.context.__exit__(None, None, None)

    @property
    def total(self) -> dict[str, Tensor]:
        """The sums so far, shaped as `nn.Linear` has them."""
        return _turned(self.model, self.sums)


KINDS = ("random", "magnitude", "gradient", "fisher", "obd", "wanda", "surgeon")


def scores_of(
    model: nn.Module,
    kind: str,
    data: Any = None,
    *,
    loss: Loss = next_token_loss,
    probes: int = 32,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The scores of all layers by the name of the method, measured where it needs `data`; see
    `pruning.scores`.

    obd uses Hutchinson's estimate with `probes`; wanda and surgeon the inputs of the dense model
    (`wanda.prune` and `sparsegpt.prune` instead go block by block). Raises CompressionError for an
    unknown kind or missing data.
    """
    if kind not in KINDS:
        raise CompressionError(f"kind={kind!r}: choose one of {', '.join(KINDS)}.")
    if data is None and kind not in ("random", "magnitude"):
        raise CompressionError(
            f"data: {kind} scores need examples; give token ids (sequences, context) or batches."
        )
    weights = {
        name: walk.exact(walk.weight_of(module))
        for name, module in walk.compressible(model).items()
    }
    if kind == "random":
        return {n: scores.random(w, seed + i) for i, (n, w) in enumerate(weights.items())}
    if kind == "magnitude":
        return {n: scores.magnitude(w) for n, w in weights.items()}
    if kind == "gradient":
        measured = gradients(model, data, loss)
    elif kind == "fisher":
        measured = fisher_diagonal(model, data, loss)
    elif kind == "obd":
        measured = hessian_diagonal(model, data, loss, probes=probes, seed=seed)
    elif kind == "wanda":
        measured = input_sizes(model, data)
    else:
        measured = {}
        for turn in in_turns(weights):
            hessians = layer_hessians(model, data, turn)
            measured |= {
                n: torch.linalg.inv(damped(H.double(), 0.01)).diagonal().to(H)
                for n, H in hessians.items()
            }
    return {n: getattr(scores, kind)(w, measured[n]) for n, w in weights.items()}
