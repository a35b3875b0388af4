"""One view of every method: it moves the weights by some δ, and a small δ costs a quadratic form.

    KL(p_w ‖ p_{w+δ}) = ½ δᵀ F δ + O(‖δ‖³),      F = E[Jᵀ (diag p − p pᵀ) J],  J = ∂ logits / ∂ w

F is the Fisher information of the model's own predictions (Amari, 1998; Martens, 2020). It never
has to be built: J δ is a directional derivative, one pass in forward mode, and ½ δᵀFδ is half the
variance of J δ under p, token by token (`noise.quadratic_kl`). Rounding, pruning and low rank
differ in the δ that they allow, and in the F that they pretend:
the identity (magnitude, plain rounding), a diagonal (OBD, Wanda), one block for each layer (GPTQ,
SparseGPT).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError
from course_utils.models import walk
from course_utils.theory import noise


def change(model: nn.Module, compressed: Any) -> dict[str, Tensor]:
    """δ = Ŵ − W (out, in) of every linear layer of the blocks, by name; `compressed` is a model, or
    a `Compressed` that holds one.

    Raises CompressionError for a layer of which `compressed` has no weight of the same shape: a
    smaller model is no δ.
    """
    found, compressed = {}, compressed if isinstance(compressed, nn.Module) else compressed.model
    for name, module in walk.compressible(model).items():
        try:
            other = compressed.get_submodule(name)
            weight = walk.weight_of(other) if hasattr(other, "weight") else None
        except AttributeError:
            weight = None
        if weight is None or weight.shape != walk.weight_of(module).shape:
            raise CompressionError(
                f"{name}: the compressed model has no weight of this shape; "
                "give a model with the same layers."
            )
        found[name] = weight.float() - walk.weight_of(module).float()
    return found


@torch.no_grad()
def predicted_kl(
    model: PreTrainedModel, delta: dict[str, Tensor], ids: Tensor, batch: int = 8
) -> Tensor:
    """(windows,) ½ δᵀFδ in nats a token, for token ids (windows, context): what
    `evaluation.kl_by_window` measures, to second order.

    `delta` as `change` gives it. Raises CompressionError for unknown layers or shapes, and for a
    model that has no derivative in forward mode, such as a mixture of fused experts.
    """
    layers = walk.compressible(model)
    for name, d in delta.items():
        if name not in layers or walk.weight_of(layers[name]).shape != d.shape:
            raise CompressionError(
                f"delta: {name} is no linear layer of this shape; "
                "make it by one_view.change(model, compressed)."
            )
    if ids.dim() != 2 or not ids.numel():
        raise CompressionError(
            f"ids: shape {tuple(ids.shape)}; expected (windows, context) token ids."
        )
    stored: dict[str, Any] = {name: layers[name].weight for name in delta}
    weights = {f"{name}.weight": weight.detach() for name, weight in stored.items()}
    tangents = {
        f"{name}.weight": (d.T if isinstance(layers[name], Conv1D) else d)
        .to(stored[name])
        .contiguous()
        for name, d in delta.items()
    }
    training, found = model.training, []
    model.eval()
    try:
        for rows in ids.long().to(model.device).split(batch):

            def logits(w: dict[str, Tensor], rows: Tensor = rows) -> Tensor:
                return functional_call(
                    model, w, args=(), kwargs={"input_ids": rows, "use_cache": False}
                ).logits

            with sdpa_kernel(SDPBackend.MATH):  # the others have no derivative in forward mode
                z, moved = jvp(logits, (weights,), (tangents,))[:2]
            found.append(noise.quadratic_kl(z, moved.double()).mean(1).cpu())
    except (NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CompressionError(
            f"model: {type(model).__name__} has no derivative in forward mode ({reason}). Give "
            "a model that was not compressed; for layers that PyTorch cannot do this for, such as "
            "fused experts, measure evaluation.kl_by_window of a small part of the change instead."
        ) from error
    finally:
        model.train(training)
    return torch.cat(found)
