"""Channel groups of an nn.Sequential: what must go together when one channel goes.

A channel k of a layer is a row of its weight (with its bias), an entry of each batch norm behind
it, and a column of the next layer's weight; behind nn.Flatten one channel of a picture is height ·
width columns. All of that is one group and leaves at once, so that the layers still fit (Fang et
al., 2023). Convolutions and linear layers mix freely.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from course_utils.errors import CompressionError
from course_utils.models import selection, sharing
from course_utils.models.selection import Patterns, PerLayer
from course_utils.quantization.compressed import Compressed

from . import groups

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
MIXING = (nn.LayerNorm, nn.GroupNorm)  # of fixed width even without weights


@dataclass(frozen=True)
class Channels:
    """The outputs of `producer`, the norms on their way, and the layer that reads them, `span`
    inputs for each channel.
    """

    name: str
    producer: Any
    norms: tuple[Any, ...]
    consumer: Any
    span: int


def find(model: nn.Sequential) -> list[Channels]:
    """The groups of channels between each layer and the next, in order; inputs and outputs of the
    whole stay.

    Raises CompressionError for a module whose use of channels is not known here.
    """
    if not isinstance(model, nn.Sequential):
        raise CompressionError(
            f"model: expected nn.Sequential, got {type(model).__name__}; "
            "for branches use torch-pruning, for language models pruning.structured."
        )
    found: list[Channels] = []
    name, flat = "", False
    producer: Any = None
    norms: list[Any] = []
    met: set[nn.Module] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Sequential):
            continue
        if module in met and any(True for _ in module.parameters()):
            raise CompressionError(
                f"model: {path} stands in two places; its channels cannot be chosen for both."
            )
        met.add(module)
        if isinstance(module, LAYERS):
            if getattr(module, "groups", 1) != 1:
                raise CompressionError(
                    f"model: {path} is a grouped convolution; its channels cannot go one by one."
                )
            if producer is not None:
                found.append(
                    Channels(
                        name, producer, tuple(norms), module, _span(path, producer, module, flat)
                    )
                )
            name, producer, norms, flat = path, module, [], False
        elif isinstance(module, _BatchNorm):
            if producer is None or flat:
                raise CompressionError(
                    f"model: {path} must come behind a layer, and before nn.Flatten."
                )
            norms.append(module)
        elif (
            isinstance(module, MIXING)
            or any(True for _ in module.parameters())
            or any(True for _ in module.children())
        ):
            raise CompressionError(
                f"model: {path} is a {type(module).__name__}; known are linear layers, "
                "convolutions and batch norms."
            )
        flat = flat or isinstance(module, nn.Flatten)
    if not found:
        raise CompressionError(
            "model: needs at least two layers, since inputs and outputs of the whole stay."
        )
    return found


def _span(path: str, producer: Any, consumer: Any, flat: bool) -> int:
    outputs, inputs = producer.weight.shape[0], consumer.weight.shape[1]
    pictures = not isinstance(producer, nn.Linear)
    if (
        inputs % outputs
        or (inputs != outputs and not flat)
        or (pictures and isinstance(consumer, nn.Linear) and not flat)
    ):
        raise CompressionError(
            f"model: {path} reads {inputs} inputs, which do not match the "
            f"{outputs} channels before it."
        )
    return inputs // outputs


def _columns(channels: Channels) -> Tensor:
    """The consumer's weight as (channels, everything that reads each)."""
    weight = channels.consumer.weight.detach().transpose(0, 1)  # (in, out, …)
    return weight.reshape(len(weight) // channels.span, -1)


def magnitude(channels: Channels) -> Tensor:
    """‖everything in the group‖² without biases, for each channel: rows, batch-norm weights and
    columns together.
    """
    score = channels.producer.weight.detach().flatten(1).square().sum(1)
    for norm in channels.norms:
        if norm.weight is not None:
            score = score + norm.weight.detach().square()
    return score + _columns(channels).square().sum(1)


def prune(
    model: nn.Sequential, *, keep: int | float = 0.5, scores: Mapping[str, Tensor] | None = None,
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Compressed:  # fmt: skip
    """A copy with fewer channels between its layers: smaller tensors, an ordinary nn.Sequential.

    `keep`: a fraction or number of the channels of each layer but the last. `scores`: for each of
    those layers, by name, the worth of its outputs (out,); `magnitude` if not given. All scores are
    those of the model as it comes.
    `ignore`: layers whose outputs all stay; `per_layer`: another `keep` for some; both as in
    `selection.choose`.
    Raises CompressionError for an unknown module, a score that is missing or does not fit, or a bad
    `keep`.
    """
    began = time.perf_counter()
    work = sharing.structure(model)
    found = find(work)
    chosen: dict[str, Tensor] = {}
    names = [channels.name for channels in found]
    own = selection.own_settings(
        selection.left_by(ignore, names), {"keep": keep}, per_layer, {name: name for name in names}
    )
    found = [channels for channels in found if channels.name in own]
    for channels in found:
        count = channels.producer.weight.shape[0]
        score = magnitude(channels) if scores is None else scores.get(channels.name)
        if score is None or score.shape != (count,) or not torch.isfinite(score).all():
            raise CompressionError(
                f"scores: {channels.name} needs {count} finite values, one for each output."
            )
        chosen[channels.name] = groups.kept(
            score,
            groups.how_many(count, own[channels.name]["keep"], f"channels of {channels.name}"),
        )
    for channels in found:
        _keep(channels, chosen[channels.name])
    settings = {"method": "channels", "keep": keep, **selection.kept(ignore, per_layer)}
    return Compressed(
        sharing.own(work, model),
        settings,
        time.perf_counter() - began,
        {"kept": {k: v.tolist() for k, v in chosen.items()}},
    )


def _keep(channels: Channels, stay: Tensor) -> None:
    producer, consumer = channels.producer, channels.consumer
    for module in (producer, *channels.norms):
        for name, tensor in list(module.named_parameters(recurse=False)) + list(
            module.named_buffers(recurse=False)
        ):
            if tensor.dim():  # not the batch norm's counter
                _set(module, name, tensor.detach()[stay])
    _set(consumer, "weight", consumer.weight.detach()[:, groups.members(stay, channels.span)])
    producer_size, consumer_size = (
        ("out_features" if isinstance(producer, nn.Linear) else "out_channels"),
        ("in_features" if isinstance(consumer, nn.Linear) else "in_channels"),
    )
    setattr(producer, producer_size, len(stay))
    setattr(consumer, consumer_size, len(stay) * channels.span)
    for norm in channels.norms:
        norm.num_features = len(stay)


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    old = getattr(module, name)
    new = value.clone()
    setattr(
        module, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    )
