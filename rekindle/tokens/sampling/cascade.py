"""Keys and values of a block in two parts: each prompt's once, for all its rows, and each row's own response.

Decoding many short rows on few cores is bound by memory traffic, and most of what a row attends to is its prompt. So
the rows of a prompt are queries of one matrix product ("cascade" attention), query heads that share a key-value head
likewise, and a row that ends costs a copy of one other row's response at most. Reached through transformers' extension
points: a cache layer, an attention function, and a keyword that models hand down to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache, DynamicLayer

from rekindle.tokens.sampling.growing import GrowingLayer, Rows

DECODE = "rekindle_decode"


class Unreached(Exception):
    """The model's attention does not get, or does not leave as they are, the things that `Cascade` needs."""


@dataclass(frozen=True, eq=False)
class Fold:
    """How rows x key-value heads go to prompts x heads x places in the group, and back; -inf where a prompt is padded.

    Groups are as long as the longest, so that a place can be empty: it repeats row 0, and nothing reads its result.
    """

    gather: Int[Tensor, " PKG"]
    scatter: Int[Tensor, " RK"]
    bias: Float[Tensor, "PK 1 L"]


class Cascade:
    """The live rows of a model that attends to the whole past. New prompts can join between any two tokens."""

    def __init__(self, cache: DynamicCache, slots: int, max_tokens: int, ragged: bool) -> None:
        """`cache` is empty. slots: most rows at a time. ragged: prompts may join later, so that lengths differ."""
        none = torch.zeros(0, dtype=torch.int64)
        self.rows = Rows(slots, max_tokens, None if ragged else 0, 1, none, none)
        self.layers = [GrowingLayer(self.rows) for _ in cache.layers]
        cache.layers[:] = self.layers
        self.cache = cache
        self.prompt = none
        self.seen = torch.zeros(0, 0, dtype=torch.bool)
        self._folds: dict[int, Fold] = {}
        self._masks: dict[int, Tensor] = {}

    def join(self, prefilled: DynamicCache, seen: Bool[Tensor, "P L"], n: int) -> None:
        """Adds prompts, left-padded where `seen` is False, with `n` rows each behind the rows that are there."""
        width, old = max(seen.shape[1], self.seen.shape[1]), self.seen.to(seen.device)
        for layer, new in zip(self.layers, prefilled.layers, strict=True):
            assert isinstance(new, DynamicLayer) and new.keys is not None and new.values is not None
            layer.join(new.keys, new.values, width)
        pad = torch.nn.functional.pad
        self.seen = torch.cat([pad(part, (width - part.shape[1], 0)) for part in (old, seen)])
        fresh = torch.arange(len(old), len(self.seen), device=seen.device).repeat_interleave(n)
        self.prompt = torch.cat((self.prompt.to(seen.device), fresh))
        self.rows.length = torch.cat((self.rows.length.to(seen.device), torch.zeros_like(fresh)))
        self._changed()

    def keep(self, order: Int[Tensor, " K"]) -> None:
        """Row i becomes what row order[i] is; the others are gone, and prompts without rows with them."""
        moved = (order != torch.arange(len(order), device=order.device)).nonzero()[:, 0]
        if len(moved):
            for layer in self.layers:
                layer.move(order[moved], moved)
        self.prompt, self.rows.length = self.prompt[order], self.rows.length[order]
        wanted = torch.bincount(self.prompt, minlength=len(self.seen)) > 0
        if not bool(wanted.all()):
            kept = wanted.nonzero()[:, 0]
            self.seen = self.seen[kept]
            first = int((self.seen.any(0).cumsum(0) == 0).sum())
            self.seen = self.seen[:, first:]
            self.prompt = (wanted.cumsum(0) - 1)[self.prompt]
            for layer in self.layers:
                layer.keep_prompts(kept, first)
        self._changed()

    def _changed(self) -> None:
        self.rows.index = torch.arange(len(self.prompt), device=self.prompt.device)
        self._folds.clear()

    def inputs(self) -> dict[str, Any]:
        """What the model needs besides the next token of each row; to be asked for once a token."""
        self.rows.longer()
        self._masks.clear()
        return {"past_key_values": self.cache, "cascade": self}

    def attend(self, query: Float[Tensor, "R Q 1 D"], scaling: float) -> Float[Tensor, "R 1 Q E"]:
        """The new tokens' attention to prompts and responses: one softmax over both."""
        layer = self.rows.latest
        assert layer is not None and layer.keys is not None and layer.values is not None
        (rows, heads, _, size), (kv, last) = query.shape, layer.values.shape[1::2]
        shared = heads // kv
        folded = (query * scaling).to(layer.keys.dtype).reshape(rows * kv, shared * size)
        taken, weight = self._prompts(layer, folded, shared, self._fold(kv, layer.keys))
        folded, keys = folded.view(rows * kv, shared, size), layer.keys.flatten(0, 1).transpose(1, 2)
        if self.rows.level is None:
            score = _wide(torch.baddbmm(self._mask(kv, layer.keys), folded, keys))
        else:
            score = _wide(torch.bmm(folded, keys))
        score[:, :, 0] = weight
        share = torch.softmax(score, dim=-1).to(layer.values.dtype)
        mixed = torch.bmm(share, layer.values.flatten(0, 1))
        return mixed.addcmul_(share[:, :, :1], taken).view(rows, 1, heads, last)

    def _prompts(
        self, layer: GrowingLayer, folded: Float[Tensor, "RK SD"], shared: int, fold: Fold
    ) -> tuple[Float[Tensor, "RK S E"], Float[Tensor, "RK S"]]:
        """What each query takes from its prompt alone, and the log of the summed exponentials of its scores there."""
        keys, values = layer.prompt_keys.flatten(0, 1), layer.prompt_values.flatten(0, 1)
        grouped = folded.index_select(0, fold.gather).view(len(keys), -1, keys.shape[2])
        score = _wide(torch.baddbmm(fold.bias, grouped, keys.transpose(1, 2)))
        share = torch.softmax(score, dim=-1)
        weight = score.amax(dim=-1) - share.amax(dim=-1).log()  # the largest share is exp(largest score - weight)
        taken = torch.bmm(share.to(values.dtype), values).view(-1, shared * values.shape[2])
        back = taken.index_select(0, fold.scatter).view(len(folded), shared, values.shape[2])
        return back, weight.view(-1, shared).index_select(0, fold.scatter)

    def _fold(self, heads: int, like: Tensor) -> Fold:
        if heads not in self._folds:
            device, order = self.prompt.device, self.prompt.argsort(stable=True)
            count = torch.bincount(self.prompt, minlength=len(self.seen))
            place = torch.empty_like(order)  # in its group
            place[order] = self.rows.index - (count.cumsum(0) - count)[self.prompt[order]]
            group, head = int(count.max()), torch.arange(heads, device=device)
            seat = (self.prompt[:, None] * heads + head) * group + place[:, None]
            gather = torch.zeros(len(count) * heads * group, dtype=torch.int64, device=device)
            gather[seat] = self.rows.index[:, None] * heads + head
            bias = torch.zeros_like(self.seen, dtype=like.dtype).masked_fill_(~self.seen, -torch.inf)
            self._folds[heads] = Fold(gather, seat.flatten(), bias.repeat_interleave(heads, 0)[:, None])
        return self._folds[heads]

    def _mask(self, heads: int, like: Tensor) -> Float[Tensor, "RK 1 W"]:
        if heads not in self._masks:
            beyond = torch.arange(self.rows.width, device=like.device) > self.rows.length[:, None]
            bias = torch.zeros_like(beyond, dtype=like.dtype).masked_fill_(beyond, -torch.inf)
            self._masks[heads] = bias.repeat_interleave(heads, 0)[:, None]
        return self._masks[heads]


def _wide(score: Tensor) -> Tensor:
    return score if score.dtype == torch.float64 else score.float()


def decode_attention(
    module: nn.Module,
    query: Float[Tensor, "B Q S D"],
    key: Float[Tensor, "B H L D"],
    value: Float[Tensor, "B H L E"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    cascade: Cascade | None = None,
    **_unused: Any,
) -> tuple[Float[Tensor, "B S Q E"], None]:
    """Attention of one new token a row to its past, in transformers' calling convention.

    Raises `Unreached` where the model adds a mask or a bias of its own, or changes what the cache returned. It has no
    use for what else the models hand over (dropout is 0 while sampling).
    """
    latest = cascade.rows.latest if cascade is not None else None
    if cascade is None or latest is None or key is not latest.keys or value is not latest.values:
        raise Unreached(f"{type(module).__name__} does not hand on what it was given")
    if attention_mask is not None or position_bias is not None:
        raise Unreached(f"{type(module).__name__} has a mask or a bias of its own")
    return cascade.attend(query, query.shape[3] ** -0.5 if scaling is None else scaling), None


AttentionInterface.register(DECODE, decode_attention)
