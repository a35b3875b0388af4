"""A key-value cache in few bits.

KIVI (Liu et al., 2024): keys have channels that are large for every token, so they share a scale
along the tokens: one for each channel of a group of tokens. Values have no such channels, and
attention mixes whole tokens, so each token has its own scale. The newest tokens stay in full
precision, as does a number of first tokens, where attention may have its sinks. KVQuant (Hooper et
al., 2024): keys are quantized as they are before the rotary embedding, which turns channels into
each other (`before_rope`; see `rotary`). Of the rest of KVQuant (thresholds from calibration,
values that are not even, outliers kept apart) nothing is here. TurboQuant: each vector alone, see
`turboquant`.
Bytes of a token: 2 · layers · kv_heads · head_dim · (bits / 8), and the scales.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from course_utils.errors import CompressionError
from course_utils.kernels.packing import pack, unpack
from course_utils.models import walk

from . import rotary, turboquant
from .grids import Grid, check_bits, dequantize, is_half, make_grid
from .grids import quantize as to_codes

# the last: keys whose products are unbiased
METHODS = ("grid", "turboquant", "turboquant-unbiased")


@dataclass(frozen=True)
class PackedStates:
    """Keys or values (batch, heads, tokens, width) with packed codes; `by_channel` says that
    channels share a scale.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor
    shape: tuple[int, ...]
    bits: int
    by_channel: bool

    @property
    def bytes(self) -> int:
        """What the packed states take."""
        return sum(t.numel() * t.element_size() for t in (self.packed, self.scale, self.zero))

    def take(self, rows: Tensor) -> "PackedStates":
        """The states of some members of the batch."""
        per_member = len(self.packed) // self.shape[0]
        chosen = (
            rows[:, None] * per_member + torch.arange(per_member, device=rows.device)
        ).flatten()
        shape = (len(rows), *self.shape[1:])
        return PackedStates(
            self.packed[chosen],
            self.scale[chosen],
            self.zero[chosen],
            shape,
            self.bits,
            self.by_channel,
        )


