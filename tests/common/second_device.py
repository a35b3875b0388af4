"""A second device for a machine that has none: its tensors say that they are on `second`, hold
their numbers in the memory of the CPU, and refuse to be mixed with the CPU's, as CUDA's do.

    python tests/common/second_device.py  # every method there, beside here

Once imported, PyTorch knows the device for good: import it in a process of its own.
"""

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import methods
import tiny_models
import torch
from torch import Tensor, nn
from torch.utils import _python_dispatch, backend_registration
from torch.utils._pytree import tree_flatten, tree_map

from course_utils import evaluation
from course_utils.distillation import on_policy, trainer
from course_utils.evaluation import by_window, sensitivity
from course_utils.models import gates
from course_utils.pruning import learned_masks, recovery, schedules, sparsegpt, structured, wanda
from course_utils.quantization import awq, compressed, gptq, kv_cache, qat, rtn, streaming
from course_utils.systems import depth, speculative

aten = torch.ops.aten
KINDS = ("gpt2", "opt", "mixtral")


class Module(backend_registration._DummyBackendModule):
    """What PyTorch asks of a device beside its tensors."""

    def get_rng_state(self, _device: object = None) -> Tensor:
        return torch.get_rng_state()

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def set_rng_state(self, state: Tensor, _device: object = None) -> None:
        torch.set_rng_state(state)


backend_registration._setup_privateuseone_for_python_backend("second", Module())


class There(Tensor):
    """A tensor on the second device; `inner` is its memory."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> "There":
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=torch.device("second", 0), requires_grad=requires_grad,
        )  # fmt: skip
        made.inner = inner
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> "There":
        if id(self) not in memo:
            made = memo[id(self)] = There(self.inner.detach().clone(), self.requires_grad)
            made._is_param = getattr(self, "_is_param", False)
        return memo[id(self)]

    def tolist(self) -> Any:
        return self.inner.tolist()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation: computed in the inner memory where any operand or the wish is there."""
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    there = [t for t in tensors if isinstance(t, There)]
    here = [t for t in tensors if not isinstance(t, There) and t.dim()]
    moves = func in (aten._to_copy.default, aten.copy_.default)
    by_index = func in (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)
    if there and here and not moves and not by_index:
        raise RuntimeError(f"{func}: all tensors must be on one device, found second:0 and cpu")
    inner = tree_map(lambda t: t.inner if isinstance(t, There) else t, (args, kwargs))
    if func is aten.copy_.default:
        inner[0][0].copy_(inner[0][1])
        return args[0]
    if func is aten.histc.default:  # CUDA counts whole numbers as well
        inner = (inner[0][0].float(), *inner[0][1:]), inner[1]
    wish = kwargs.get("device")
    if wish is not None:
        inner[1]["device"] = torch.device("cpu")
    out = func(*inner[0], **inner[1])
    if wish is None and not there or wish is not None and torch.device(wish).type != "second":
        return out
    known = {id(t.inner): t for t in there}

    def placed(t: Any) -> Any:
        if not isinstance(t, Tensor):
            return t
        return known[id(t)] if id(t) in known else There(t)

    return tree_map(placed, out)


