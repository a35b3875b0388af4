"""Models, generators and a few dataclasses of the course on the wire;
see `wire` for plain values.
"""

import dataclasses
import importlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .wire import NotPlain, WireError

DATACLASSES = {
    "Grid": "course_utils.quantization.grids", "LayerResult": "course_utils.quantization.layer",
    "Compressed": "course_utils.quantization.compressed",
}  # fmt: skip
LARGEST = 10**6  # a size in a layer, at most


def encode(value: Any, inner: Callable[[Any], Any]) -> Any:
    """The JSON of a model, generator or dataclass; `inner` encodes what it holds.

    Raises NotPlain for anything else.
    """
    if isinstance(value, torch.Generator):
        return ["generator", inner(value.get_state())]
    name = type(value).__name__
    if dataclasses.is_dataclass(value) and DATACLASSES.get(name) == type(value).__module__:
        return [
            "dataclass",
            name,
            {f.name: inner(getattr(value, f.name)) for f in dataclasses.fields(value)},
        ]
    if isinstance(value, torch.nn.Module):
        return _encode_model(value, inner)
    raise NotPlain(f"{type(value).__name__} cannot be sent")


def decode(
    node: list[Any], inner: Callable[[Any], Any], templates: Sequence[dict[str, Any]] | None = None
) -> Any:
    """What `encode` was given.

    With `templates`, a model must have one of these configurations, sizes aside.
    """
    kind, *rest = node
    if kind == "generator":
        return torch.Generator().set_state(inner(rest[0]))
    if kind == "dataclass":
        made = getattr(importlib.import_module(DATACLASSES[rest[0]]), rest[0])
        return made(**{name: inner(item) for name, item in rest[1].items()})
    if kind == "model":
        return _decode_model(rest, inner, templates)
    raise WireError(f"unknown kind {str(kind)[:40]!r}")


def config_of(model: Any) -> dict[str, Any]:
    """All settings of a model, as JSON holds them."""
    return json.loads(model.config.to_json_string(use_diff=False))


def _encode_model(model: Any, inner: Callable[[Any], Any]) -> Any:
    from transformers import PreTrainedModel

    from course_utils.quantization.layer import KINDS

    if not isinstance(model, PreTrainedModel):
        raise NotPlain(
            f"{type(model).__name__} is not a Hugging Face model; only those can be sent"
        )
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    tensors = {name: inner(value) for name, value in model.state_dict().items() if name not in tied}
    layers = {
        name: [type(m).__name__, m.shape()]
        for name, m in model.named_modules()
        if type(m).__name__ in KINDS
    }
    return ["model", config_of(model), layers, tensors, str(model.name_or_path), model.training]


def _decode_model(
    rest: list[Any], inner: Callable[[Any], Any], templates: Sequence[dict[str, Any]] | None
) -> Any:
    sent, layers, nodes, name, training = rest
    tensors = {key: inner(node) for key, node in nodes.items()}
    config = dict(sent) if templates is None else _known(sent, templates, len(tensors))
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
    if templates is not None:
        with torch.device("meta"):  # takes no memory
            frame = _build(config, layers, dtype)
        tied = set(getattr(frame, "all_tied_weights_keys", None) or {})
        wanted = {key: value.shape for key, value in frame.state_dict().items() if key not in tied}
        if wanted != {key: value.shape for key, value in tensors.items()}:
            raise WireError("a model whose tensors do not fit its configuration")
    model = _build(config, layers, dtype)
    model.load_state_dict(tensors, strict=False)
    model.tie_weights()
    model.name_or_path = model.config.name_or_path = str(name)
    return model.train(bool(training))


def _known(
    sent: dict[str, Any], templates: Sequence[dict[str, Any]], tensors: int
) -> dict[str, Any]:
    """The most similar template of the same kind, with the whole numbers of what was sent: no name,
    path or code in it counts.
    """
    alike = [t for t in templates if t["model_type"] == sent.get("model_type")]
    if not alike:
        raise WireError("a model of another kind than was given")
    template = max(alike, key=lambda t: sum(t[k] == sent.get(k) for k in t))
    sizes = {k: v for k, v in sent.items() if type(v) is int and type(template.get(k)) is int}
    if any(not 0 <= v <= (tensors if "layer" in k else LARGEST) for k, v in sizes.items()):
        raise WireError("a model of impossible size")
    return {**template, **sizes}


def _build(config: dict[str, Any], layers: dict[str, Any], dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    from course_utils.models import walk
    from course_utils.quantization.layer import KINDS

    made = AutoConfig.for_model(**config)
    model = AutoModelForCausalLM.from_config(made, dtype=dtype, trust_remote_code=False)
    for name, (kind, shape) in layers.items():
        if any(type(v) is int and not 0 <= v <= LARGEST for v in shape.values()):
            raise WireError("a layer of impossible size")
        walk.replace(model, name, KINDS[kind](**shape, dtype=dtype))
    return model
