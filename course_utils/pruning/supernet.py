"""One set of weights that holds many smaller models (slimmable networks: Yu et al., 2019;
once-for-all: Cai et al., 2020).

A subnet runs some blocks of a causal language model, each with the first channels of its MLP and
the first key-value heads.
Its weights are slices of the whole model's: views, so that what trains a subnet trains all that
share its weights.
`extract` copies the slices into an ordinary smaller model, which needs nothing of this package.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_utils.models import walk
from course_utils.models.empty import compute_buffers, empty_like
from course_utils.quantization.compressed import Compressed

from . import anatomy, groups, structured, subnets
from .subnets import Subnet


class Supernet:
    """A causal language model and its subnets.

    `model` is a copy of the one that is given, and is what training changes.

    Raises CompressionError for a model whose blocks are not known (Llama, Qwen2, Mistral, OPT,
    GPT-2 and what is built like them), that is quantized or compressed already, or that holds NaN.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        anatomy.check_model(model)
        self.shape = subnets.shape_of(model)
        self.model: Any = copy.deepcopy(model).eval()
        self._skeletons: dict[Subnet, Any] = {}
        self._prefix = walk.place_of_blocks(self.model)

    @property
    def whole(self) -> Subnet:
        """The subnet that keeps everything."""
        return Subnet(tuple(range(self.shape.blocks)), self.shape.channels, self.shape.heads)

    def config(self, subnet: Subnet) -> Any:
        """The config of the smaller model.

        Raises CompressionError for a subnet that the model or its config does not allow.
        """
        subnets.check(self.shape, subnet)
        config = self.model.config
        if subnet.heads != self.shape.heads:
            count, size = subnet.heads * self.shape.ratio, self.shape.size
            config = structured._config_with_heads(
                config, count, subnet.heads, size, self.shape.ratio
            )
        fields = anatomy.said_of_blocks(config, subnet.blocks)
        return anatomy.smaller_config(
            config,
            num_hidden_layers=len(subnet.blocks),
            **{self.shape.parts.width: subnet.channels},
            **fields,
        )

    def slices(self, subnet: Subnet) -> dict[str, Tensor]:
        """The smaller model's parameters by its own names: views of the whole model's.

        Tied ones under each of their names.
        """
        found = {}
        for name, tensor in self.model.named_parameters(remove_duplicate=False):
            if not name.startswith(self._prefix):
                found[name] = tensor
                continue
            number, _, inner = name[len(self._prefix) :].partition(".")
            if int(number) in subnet.blocks:
                found[f"{self._prefix}{subnet.blocks.index(int(number))}.{inner}"] = self._cut(
                    int(number), inner, tensor, subnet
                )
        return found

    def _cut(self, block: int, inner: str, tensor: Tensor, subnet: Subnet) -> Tensor:
        parts, (path, _, kind) = self.shape.parts, inner.rpartition(".")
        rows = columns = None
        size = self.shape.size
        if path in parts.mlp_in:
            rows = subnet.channels
        elif path == parts.mlp_out:
            columns = subnet.channels
        elif len(parts.attention_in) == 3 and path == parts.attention_in[0]:
            rows = subnet.heads * self.shape.ratio * size
        elif len(parts.attention_in) == 3 and path in parts.attention_in[1:]:
            rows = subnet.heads * size
        elif path == parts.attention_out and self.shape.elastic_heads:
            columns = subnet.heads * self.shape.ratio * size
        if kind != "weight":
            return tensor if rows is None else tensor[:rows]
        # stored (in, out)
        turned = isinstance(walk.blocks(self.model)[block].get_submodule(path), Conv1D)
        if turned:
            rows, columns = columns, rows
        return tensor[slice(rows), slice(columns)] if tensor.dim() == 2 else tensor

    def logits(self, subnet: Subnet, ids: Tensor) -> Tensor:
        """What the smaller model answers, differentiable in the shared weights; it computes as
        little as the smaller model does.
        """
        if subnet not in self._skeletons:
            self._skeletons[subnet] = self._skeleton(subnet)
        answer: Any = functional_call(
            self._skeletons[subnet], self.slices(subnet), (),
            {"input_ids": ids, "use_cache": False}, tie_weights=False
        )  # fmt: skip
        return answer.logits

    def _skeleton(self, subnet: Subnet) -> Any:
        """The smaller model without weights: its modules and its buffers."""
        config = self.config(subnet)
        config._attn_implementation = self.model.config._attn_implementation
        skeleton = empty_like(type(self.model), config, self.model.dtype).eval()
        compute_buffers(skeleton)
        for path, module in skeleton.named_modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:  # what the file holds is the whole model's own
                    own = (
                        self.model.get_submodule(path)._buffers[name] if buffer.is_meta else buffer
                    )
                    module._buffers[name] = own.to(self.model.device)
        return skeleton

    @torch.no_grad()
    def masked_logits(self, subnet: Subnet, ids: Tensor) -> Tensor:
        """The same answers from the whole model: channels and heads outside the subnet are set to
        0, blocks outside it are left out.
        """
        subnets.check(self.shape, subnet)
        parts = self.shape.parts
        limits = {
            parts.mlp_out: subnet.channels,
            parts.attention_out: subnet.heads * self.shape.ratio * self.shape.size,
        }

        def zero(limit: int) -> Callable:
            def hook(_: Any, args: tuple) -> tuple:
                x = args[0].clone()
                x[..., limit:] = 0
                return (x, *args[1:])

            return hook

        handles = [
            block.get_submodule(name).register_forward_pre_hook(zero(limit))
            for block in walk.blocks(self.model) for name, limit in limits.items()
        ]  # fmt: skip
        try:
            with self._only(subnet.blocks):
                return self.model(input_ids=ids, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _only(self, blocks: tuple[int, ...]) -> Iterator[None]:
        inside = walk.blocks(self.model)
        path, _, name = self._prefix[:-1].rpartition(".")
        home, config = self.model.get_submodule(path), self.model.config
        count = config.num_hidden_layers
        setattr(home, name, nn.ModuleList(inside[i] for i in blocks))
        config.num_hidden_layers = len(blocks)
        try:
            yield
        finally:
            setattr(home, name, inside)
            config.num_hidden_layers = count

    def extract(self, subnet: Subnet) -> PreTrainedModel:
        """An ordinary smaller model with its own copies of the slices: it saves, loads and
        generates alone.
        """
        tensors = {name: tensor.detach().clone() for name, tensor in self.slices(subnet).items()}
        buffers = dict(self.model.named_buffers())
        stored = {
            name: tensor
            for name, tensor in self.model.state_dict().items()
            if name in buffers and not name.startswith(self._prefix)
        }
        return anatomy.rebuild(self.model, self.config(subnet), {**stored, **tensors})

    def parameters(self, subnet: Subnet) -> int:
        """How many numbers the smaller model has; what is tied counts once."""
        seen = {(t.data_ptr(), tuple(t.shape)): t.numel() for t in self.slices(subnet).values()}
        return sum(seen.values())

    @torch.no_grad()
    def order(self, calibration: Tensor, *, score: str = "energy") -> None:
        """Sort the channels and key-value heads of each block, the most important first, so that
        slices keep those.

        The answers stay.

        `score` as in `structured.prune_mlp`, on the inputs that the whole model sees. Raises
        CompressionError for empty data.
        """
        calibration = walk.check_calibration(calibration, self.model)
        parts, size, ratio = self.shape.parts, self.shape.size, self.shape.ratio
        for block, states in walk.through_blocks(self.model, calibration, "order"):
            _permute(block, states, parts.mlp_out, dict.fromkeys(parts.mlp_in, 1), 1, score)
            if self.shape.elastic_heads:
                q, *others = parts.attention_in
                widths = {q: ratio * size, **dict.fromkeys(others, size)}
                _permute(block, states, parts.attention_out, widths, ratio * size, score)


def _permute(
    block: nn.Module, states: walk.States, out: str, makers: dict[str, int], size: int, score: str
) -> None:
    """Bring the inputs of the layer `out`, in groups of `size`, into the order of their scores, and
    with them the rows that make them.
    """
    reader: Any = block.get_submodule(out)
    weight = walk.weight_of(reader).float()
    importance = groups.score(weight, structured.second_moment(block, states, reader), size, score)
    order = importance.argsort(descending=True, stable=True)
    walk.weight_of(reader).copy_(walk.weight_of(reader)[:, groups.members(order, size)])
    for name, width in makers.items():
        module: Any = block.get_submodule(name)
        rows = groups.members(order, width)
        walk.weight_of(module).copy_(walk.weight_of(module)[rows])
        if module.bias is not None:
            module.bias.copy_(module.bias[rows])


def compressed(net: Supernet, subnet: Subnet, *, seconds: float = 0.0) -> Compressed:
    """The extracted subnet as a `Compressed`, which tells what it is of what."""
    model = net.extract(subnet)
    settings = {
        "method": "supernet", "blocks": list(subnet.blocks), "channels": subnet.channels,
        "of": net.shape.channels, "heads": subnet.heads * net.shape.ratio,
        "parameters": net.parameters(subnet),
    }  # fmt: skip
    return Compressed(model, settings, seconds)
