"""Which layers a method works on: names left alone, settings of single layers, and what part of the
model was reached.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from course_utils.errors import CompressionError

from .blocks import blocks, compressible, linears

Patterns = str | Iterable[str]
PerLayer = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Chosen:
    """The layers that a method works on, by name, and the settings of each; `told`: what a result's
    settings say about the choice.
    """

    layers: dict[str, nn.Module]
    own: dict[str, dict[str, Any]]
    told: dict[str, Any]

    @property
    def names(self) -> dict[int, str]:
        """The name of each layer by the id of its module."""
        return {id(module): name for name, module in self.layers.items()}

    def different(self) -> list[dict[str, Any]]:
        """Every settings that some layer has, once: to refuse bad ones before any work."""
        found: list[dict[str, Any]] = []
        for own in self.own.values():
            if own not in found:
                found.append(own)
        return found


def choose(
    model: nn.Module,
    common: Mapping[str, Any],
    ignore: Patterns = (),
    per_layer: PerLayer | None = None,
) -> Chosen:
    r"""The layers of `blocks.compressible` that `ignore` does not name, with the settings `common`,
    changed by `per_layer`.

    A pattern is the name of a layer, or of a module that holds layers, or else a regular expression
    that is searched in the names: "model.layers.1" is the block 1 and not 10 too; "down_proj", or
    r"layers\.[0-3]\.", every layer in whose name it is found. Where several of `per_layer` name a
    layer, the last one wins. Raises CompressionError for a pattern that names nothing, a setting
    that is not in `common`, or when nothing is left.
    """
    layers = selected(model, ignore)
    return Chosen(
        layers, own_settings(layers, common, per_layer, every_name(model)), kept(ignore, per_layer)
    )


def own_settings(
    names: Iterable[str],
    common: Mapping[str, Any],
    per_layer: PerLayer | None,
    said: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """The settings of each layer as in `choose`; `said`: `every_name`,
    those of ignored layers too.
    """
    names = list(names)
    said = {name: name for name in names} if said is None else said
    own = {name: dict(common) for name in names}
    if per_layer is not None and not (
        isinstance(per_layer, Mapping)
        and all(isinstance(each, Mapping) for each in per_layer.values())
    ):
        raise CompressionError(
            f"per_layer={per_layer!r}: give {{name or regular expression: {{setting: value}}}}."
        )
    for pattern, changes in (per_layer or {}).items():
        meant = {said[name] for name in matching(pattern, said, "per_layer")}
        if not meant & set(names):
            raise CompressionError(
                f"per_layer: {pattern!r} names only layers that ignore leaves alone; "
                "take it out of one of the two."
            )
        if wrong := sorted(set(map(str, changes)) - set(common)):
            raise CompressionError(
                f"per_layer: {pattern!r} sets {', '.join(wrong)}; settings of a layer here "
                f"are {', '.join(common)}."
            )
        for name in meant & set(names):
            own[name] |= changes
    return own


def as_list(patterns: Patterns) -> list[str]:
    """Patterns as a list. Raises CompressionError if one is no text."""
    listed = (
        [patterns]
        if isinstance(patterns, str) or not isinstance(patterns, Iterable)
        else list(patterns)
    )
    if wrong := [each for each in listed if not isinstance(each, str)]:
        raise CompressionError(
            f"ignore: {wrong[0]!r} is no text; give names of layers, "
            "or regular expressions on names."
        )
    return listed


def matching(pattern: str, names: Iterable[str], argument: str) -> set[str]:
    """The names that a pattern means, as in `choose`.

    Raises CompressionError for a bad one, or one that means nothing.
    """
    names = list(names)
    if not isinstance(pattern, str):
        raise CompressionError(
            f"{argument}: {pattern!r} is no text; give the name of a layer, "
            "or a regular expression on names."
        )
    if exactly := {name for name in names if name == pattern or name.startswith(f"{pattern}.")}:
        return exactly
    try:
        found = {name for name in names if re.search(pattern, name)}
    except re.error as error:
        raise CompressionError(
            f"{argument}: {pattern!r} is no regular expression ({error})."
        ) from error
    if not found:
        raise CompressionError(
            f"{argument}: {pattern!r} is found in no layer's name; names look like {names[0]!r}."
        )
    return found


def selected(model: nn.Module, ignore: Patterns = ()) -> dict[str, nn.Module]:
    """The layers of `blocks.compressible` but those that the patterns `ignore` mean, as in
    `choose`.

    Raises CompressionError for a pattern that matches nothing, or when nothing is left.
    """
    found = compressible(model)
    return {name: found[name] for name in left_by(ignore, found, every_name(model))}


def every_name(model: nn.Module) -> dict[str, str]:
    """Each name under which the model has one of its layers → the layer's own: a layer of a block
    that is used twice has two.
    """
    own = {id(module): name for name, module in compressible(model).items()}
    return {
        name: own[id(module)]
        for name, module in model.named_modules(remove_duplicate=False)
        if id(module) in own
    }


def left_by(
    ignore: Patterns, names: Iterable[str], said: Mapping[str, str] | None = None
) -> list[str]:
    """The names that no pattern means; `said` as in `own_settings`.

    Raises CompressionError for a pattern that means none, or when nothing is left.
    """
    names = list(names)
    said = {name: name for name in names} if said is None else said
    gone = {said[name] for pattern in as_list(ignore) for name in matching(pattern, said, "ignore")}
    if names and len(gone) == len(names):
        raise CompressionError(f"ignore={as_list(ignore)}: leaves no layer to compress.")
    return [name for name in names if name not in gone]


def blocks_named(model: nn.Module, ignore: Patterns) -> list[int]:
    """The numbers of the blocks in which a pattern means a layer."""
    layers = compressible(model)
    gone = set(layers) - set(left_by(ignore, layers, every_name(model)))
    names = {id(module): name for name, module in layers.items()}
    return [
        number
        for number, block in enumerate(blocks(model))
        if any(names.get(id(m)) in gone for m in linears(block).values())
    ]


def none_here(why: str, ignore: Patterns = (), per_layer: PerLayer | None = None) -> None:
    """For a method that treats all layers alike by its nature: refuse `ignore` and `per_layer` with
    the sentence `why`.
    """
    for name, given in (("ignore", as_list(ignore)), ("per_layer", per_layer)):
        if given:
            raise CompressionError(f"{name}: {why}")


def kept(ignore: Patterns = (), per_layer: PerLayer | None = None) -> dict[str, Any]:
    """What a result's settings say about it; nothing where all layers were treated alike."""
    found = {
        "ignore": as_list(ignore),
        "per_layer": {k: dict(v) for k, v in (per_layer or {}).items()},
    }
    return {name: value for name, value in found.items() if value}


