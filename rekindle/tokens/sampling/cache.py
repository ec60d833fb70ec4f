"""Key-value caches whose rows can be repeated and dropped, and attention for one new token a row.

Decoding many short rows on few cores is bound by memory traffic. Where every layer attends fully through PyTorch's
own attention ("sdpa"), keys and values therefore go into preallocated buffers, and query heads that share a
key-value head are folded into one matrix product instead of copying keys and values for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rekindle.errors import InputError
from rekindle.tokens.heads import unwrapped

_DECODE = "rekindle_decode"
_FIRST_ROOM = 64  # tokens beyond the prompt that a buffer starts with; it doubles from there


def empty_cache(model: nn.Module) -> DynamicCache:
    """An empty cache for `model`; `InputError` where the architecture needs a kind whose rows cannot be dropped."""
    inner = unwrapped(model)
    cache = DynamicCache(config=inner.config)
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        raise InputError(
            f"architecture '{type(inner).__name__}' keeps a state whose rows cannot be dropped while decoding; "
            "use a model that has attention layers only"
        )
    return cache


def is_plain(model: nn.Module) -> bool:
    """Whether every layer attends to the whole past through PyTorch's attention, so that `GrowingLayer` applies."""
    layers = empty_cache(model).layers
    return unwrapped(model).config._attn_implementation == "sdpa" and all(type(x) is DynamicLayer for x in layers)


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` (transformers' extension point) in buffers that double, not copied at every token."""

    def __init__(self, keys: Float[Tensor, "B H L D"], values: Float[Tensor, "B H L D"], room: int) -> None:
        """Starts from the prefilled `keys` and `values`, with room for `room` more tokens."""
        super().__init__()
        self.length = keys.shape[2]
        self._keys, self._values = _roomy(keys, room), _roomy(values, room)
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        keys, values = self._keys[:, :, : self.length], self._values[:, :, : self.length]
        self.keys, self.values = keys, values
        return keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends the new states and returns all of them (views of the buffers)."""
        new = key_states.shape[2]
        if self.length + new > self._keys.shape[2]:
            room = max(self.length, new)
            self._keys, self._values = (_roomy(states, room) for states in self._show())
        self._keys[:, :, self.length : self.length + new] = key_states
        self._values[:, :, self.length : self.length + new] = value_states
        self.length += new
        return self._show()

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self.length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the rows `indices`."""
        self._keys, self._values = self._keys.index_select(0, indices), self._values.index_select(0, indices)
        self._show()


def _roomy(states: Float[Tensor, "B H L D"], room: int) -> Float[Tensor, "B H M D"]:
    rows, heads, length, size = states.shape
    buffer = states.new_empty(rows, heads, length + room, size)
    buffer[:, :, :length] = states
    return buffer


def growing(cache: DynamicCache, max_tokens: int) -> DynamicCache:
    """The prefilled `cache` with `GrowingLayer`s, with room for `max_tokens` or a first part of them."""
    room = min(max_tokens, _FIRST_ROOM)
    for index, layer in enumerate(cache.layers):
        assert isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
        cache.layers[index] = GrowingLayer(layer.keys, layer.values, room)
    return cache


def decode_attention(
    module: nn.Module,
    query: Float[Tensor, "B Q S D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L E"],
    attention_mask: Bool[Tensor, "B 1 S L"] | None,
    scaling: float | None = None,
    position_bias: Float[Tensor, "..."] | None = None,
    **_unused: Any,
) -> tuple[Float[Tensor, "B S Q E"], None]:
    """Attention of one new token a row to its past, in transformers' calling convention.

    Same as PyTorch's, to rounding: query heads of one key-value head are rows of one product. Several new tokens, and
    attention with a position bias, go to transformers' own function. Like that one, it has no use for what else the
    models hand over (dropout is 0 while sampling).
    """
    if query.shape[2] != 1 or position_bias is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, position_bias=position_bias
        )
    rows, heads, _, size = query.shape
    folded = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    score = torch.matmul(folded * (size**-0.5 if scaling is None else scaling), key.transpose(2, 3))
    if attention_mask is not None:
        score = score.masked_fill(~attention_mask, -torch.inf)
    wide = torch.float64 if score.dtype == torch.float64 else torch.float32
    share = torch.softmax(score, dim=-1, dtype=wide).to(value.dtype)
    return torch.matmul(share, value).reshape(rows, 1, heads, value.shape[3]), None


AttentionInterface.register(_DECODE, decode_attention)


@contextmanager
def decoding(model: nn.Module, plain: bool) -> Iterator[None]:
    """Lets a `plain` model attend through `decode_attention` while inside; its own choice comes back afterwards."""
    config = unwrapped(model).config
    before = config._attn_implementation
    if plain:
        config._attn_implementation = _DECODE
    try:
        yield
    finally:
        config._attn_implementation = before