def compress(states: Tensor, *, bits: int = 4, by_channel: bool) -> PackedStates:
    """Quantize states (batch, heads, tokens, width): asymmetric, a scale for each channel or for
    each token.
    """
    x = states.transpose(-1, -2) if by_channel else states
    rows = x.reshape(-1, x.shape[-1]).float()
    grid = make_grid(rows, bits=bits, granularity="per_channel")
    scale = grid.scale.half() if is_half(grid.scale) else grid.scale
    return PackedStates(
        pack(to_codes(rows, grid), bits),
        scale,
        grid.zero_point.to(torch.uint8),
        tuple(states.shape),
        bits,
        by_channel,
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
    """One layer's cache.

    The newest `window` to `window + group − 1` tokens and the `first` ones are in full precision,
    others packed.
    """

    is_croppable = False
    keys: Tensor  # type: ignore[assignment]
    values: Tensor  # type: ignore[assignment]

    def __init__(
        self, bits: int = 4, group: int = 32, window: int = 32, key_axis: str = "channel",
        value_axis: str = "token", *, first: int = 0, method: str = "grid",
        turn: Callable[..., Tensor] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.seed = seed
        self.bits, self.group, self.window, self.first, self.method, self.turn = (
            bits,
            group,
            window,
            first,
            method,
            turn,
        )
        self.by_channel = (key_axis == "channel", value_axis == "channel")
        self.old: list[tuple[Any, Any]] = []
        self.kept: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Append, and return all keys and values: old ones restored, first and new ones as they
        came.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.kept = None
        self.keys = torch.cat([self.keys, key_states], dim=-2)
        self.values = torch.cat([self.values, value_states], dim=-2)
        if self.first and self.kept is None and self.keys.shape[-2] >= self.first:
            self.kept = (self.keys[..., : self.first, :], self.values[..., : self.first, :])
            self.keys, self.values = (
                self.keys[..., self.first :, :],
                self.values[..., self.first :, :],
            )
        parts = [self.kept] if self.kept is not None else []
        parts += [
            (self._restored(k, i), _unpacked(v, self.dtype)) for i, (k, v) in enumerate(self.old)
        ] + [(self.keys, self.values)]
        keys, values = (torch.cat(states, dim=-2) for states in zip(*parts, strict=True))
        while self.keys.shape[-2] >= self.window + self.group and (
            self.kept is not None or not self.first
        ):
            self.old.append(
                self._packed(self.keys[..., : self.group, :], self.values[..., : self.group, :])
            )
            self.keys, self.values = (
                self.keys[..., self.group :, :],
                self.values[..., self.group :, :],
            )
        return keys, values

    def _packed(self, keys: Tensor, values: Tensor) -> tuple[Any, Any]:
        if self.turn is not None:
            keys = self.turn(keys, self.first + self.group * len(self.old), back=True)
        if self.method != "grid":
            unbiased, common = (
                self.method == "turboquant-unbiased",
                {"bits": self.bits, "seed": self.seed},
            )
            return turboquant.compress(keys, unbiased=unbiased, **common), turboquant.compress(
                values, **common
            )
        made = (
            compress(s, bits=self.bits, by_channel=c)
            for s, c in zip((keys, values), self.by_channel, strict=True)
        )
        return next(made), next(made)

    def _restored(self, keys: Any, index: int) -> Tensor:
        found = _unpacked(keys, self.dtype)
        return (
            found
            if self.turn is None
            else self.turn(found, self.first + self.group * index, back=False)
        )

    def get_seq_length(self) -> int:
        """Tokens that the layer holds, packed or not."""
        recent = self.keys.shape[-2] if self.is_initialized and self.keys.numel() else 0
        return recent + self.group * len(self.old) + (self.first if self.kept is not None else 0)

    def reset(self) -> None:
        """Forget everything."""
        self.old, self.kept, self.is_initialized = [], None, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The sequences `beam_idx`, as beam search asks."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each sequence `repeats` times."""
        self.batch_select_indices(torch.arange(self.keys.shape[0]).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """The sequences `indices`."""
        if self.is_initialized:
            indices = indices.to(self.keys.device)
            self.old = [(k.take(indices), v.take(indices)) for k, v in self.old]
            self.keys, self.values = self.keys[indices], self.values[indices]
            self.kept = (
                None if self.kept is None else (self.kept[0][indices], self.kept[1][indices])
            )

    def crop(self, tokens_to_remove: int) -> None:
        """Raises CompressionError: packed tokens stay."""
        raise CompressionError("cache: packed tokens cannot be cut off again; use a fresh cache.")

    @property
    def bytes(self) -> int:
        """What the layer's keys and values take."""
        recent = (self.keys, self.values, *(self.kept or ())) if self.is_initialized else ()
        return sum(k.bytes + v.bytes for k, v in self.old) + sum(
            t.numel() * t.element_size() for t in recent
        )


def _unpacked(states: Any, dtype: torch.dtype) -> Tensor:
    return (
        turboquant.restore(states, dtype)
        if isinstance(states, turboquant.PackedVectors)
        else restore(states, dtype)
    )


class QuantizedCache(Cache):
    """A cache for `generate(past_key_values=…)`; `bytes` is what it holds now."""

    @property
    def bytes(self) -> int:
        """What all keys and values take."""
        return sum(layer.bytes for layer in self.layers if isinstance(layer, QuantizedCacheLayer))

    @property
    def packed_bits(self) -> float:
        """Bits for each packed number, with scales, zero points and norms; NaN as long as nothing
        is packed.
        """
        packed = [
            s
            for layer in self.layers
            if isinstance(layer, QuantizedCacheLayer)
            for pair in layer.old
            for s in pair
        ]
        numbers = sum(torch.Size(s.shape).numel() for s in packed)
        return 8 * sum(s.bytes for s in packed) / numbers if numbers else float("nan")


def new(
    model: PreTrainedModel, *, bits: int = 4, group: int = 32, window: int = 32,
    key_axis: str = "channel", value_axis: str = "token", first: int = 0, method: str = "grid",
    before_rope: bool = False, seed: int = 0,
) -> QuantizedCache:  # fmt: skip
    """An empty quantized cache for a causal language model; use it for one batch of sequences.

    `group`: tokens that are packed together; `window`: newest tokens that always stay in full
    precision; `first`: first tokens that do. `key_axis` and `value_axis` say which states share a
    scale: those of a 'channel' (of a group of tokens) or of a 'token'. `method`: "grid", or
    "turboquant" or "turboquant-unbiased" (whose bits are those of codes, the sign of the residual
    included; the axes do not matter; `seed` of the rotation). `before_rope`: keys are turned back
    by their position before they are quantized.
    Raises CompressionError for bad settings, a model with sliding-window or linear attention, or
    `before_rope` on a model whose keys cannot be turned back.
    """
    check_bits(bits)
    if group < 1 or window < 0 or first < 0:
        raise CompressionError(
            f"group={group}, window={window}, first={first}: choose at least 1, 0 and 0."
        )
    if method not in METHODS:
        raise CompressionError(f"method={method!r}: choose one of {', '.join(METHODS)}.")
    for name, axis in (("key_axis", key_axis), ("value_axis", value_axis)):
        if axis not in ("channel", "token"):
            raise CompressionError(f"{name}={axis!r}: choose 'channel' or 'token'.")
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise CompressionError(
            f"model: its layers use {', '.join(sorted(kinds))}; only full_attention is supported."
        )
    turn = rotary.turner(model) if before_rope else None
    layers = [
        QuantizedCacheLayer(
            bits,
            group,
            window,
            key_axis,
            value_axis,
            first=first,
            method=method,
            turn=turn,
            seed=seed,
        )
        for _ in range(config.num_hidden_layers)
    ]
    return QuantizedCache(layers=layers)


def _read(
    model: PreTrainedModel, ids: Tensor, chunk: int, batch: int, settings: dict[str, Any]
) -> Iterator[tuple[Tensor, Tensor, Cache]]:
    """(ids, logits, cache) of each batch, read `chunk` tokens at a time; bits=None reads through an
    ordinary cache.
    """
    ids = walk.check_calibration(ids, model)
    if ids.shape[1] < 2 or chunk < 1 or batch < 1:
        raise CompressionError(
            f"ids, chunk={chunk}, batch={batch}: give sequences of at least 2 tokens, "
            "and at least 1 of each."
        )
    full = "bits" in settings and settings["bits"] is None
    for part in ids.split(batch):
        part = part.to(model.device)
        cache = Cache(layer_class_to_replicate=DynamicLayer) if full else new(model, **settings)
        yield (
            part,
            torch.cat(
                [
                    model(input_ids=p, past_key_values=cache, use_cache=True).logits
                    for p in part.split(chunk, 1)
                ],
                1,
            ),
            cache,
        )


@torch.no_grad()
def loss(
    model: PreTrainedModel, ids: Tensor, *, chunk: int = 32, batch: int = 16, **cache_settings
) -> float:
    """Nats per token of ids (sequences, context) read `chunk` tokens at a time through a quantized
    cache.

    The tokens of a chunk see each other in full precision and the earlier ones as the cache holds
    them, as in generation. `cache_settings` as in `new`; bits=None reads through an ordinary cache.
    Raises CompressionError as `new`, and for ids without a next token or a chunk or batch below 1.
    """
    total = 0.0
    for part, logits, _ in _read(model, ids, chunk, batch, cache_settings):
        predicted = logits[:, :-1].flatten(0, 1).float()
        total += float(
            torch.nn.functional.cross_entropy(predicted, part[:, 1:].flatten(), reduction="sum")
        )
    return total / (ids.shape[0] * (ids.shape[1] - 1))


@torch.no_grad()
def divergences(
    model: PreTrainedModel,
    ids: Tensor,
    *,
    chunk: int = 32,
    batch: int = 16,
    original: Tensor | None = None,
    **cache_settings,
) -> tuple[Tensor, float]:
    """(KL, bits): KL(full cache ‖ quantized cache) in nats at each token (sequences, context), read
    as in `loss`, and the cache's `packed_bits` at the end.

    `original`: log-probabilities (sequences, context, vocabulary) of the model with a full cache,
    as `evaluation.predictions` gives them; without it they are computed. Errors as `loss`.
    """
    found, bits = [], float("nan")
    if original is None:
        known: Iterator[Tensor] = (
            logits.float().log_softmax(-1)
            for _, logits, _ in _read(model, ids, chunk, batch, {"bits": None})
        )
    else:
        known = iter(original.split(batch))
    for exact, (_, logits, cache) in zip(
        known, _read(model, ids, chunk, batch, cache_settings), strict=True
    ):
        p, q = exact.to(logits.device), logits.float().log_softmax(-1)
        found.append(
            torch.where(p > -torch.inf, p.exp() * (p - q), 0.0).sum(-1, dtype=torch.float64).cpu()
        )
        bits = cache.packed_bits if isinstance(cache, QuantizedCache) else bits
    return torch.cat(found), bits
