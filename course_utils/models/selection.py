"""Which layers a method works on: names left alone, settings of single layers, and what part of the model was reached."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from course_utils.errors import CompressionError

from .blocks import blocks, compressible, linears

Patterns = str | Iterable[str]
PerLayer = Mapping[str, Mapping[str, Any]]


def as_list(patterns: Patterns) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _matching(pattern: str, names: Iterable[str], argument: str) -> set[str]:
    """The names in which the regular expression is found. Raises CompressionError for a bad one, or one found nowhere."""
    names = list(names)
    try:
        found = {name for name in names if re.search(pattern, name)}
    except re.error as error:
        raise CompressionError(f"{argument}: {pattern!r} is no regular expression ({error}).") from error
    if not found:
        raise CompressionError(f"{argument}: {pattern!r} is found in no layer's name; names look like {names[0]!r}.")
    return found


def selected(model: nn.Module, ignore: Patterns = ()) -> dict[str, nn.Module]:
    """The layers of `blocks.compressible` whose names hold none of the regular expressions `ignore` (re.search).

    Raises CompressionError for a pattern that matches nothing, or when nothing is left.
    """
    found = compressible(model)
    gone = {name for pattern in as_list(ignore) for name in _matching(pattern, found, "ignore")}
    if len(gone) == len(found):
        raise CompressionError(f"ignore={as_list(ignore)}: leaves no layer to compress.")
    return {name: module for name, module in found.items() if name not in gone}


def check_per_layer(per_layer: PerLayer | None, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises CompressionError for a pattern without a layer, or a setting that the method does not have."""
    known = list(known)
    for pattern, changes in (per_layer or {}).items():
        _matching(pattern, names, "per_layer")
        if wrong := sorted(set(changes) - set(known)):
            raise CompressionError(f"per_layer: {pattern!r} sets {', '.join(wrong)}; settings of a layer here are {', '.join(known)}.")


def settings_of(name: str, common: Mapping[str, Any], per_layer: PerLayer | None) -> dict[str, Any]:
    """The settings of one layer: the common ones, changed by every pattern that its name holds, the last one winning."""
    chosen = dict(common)
    for pattern, changes in (per_layer or {}).items():
        if re.search(pattern, name):
            chosen |= changes
    return chosen


def kept(ignore: Patterns = (), per_layer: PerLayer | None = None) -> dict[str, Any]:
    """What a result's settings say about it; nothing where all layers were treated alike."""
    found = {"ignore": as_list(ignore), "per_layer": {k: dict(v) for k, v in (per_layer or {}).items()}}
    return {name: value for name, value in found.items() if value}


def coverage(model: nn.Module, reached: Iterable[str], sizes: Mapping[str, int]) -> dict[str, Any]:
    """What part of a model's parameters a method reached, and why the rest was left alone.

    `reached`: names of layers; `sizes`: the dense number of weights of those that no longer hold a Parameter. The answer has
    `parameters`, `reached` and `share` of the whole model, `share_of_blocks`, and `left`: name → (parameters, reason).
    """
    names = {part for name in reached for part in (name, name.partition(".listed.")[0])}  # experts that were fused again
    try:
        inside = {id(m) for m in blocks(model).modules()}
    except CompressionError:
        inside = {id(m) for m in model.modules()}
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
            left[name] = count, _why(module, id(module) in inside, id(module) in dense)
    return {
        "parameters": total["all"], "reached": total["reached"], "share": total["reached"] / max(1, total["all"]),
        "share_of_blocks": total["reached"] / max(1, total["blocks"]), "left": left,
    }  # fmt: skip


def _why(module: nn.Module, inside: bool, dense: bool) -> str:
    if isinstance(module, nn.Embedding):
        return "embedding"
    if not inside:
        return "output head" if dense else "outside the blocks"
    if dense:
        return "a linear layer left alone: ignored, or never reached by calibration"
    if any(p.dim() > 2 for p in module.parameters(recurse=False)):
        return "fused weights that no method reaches"
    return "no matrix of a linear layer"
