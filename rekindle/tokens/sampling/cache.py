"""Key-value caches whose rows can be dropped while decoding: the empty one, and one with the prompt in every row."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from rekindle.errors import InputError
from rekindle.tokens.heads import unwrapped
from rekindle.tokens.sampling.cascade import DECODE


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
        cache.batch_repeat_interleave(n)
        self.cache = cache
        self.seen = None if bool(seen.all()) else seen.repeat_interleave(n, 0)

    def keep(self, order: Int[Tensor, " K"]) -> None:
        """Row i becomes what row order[i] is; the others are gone."""
        self.cache.batch_select_indices(order)
        self.seen = None if self.seen is None else self.seen[order]

    def inputs(self) -> dict[str, Any]:
        """What the model needs besides the next token of each row; to be asked for once a token."""
        self.seen = None if self.seen is None else pad(self.seen, (0, 1), value=True)
        return {"past_key_values": self.cache, "attention_mask": self.seen}


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
