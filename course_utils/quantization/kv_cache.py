"""A key-value cache in few bits (after KIVI, Liu et al., 2024).

Keys have channels that are large for every token, so they share a scale along the tokens: one for each channel of a
group of tokens. Values have no such channels, and attention mixes whole tokens, so each token has its own scale. The
newest tokens stay in full precision. Bytes of a token: 2 · layers · kv_heads · head_dim · (bits / 8), and the scales.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from course_utils.errors import CompressionError
from course_utils.kernels.packing import pack, unpack
from course_utils.models import walk

from .grids import Grid, check_bits, dequantize, is_half, make_grid
from .grids import quantize as to_codes


@dataclass(frozen=True)
class PackedStates:
    """Keys or values (batch, heads, tokens, width) with packed codes; `by_channel` says that channels share a scale."""

    packed: Tensor
    scale: Tensor
    zero: Tensor
    shape: tuple[int, ...]
    bits: int
    by_channel: bool

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.packed, self.scale, self.zero))

    def take(self, rows: Tensor) -> "PackedStates":
        """The states of some members of the batch."""
        per_member = len(self.packed) // self.shape[0]
        chosen = (rows[:, None] * per_member + torch.arange(per_member, device=rows.device)).flatten()
        shape = (len(rows), *self.shape[1:])
        return PackedStates(self.packed[chosen], self.scale[chosen], self.zero[chosen], shape, self.bits, self.by_channel)


def compress(states: Tensor, *, bits: int = 4, by_channel: bool) -> PackedStates:
    """Quantize states (batch, heads, tokens, width): asymmetric, a scale for each channel or for each token."""
    x = states.transpose(-1, -2) if by_channel else states
    rows = x.reshape(-1, x.shape[-1]).float()
    grid = make_grid(rows, bits=bits, granularity="per_channel")
    scale = grid.scale.half() if is_half(grid.scale) else grid.scale
    return PackedStates(
        pack(to_codes(rows, grid), bits), scale, grid.zero_point.to(torch.uint8), tuple(states.shape), bits, by_channel
    )


def restore(packed: PackedStates, dtype: torch.dtype = torch.float32) -> Tensor:
    """The states (batch, heads, tokens, width) that the codes stand for."""
    batch, heads, tokens, width = packed.shape
    columns = tokens if packed.by_channel else width
    index = torch.zeros(columns, dtype=torch.long, device=packed.packed.device)
    grid = Grid(packed.scale.float(), packed.zero.float(), index, packed.bits, False)
    rows = dequantize(unpack(packed.packed, packed.bits, columns), grid).to(dtype)
    if packed.by_channel:
        return rows.view(batch, heads, width, tokens).transpose(-1, -2)
    return rows.view(batch, heads, tokens, width)


class QuantizedCacheLayer(DynamicLayer):
    """One layer's cache. The newest `window` to `window + group − 1` tokens are in full precision, older ones packed."""

    is_croppable = False
    keys: Tensor  # type: ignore[assignment]
    values: Tensor  # type: ignore[assignment]

    def __init__(self, bits: int = 4, group: int = 32, window: int = 32, key_axis: str = "channel", value_axis: str = "token"):
        super().__init__()
        self.bits, self.group, self.window = bits, group, window
        self.by_channel = (key_axis == "channel", value_axis == "channel")
        self.old: list[tuple[PackedStates, PackedStates]] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append, and return all keys and values: old ones restored, new ones as they came."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = torch.cat([self.keys, key_states], dim=-2)
        self.values = torch.cat([self.values, value_states], dim=-2)
        parts = [(restore(k, self.dtype), restore(v, self.dtype)) for k, v in self.old] + [(self.keys, self.values)]
        keys, values = (torch.cat(states, dim=-2) for states in zip(*parts, strict=True))
        while self.keys.shape[-2] >= self.window + self.group:
            new = tuple(
                compress(states[..., : self.group, :], bits=self.bits, by_channel=by_channel)
                for states, by_channel in zip((self.keys, self.values), self.by_channel, strict=True)
            )
            self.old.append(new)
            self.keys, self.values = self.keys[..., self.group :, :], self.values[..., self.group :, :]
        return keys, values

    def get_seq_length(self) -> int:
        recent = self.keys.shape[-2] if self.is_initialized and self.keys.numel() else 0
        return recent + self.group * len(self.old)

    def reset(self) -> None:
        self.old, self.is_initialized = [], False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.batch_select_indices(torch.arange(self.keys.shape[0]).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.is_initialized:
            indices = indices.to(self.keys.device)
            self.old = [(k.take(indices), v.take(indices)) for k, v in self.old]
            self.keys, self.values = self.keys[indices], self.values[indices]

    def crop(self, tokens_to_remove: int) -> None:
        raise CompressionError("cache: packed tokens cannot be cut off again; use a fresh cache.")

    @property
    def bytes(self) -> int:
        recent = (self.keys, self.values) if self.is_initialized else ()
        return sum(k.bytes + v.bytes for k, v in self.old) + sum(t.numel() * t.element_size() for t in recent)


class QuantizedCache(Cache):
    """A cache for `generate(past_key_values=…)`; `bytes` is what it holds now."""

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers if isinstance(layer, QuantizedCacheLayer))