class SecondDevice(_python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def in_threads_too() -> None:
    """The forward passes that halt at each block run in threads, which begin without a mode, as
    transformers' loader would; and `torch.tensor` would ask the device itself for memory.
    """
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    ours, plain = gates.Pass.run, torch.tensor

    def run_there(self: gates.Pass) -> None:
        with SecondDevice():
            ours(self)

    def tensor(data: Any, *, device: Any = None, **rest: Any) -> Tensor:
        return plain(data, **rest) if device is None else plain(data, **rest).to(device)

    gates.Pass.run = run_there  # type: ignore[method-assign]
    torch.tensor = tensor


@torch.no_grad()
def answers(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    return getattr(out, "logits", out)


def cases() -> dict[str, Callable[[str], Tensor]]:
    """For each name what comes out, given the device on which the model is."""
    found: dict[str, Callable[[str], Tensor]] = {}

    def by_method(name: str, function: Any, signature: Any, device: str) -> Tensor:
        model = methods.model_for(name, 2)
        given = methods.given(name, signature, model)
        made = function(model.to(device), **given).model
        x = torch.ones(3, 64) if isinstance(model, nn.Sequential) else methods.IDS
        return answers(made, x.to(device))

    for name, function, signature in list(methods.found()):
        if name not in (*methods.SHARED, *methods.TRAINED):
            found[name] = lambda device, a=(name, function, signature): by_method(*a, device)

    ids = methods.IDS
    small = {"bits": 4, "group_size": 8}
    few: dict[str, Callable[[Any], Any]] = {
        "gptq": lambda m: gptq.quantize(m, ids, **small),
        "awq": lambda m: awq.quantize(m, ids, **small, alphas=(0.0, 0.5)),
        "wanda": lambda m: wanda.prune(m, ids, sparsity=0.5),
        "sparsegpt": lambda m: sparsegpt.prune(m, ids, sparsity=0.5),
    }

    def after(make: Callable[[Any], Any], net: Callable[[], Any]) -> Callable[[str], Tensor]:
        """The logits of the model that `make` makes of a net."""
        return lambda device: answers(make(net().to(device)).model, ids.to(device))

    for kind in KINDS:
        for name, make in few.items():
            found[f"{kind}, {name}"] = after(make, partial(tiny_models.model_of, kind, layers=2))
    for kind in ("gpt2", "opt"):
        found[f"{kind}, prune_mlp"] = after(
            lambda m: structured.prune_mlp(m, ids), partial(tiny_models.model_of, kind, layers=2)
        )

    def teacher(student: Any) -> Any:
        return methods.llama(4).to(student.device)

    trained: dict[str, Callable[[Any], Any]] = {
        "qat.quantize": lambda m: qat.quantize(m, ids, bits=4, group_size=16, steps=3),
        "recovery.train": lambda m: recovery.train(m, ids, steps=3, progress=False),
        "schedules.gradual": lambda m: schedules.gradual(m, ids, steps=6, progress=False),
        "learned_masks.prune": lambda m: learned_masks.prune(m, ids, steps=3),
        "on_policy.train": lambda m: on_policy.train(
            m, teacher(m), ids[:, :6], steps=2, tokens=8, share=1.0, divergence="reverse",
            progress=False,
        ),
    }  # fmt: skip
    for loss in trainer.NAMED:
        trained[f"distilled, {loss}"] = lambda m, loss=loss: trainer.train(
            m, teacher(m), ids, loss=loss, steps=3, progress=False
        )
    for name, make in trained.items():
        found[name] = after(make, partial(methods.llama, 2))

    found["speculative.sample"] = lambda device: speculative.sample(
        methods.llama(2).to(device), ids[:, :4], new_tokens=4
    ).float()
    found["depth.exits"] = lambda device: depth.exits(
        methods.llama(2).to(device), ids, 0.0125
    ).float()
    found["sensitivity.streams"] = lambda device: torch.stack(
        sensitivity.streams(methods.llama(2).to(device), ids)
    )
    found["kv_cache.divergences"] = lambda device: kv_cache.divergences(
        methods.llama(2).to(device), ids, bits=2, group=4, window=4, chunk=4
    )[0]

    def divergence(device: str) -> Tensor:
        net = methods.llama(2).to(device)
        return by_window.kl_by_window(
            evaluation.predictions(net, ids), rtn.quantize(net, bits=2, group_size=16).model, ids
        )

    def kept(device: str) -> Tensor:
        """A file that was written from there."""
        with tempfile.TemporaryDirectory() as folder:
            gptq.quantize(methods.llama(2).to(device), ids, **small).save(f"{folder}/made")
            return loaded(f"{folder}/made")

    def streamed(device: str) -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            methods.llama(2).save_pretrained(f"{folder}/model")
            streaming.compress(
                f"{folder}/model", gptq.quantize, ids, out=f"{folder}/made", device=device, **small
            )
            return loaded(f"{folder}/made")

    def loaded(folder: str) -> Tensor:
        with _python_dispatch._disable_current_modes():
            return answers(compressed.load(Path(folder)), ids)

    return found | {
        "kl_by_window": divergence,
        "saved": kept,
        "streamed": streamed,
        "mixed": lambda device: torch.ones(2, device=device) + torch.ones(2),
    }


def compared(make: Callable[[str], Tensor]) -> float | str:
    """The largest difference between what comes out there and here, over the largest number; or
    what went wrong there.
    """
    torch.manual_seed(0)
    want = make("cpu")
    torch.manual_seed(0)
    try:
        with SecondDevice():
            got = make("second")
        return float((got.cpu() - want).abs().max() / want.abs().max())
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"


def main() -> None:
    warnings.simplefilter("ignore")
    in_threads_too()
    chosen = sys.argv[1:]
    json.dump({
        name: compared(make) for name, make in cases().items() if not chosen or name in chosen
    }, sys.stdout, indent=1)  # fmt: skip


if __name__ == "__main__":
    main()
