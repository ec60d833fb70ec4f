"""Key-value caches whose rows can be dropped while decoding: the empty one, and one with the prompt in every row."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import cache_utils
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from rekindle.errors import InputError
from rekindle.tokens.heads import unwrapped
from rekindle.tokens.sampling.cascade import DECODE

# Linear attention and short convolutions (Qwen3.5, LFM2): a state of fixed size a row. Older transformers lack them.
_STATES = (
    "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
)
_KNOWN = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    *(vars(cache_utils)[name] for name in _STATES if name in vars(cache_utils)),
)


def empty_cache(model: nn.Module) -> DynamicCache:
    """An empty cache for `model`; `InputError` where the architecture needs a kind whose rows cannot be dropped."""
    inner = unwrapped(model)
    cache = DynamicCache(config=inner.config)
    if any(type(layer) not in _KNOWN for layer in cache.layers):
        raise InputError(
            f"architecture '{type(inner).__name__}' keeps a state whose rows cannot be dropped while decoding; "
            "use a model of attention layers, linear or full"
        )
    return cache


def is_plain(model: nn.Module) -> bool:
    """Whether every layer attends to the whole past by PyTorch's attention and gets keywords: `Cascade` may apply."""
    inner, layers = unwrapped(model), empty_cache(model).layers
    takes = inspect.signature(inner.base_model.forward).parameters.values()
    return (
        inner.config._attn_implementation == "sdpa"
        and all(type(layer) is DynamicLayer for layer in layers)
        and any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes)
    )


class Repeated:
    """The general store of keys and values: the prompt's in every row, copied whenever rows are dropped."""

    def __init__(self, cache: DynamicCache, seen: Bool[Tensor, "P L"], n: int) -> None:
        """From a prefilled `cache` of left-padded prompts (`seen` False), `n` rows each."""
        self.cache = cache
        _select(cache, torch.arange(len(seen), device=seen.device).repeat_interleave(n))
        self.seen = None if bool(seen.all()) else seen.repeat_interleave(n, 0)

    def keep(self, order: Int[Tensor, " K"]) -> None:
        """Row i becomes what row order[i] is; the others are gone."""
        _select(self.cache, order)
        self.seen = None if self.seen is None else self.seen[order]

    def inputs(self) -> dict[str, Any]:
        """What the model needs besides the next token of each row; to be asked for once a token."""
        self.seen = None if self.seen is None else pad(self.seen, (0, 1), value=True)
        return {"past_key_values": self.cache, "attention_mask": self.seen}


def _select(cache: DynamicCache, rows: Int[Tensor, " K"]) -> None:
    """Row i of every layer becomes what row rows[i] is."""
    for layer in cache.layers:
        layer.reorder_cache(rows)  # pyright: ignore[reportArgumentType]  # any integers will do


@contextmanager
def decoding(model: nn.Module) -> Iterator[None]:
    """Lets `model` attend through `decode_attention` while inside; its own choice comes back afterwards."""
    config = unwrapped(model).config
    before = config._attn_implementation
    config._attn_implementation = DECODE
    try:
        yield
    finally:
        config._attn_implementation = before