def new(
    model: PreTrainedModel, *, bits: int = 4, group: int = 32, window: int = 32, key_axis: str = "channel",
    value_axis: str = "token",
) -> QuantizedCache:  # fmt: skip
    """An empty quantized cache for a causal language model; use it for one batch of sequences.

    `group`: tokens that are packed together; `window`: newest tokens that always stay in full precision. `key_axis` and
    `value_axis` say which states share a scale: those of a 'channel' (of a group of tokens) or of a 'token'.
    Raises CompressionError for bad settings or a model with sliding-window or linear attention.
    """
    check_bits(bits)
    if group < 1 or window < 0:
        raise CompressionError(f"group={group}, window={window}: choose at least 1 and 0.")
    for name, axis in (("key_axis", key_axis), ("value_axis", value_axis)):
        if axis not in ("channel", "token"):
            raise CompressionError(f"{name}={axis!r}: choose 'channel' or 'token'.")
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise CompressionError(f"model: its layers use {', '.join(sorted(kinds))}; only full_attention is supported.")
    layers = [QuantizedCacheLayer(bits, group, window, key_axis, value_axis) for _ in range(config.num_hidden_layers)]
    return QuantizedCache(layers=layers)


@torch.no_grad()
def loss(model: PreTrainedModel, ids: Tensor, *, chunk: int = 32, batch: int = 16, **cache_settings) -> float:
    """Nats per token of ids (sequences, context) read `chunk` tokens at a time through a quantized cache.

    The tokens of a chunk see each other in full precision and the earlier ones as the cache holds them, as in
    generation. `cache_settings` as in `new`; bits=None reads through an ordinary cache.
    Raises CompressionError as `new`, and for ids without a next token or a chunk or batch below 1.
    """
    ids = walk.check_calibration(ids, model)
    if ids.shape[1] < 2 or chunk < 1 or batch < 1:
        raise CompressionError(f"ids, chunk={chunk}, batch={batch}: give sequences of at least 2 tokens, and at least 1 of each.")
    full = "bits" in cache_settings and cache_settings["bits"] is None
    total = 0.0
    for part in ids.split(batch):
        part = part.to(model.device)
        cache = Cache(layer_class_to_replicate=DynamicLayer) if full else new(model, **cache_settings)
        logits = [model(input_ids=p, past_key_values=cache, use_cache=True).logits for p in part.split(chunk, 1)]
        predicted = torch.cat(logits, 1)[:, :-1].flatten(0, 1).float()
        total += float(torch.nn.functional.cross_entropy(predicted, part[:, 1:].flatten(), reduction="sum"))
    return total / (ids.shape[0] * (ids.shape[1] - 1))