def coverage(model: nn.Module, reached: Iterable[str], sizes: Mapping[str, int]) -> dict[str, Any]:
    """What part of a model's parameters a method reached, and why the rest was left alone.

    `reached`: names of layers; `sizes`: the dense number of weights of those that no longer hold a
    Parameter. The answer has `parameters`, `reached` and `share` of the whole model,
    `share_of_blocks`, and `left`: name → (parameters, reason).
    """
    # experts that were fused again
    names = {part for name in reached for part in (name, name.partition(".listed.")[0])}
    try:
        inside = {id(m) for m in blocks(model).modules()}
    except CompressionError:
        inside = {id(m) for m in model.modules()}
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    dense, seen = {id(m) for m in linears(model).values()}, set()
    total = {"all": 0, "blocks": 0, "reached": 0}
    left: dict[str, tuple[int, str]] = {}
    for name, module in model.named_modules():
        count = sizes.get(name, 0)
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                count += parameter.numel()
                seen.add(id(parameter))
        if not count:
            continue
        total["all"] += count
        total["blocks"] += count * (id(module) in inside)
        if name in names:
            total["reached"] += count
        else:
            left[name] = (
                count,
                _why(module, id(module) in inside, id(module) in dense, module is head),
            )
    return {
        "parameters": total["all"], "reached": total["reached"],
        "share": total["reached"] / max(1, total["all"]),
        "share_of_blocks": total["reached"] / max(1, total["blocks"]), "left": left,
    }  # fmt: skip


def _why(module: nn.Module, inside: bool, dense: bool, head: bool) -> str:
    if isinstance(module, nn.Embedding):
        return "embedding"
    if not inside:
        return "output head" if head else "outside the blocks"
    if dense:
        return "a linear layer left alone: ignored, or never reached by calibration"
    if any(p.dim() > 2 for p in module.parameters(recurse=False)):
        return "fused weights that no method reaches"
    return "no matrix of a linear layer"
