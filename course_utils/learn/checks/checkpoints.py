"""Check a learner's function that writes a checkpoint and reads it back, on a small model made on
the spot.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from .. import show as display
from .. import texts
from . import calling
from .exercise import Verdict

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from course_utils.quantization import LayerResult

CHANGED = "model.norm.weight"  # what differs on the disk
Problem = tuple[str, dict[str, Any]]  # the key of a text in labs.yaml, and what to fill in


def check_checkpoint(
    make: Callable[..., Any], *, bits: int = 3, group_size: int = 8, show: bool = True
) -> Verdict:
    """Run `make(model, calibration, folder, bits, group_size, layer)`, which returns (bytes
    written, loaded model).

    It is given a small Llama with random weights and settings and a layer function unlike any
    default. It passes when the bytes are those of the files, and the loaded model has the weights
    that this layer function gives, and what is only on the disk.
    """
    words = texts.load("labs")["checkpoint"]
    key, values = _run(make, bits, group_size)
    values = {"title": words["title"], "bits": bits, "group_size": group_size, **values}
    if key in ("right", "not_attempted"):
        verdict = Verdict(key == "right", key == "right", None, words[key].format(**values))
    else:
        message = "\n\n".join([words["not_yet"].format(**values), words[key].format(**values)])
        verdict = Verdict(False, True, None if key == "raised" else key, message)
    if show:
        title, _, body = verdict.message.partition("\n\n")
        display.message(
            "right" if verdict.passed else "wrong" if verdict.attempted else "note", title, body
        )
    return verdict


def _run(make: Callable[..., Any], bits: int, group_size: int) -> Problem:
    from IPython.utils.capture import capture_output

    from course_utils.quantization import gptq

    model, calibration = _small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings: dict[str, Any] = {"bits": bits, "group_size": group_size}
    with tempfile.TemporaryDirectory() as place, capture_output(stdout=False):
        # no progress bars of a small model; on stderr they would count as an error for nbgrader
        want = gptq.quantize(model, calibration, **settings, quantize_layer=_unusual_layer).model
        folder = Path(place) / "checkpoint"
        try:
            with other_on_disk():
                given = {
                    "model": model,
                    "calibration": calibration,
                    "folder": folder,
                    **settings,
                    "layer": _unusual_layer,
                }
                result = calling.call(make, given)
        except NotImplementedError:
            return "not_attempted", {}
        except Exception as error:
            return "raised", {"type": type(error).__name__, "said": error}
        sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
        stored = _stored(folder)
    if result is None or result is ...:
        return "not_attempted", {}
    if type(result) not in (tuple, list) or len(result) != 2 or type(result[0]) not in (int, float):
        return "not_a_pair", {}
    if not sizes:
        return "nothing_written", {}
    if result[0] != sum(sizes):
        return "wrong_bytes", {"said": result[0], "size": sum(sizes)}
    whole = sum(value.nbytes for value in before.values())
    if sum(sizes) >= whole:
        return "not_smaller", {"size": sum(sizes), "whole": whole}
    if not _same(model.state_dict(), before):
        return "model_changed", {}
    problem = _problem_of_model(result[1], want, folder, stored, bits)
    return (problem, {}) if problem else ("right", {"files": len(sizes), "size": sum(sizes)})


@contextlib.contextmanager
def other_on_disk() -> Iterator[None]:
    """While this is open, what `Compressed.save` writes differs from the model in memory in one
    tensor.

    So a model that was not read from the files is told from one that was, whatever folder it names.
    """
    from course_utils.quantization import compressed

    more, write = random.SystemRandom().randint(1, 63) / 64, compressed.save_file

    def save_file(tensors: dict[str, Tensor], path: Path) -> None:
        if CHANGED in tensors:
            tensors = {
                **tensors,
                CHANGED: (tensors[CHANGED].float() + more).to(tensors[CHANGED].dtype),
            }
        write(tensors, path)

    with mock.patch.object(compressed, "save_file", save_file):
        yield


def _stored(folder: Path) -> dict[str, Tensor]:
    """The tensors in the folder's files."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for file in folder.rglob("*.safetensors"):
        with contextlib.suppress(Exception):  # a file that cannot be read holds none
            found |= load_file(file)
    return found


def _problem_of_model(
    loaded: Any, want: nn.Module, folder: Path, stored: dict[str, Tensor], bits: int
) -> str:
    from transformers import PreTrainedModel

    from course_utils.quantization import QuantizedLinear

    if not isinstance(loaded, PreTrainedModel):
        return "not_loaded"
    found, right = (
        {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLinear)}
        for model in (loaded, want)
    )
    if set(found) != set(right) or any(
        (m.bits, m.groups) != (bits, right[name].groups) for name, m in found.items()
    ):
        return "not_packed"
    if str(loaded.name_or_path) != str(folder) or not _same(stored, loaded.state_dict()):
        return "not_from_disk"
    if not _same(
        *(
            {name: t for name, t in m.state_dict().items() if name != CHANGED}
            for m in (loaded, want)
        )
    ):
        return "layer_unused"
    return ""


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal names and values; a checkpoint may hold a value in a narrower type."""
    return one.keys() == other.keys() and all(
        one[name].float().equal(other[name].float()) for name in one
    )


def _unusual_layer(weight: Tensor, H: Tensor, **settings: Any) -> LayerResult:
    """GPTQ with so much damping that its codes are neither the default's nor those of rounding."""
    from course_utils.quantization import gptq

    return gptq.quantize_layer(weight, H, **{**settings, "damping": 0.3, "never_worse": False})


def _small_model() -> tuple[PreTrainedModel, Tensor]:
    """A Llama of two blocks with random weights, and token ids (8, 24) for it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.seed()
        config = LlamaConfig(
            vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval(), torch.randint(96, (8, 24))
