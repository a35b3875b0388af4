"""Walk a transformer block by block: find its linear layers, feed it, replace its parts."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError

# where each architecture keeps its list of blocks
BLOCK_PATHS = (
    "model.layers", "model.decoder.layers", "transformer.h", "gpt_neox.layers", "decoder.layers", "layers", "h",
    "encoder.layer", "bert.encoder.layer", "roberta.encoder.layer", "transformer.layer",
)  # fmt: skip


def blocks(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks in order. Raises CompressionError for an architecture that is not known."""
    for path in BLOCK_PATHS:
        try:
            found = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList) and len(found):
            return found
    raise CompressionError(
        f"model: no transformer blocks found in {type(model).__name__}; known places are {', '.join(BLOCK_PATHS)} "
        "(Llama, Qwen, Mistral, OPT, GPT-2, GPT-NeoX, BERT and their kin)."
    )


def linears(module: nn.Module) -> dict[str, nn.Module]:
    """Every nn.Linear and GPT-2 Conv1D below `module`, by name, in the order of definition."""
    return {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear | Conv1D)}


def compressible(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers that compression works on: those of the blocks, or of the whole module if it has none.

    A transformer's embeddings and output head are left out. Raises CompressionError if nothing is left.
    """
    if isinstance(model, PreTrainedModel):
        inside = {id(m) for m in linears(blocks(model)).values()}
        found = {name: m for name, m in linears(model).items() if id(m) in inside}
    else:
        found = linears(model)
    if not found:
        raise CompressionError("model: holds no nn.Linear or Conv1D to compress; was it compressed already?")
    return found


def check_finite(model: nn.Module) -> None:
    """Raises CompressionError, naming module and parameter, if one of the model's parameters holds NaN, infinity, or no values."""
    for path, parameter in model.named_parameters():
        if parameter.is_meta:
            raise CompressionError(f"{path}: is on the meta device, without values; load the weights before compressing the model.")
        if not torch.isfinite(parameter).all():
            module, _, name = path.rpartition(".")
            raise CompressionError(f"{module or 'model'}: {name}: contains NaN or infinity; repair it before compressing the model.")


def weight_of(module: nn.Module) -> Tensor:
    """The weight as (out_features, in_features); Conv1D stores it transposed."""
    weight = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight


def exact(x: Tensor) -> Tensor:
    """At least float32: half precision holds neither squares nor long sums."""
    return x if x.dtype == torch.float64 else x.float()


def as_precise_as(original: PreTrainedModel, model: nn.Module) -> None:
    """Give each parameter the dtype that it has in the original; those that are not there, the original's own."""
    dtypes = {name: parameter.dtype for name, parameter in original.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes.get(name, original.dtype))


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` where the submodule `name` is, and wherever else the model uses the same module."""
    if not name:
        raise CompressionError("model: is itself one linear layer; wrap it in nn.Sequential.")
    old = model.get_submodule(name)
    places = [(parent, child) for parent in model.modules() for child, module in parent._modules.items() if module is old]
    for parent, child in places:
        setattr(parent, child, new.train(model.training))


class _Captured(Exception):
    pass


def longest_context(model: nn.Module) -> int | None:
    """How many tokens the model can read at once, as far as its config says."""
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)


def check_context(name: str, tokens: int, model: nn.Module) -> None:
    longest = longest_context(model)
    if longest is not None and tokens > longest:
        raise CompressionError(f"{name}: sequences of {tokens} tokens, but the model reads at most {longest}; cut them shorter.")


def check_calibration(calibration: Tensor, model: nn.Module) -> Tensor:
    """Token ids (sequences, context) as integers of 64 bits.

    Raises CompressionError when there are none, or some that `model` has no row or no place for.
    """
    wrong = not isinstance(calibration, Tensor) or calibration.dim() != 2 or calibration.numel() == 0
    if wrong or calibration.is_floating_point():
        raise CompressionError("calibration: expected token ids of shape (sequences, context), at least one of each.")
    ids = calibration.long()
    if isinstance(model, PreTrainedModel):
        vocabulary = model.get_input_embeddings().num_embeddings
        if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
            raise CompressionError(f"calibration: holds token ids outside 0 to {vocabulary - 1}; use the model's own tokenizer.")
        check_context("calibration", ids.shape[1], model)
    return ids


@torch.no_grad()
def first_block_inputs(model: PreTrainedModel, ids: Tensor, batch: int = 8) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """For each batch of token ids: what enters the first block, (hidden states, keyword arguments)."""
    first = blocks(model)[0]
    caught: list[tuple[Tensor, dict[str, Any]]] = []

    def catch(module, args, kwargs):
        hidden = args[0] if args else kwargs.pop("hidden_states")
        caught.append((hidden, kwargs))
        raise _Captured

    for part in ids.split(batch):
        handle = first.register_forward_pre_hook(catch, with_kwargs=True)
        try:
            model(input_ids=part, use_cache=False)
        except _Captured:
            pass
        finally:
            handle.remove()  # before the caller runs the block
        yield caught.pop()


@torch.no_grad()
def run_block(block: nn.Module, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """One block's output hidden states."""
    out = block(hidden, **kwargs)
    return out[0] if isinstance(out, tuple) else out


States = list[tuple[Tensor, dict[str, Any]]]


@torch.no_grad()
def through_blocks(model: PreTrainedModel, ids: Tensor, title: str = "blocks") -> Iterator[tuple[nn.Module, States]]:
    """Each block in order, with the states that enter it: (block, [(hidden states, keyword arguments), …]).

    What the caller does to a block before asking for the next one is felt by the next: its states have gone
    through the changed block.
    """
    states = list(first_block_inputs(model, ids.to(model.device)))
    for block in tqdm(blocks(model), desc=title, unit="block", leave=False):
        yield block, states
        states = [(run_block(block, hidden, kwargs), kwargs) for hidden, kwargs in states]


@torch.no_grad()
def watch_inputs(block: nn.Module, states: States, see: Callable[[nn.Module, Tensor], None], layers=None) -> None:
    """Run the states through a block and call see(layer, x) for what enters its linear layers, x (tokens, in), float32.

    `layers`: only these modules; by default every linear layer of the block.
    """
    watched = list(linears(block).values()) if layers is None else list(layers)

    def hook(module, args):
        see(module, args[0].reshape(-1, args[0].shape[-1]).float())

    handles = [module.register_forward_pre_hook(hook) for module in watched]
    try:
        for hidden, kwargs in states:
            run_block(block, hidden, kwargs)
    finally:
        for handle in handles:
            handle.remove()
