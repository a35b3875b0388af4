"""Where a model keeps its transformer blocks, and which linear layers compression works on."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.errors import CompressionError

from .empty import drop
from .source import source_of

# where most architectures keep their list of blocks; others are searched for
BLOCK_PATHS = (
    "model.layers", "model.decoder.layers", "transformer.h", "gpt_neox.layers", "decoder.layers",
    "layers", "h", "encoder.layer", "bert.encoder.layer", "roberta.encoder.layer",
    "transformer.layer",
)  # fmt: skip


def place_of_blocks(model: nn.Module) -> str:
    """How the names of all tensors of the blocks begin: "model.layers.". Raises as `blocks`."""
    inside = blocks(model)
    return next(name for name, module in model.named_modules() if module is inside) + "."


def blocks(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks in order; of a model that reads pictures too, those of its language
    model.

    Known places first; otherwise the list of modules, not inside another such list, that holds the
    most parameters in linear layers. Raises CompressionError where there is none, and for
    encoder-decoder models, which have two stacks.
    """
    if (
        getattr(getattr(model, "config", None), "is_encoder_decoder", False)
        and hasattr(model, "get_encoder")
        and model.get_encoder() is not model
    ):
        raise CompressionError(
            f"model: {type(model).__name__} has an encoder and a decoder; "
            "compress one stack, such as model.get_encoder()."
        )
    for path in BLOCK_PATHS:
        try:
            found = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList) and _has_layers(found):
            return found
    lists = _outermost_lists(_language_part(model))
    if not lists:
        raise CompressionError(
            f"model: no transformer blocks found in {type(model).__name__}: "
            "it has no list of modules with linear layers. Known are Llama, Qwen, Mistral, OPT, "
            "GPT-2, GPT-NeoX, BERT and their kin."
        )
    return max(lists, key=lambda item: sum(t.numel() for t in item.state_dict().values()))


def _language_part(model: nn.Module) -> nn.Module:
    """The language model inside a model that has towers for pictures or sound,
    or the model itself.
    """
    for name in ("language_model", "text_model"):
        for path, module in model.named_modules():
            if path.rpartition(".")[2] == name and _outermost_lists(module):
                return module
    return model


def _outermost_lists(module: nn.Module) -> list[nn.ModuleList]:
    """Lists of modules with linear layers, those inside another list left out."""
    found: list[nn.ModuleList] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList) and _has_layers(child):
            found.append(child)
        else:
            found += _outermost_lists(child)
    return found


def _has_layers(module: nn.Module) -> bool:
    """Whether a linear layer is inside, compressed ones (QuantizedLinear and the like) included."""
    return any(
        type(m).__name__.endswith("Linear") or isinstance(m, Conv1D) for m in module.modules()
    )


def linears(module: nn.Module) -> dict[str, nn.Module]:
    """Every nn.Linear and GPT-2 Conv1D below `module`, by name, in the order of definition."""
    return {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear | Conv1D)}


def compressible(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers that compression works on: those of the blocks, or of the whole module if
    it has none.

    A transformer's embeddings and output head are left out. Raises CompressionError if nothing is
    left.
    """
    if isinstance(model, PreTrainedModel):
        inside = {id(m) for m in linears(blocks(model)).values()}
        found = {name: m for name, m in linears(model).items() if id(m) in inside}
    else:
        found = linears(model)
    if not found:
        raise CompressionError(
            "model: holds no nn.Linear or Conv1D to compress; was it compressed already?"
        )
    return found


def weight_of(module: nn.Module) -> Tensor:
    """The weight as (out_features, in_features); Conv1D stores it transposed."""
    weight: Any = module.weight
    return weight.detach().T if isinstance(module, Conv1D) else weight.detach()


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` where the submodule `name` is, and wherever else the model uses the same module.

    Of a model that is read block by block, the old one's numbers are let go at once.
    """
    if not name:
        raise CompressionError("model: is itself one linear layer; wrap it in nn.Sequential.")
    old = model.get_submodule(name)
    places = [
        (parent, child)
        for parent in model.modules()
        for child, module in parent._modules.items()
        if module is old
    ]
    for parent, child in places:
        setattr(parent, child, new.train(model.training))
    if source_of(model) is not None:
        drop(old)
