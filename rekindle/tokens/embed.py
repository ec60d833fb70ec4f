"""Texts as unit vectors, so that novelty is one minus a cosine: hashed n-grams or the start model's hidden states.

Stands in for EVOL-RL's Qwen3-Embedding-4B server (arXiv 2509.15194), whose failures fell back to random vectors; here a
failure raises. `HashedNgrams` is feature hashing (Weinberger et al., arXiv 0902.2206) without its random signs, so that
cosines stay in [0, 1].
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

NORM_FLOOR = 1e-8  # EVOL-RL official code

_ODD = 0x9E3779B1  # 2^32 over the golden ratio, odd: Knuth's multiplicative hashing
_PIECE = re.compile(r"[0-9]+|[^\W\d_]+|\S")


@runtime_checkable
class Embed(Protocol):
    """Anything that turns texts into unit rows."""

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "n D"]:
        """One float32 row a text, of norm 1; a text without content may give the zero row (similar to nothing)."""
        ...


def unit_rows(x: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
    """Rows divided by their norm, which is floored at 1e-8: a zero row stays zero."""
    return x / x.norm(dim=1, keepdim=True).clamp_min(NORM_FLOOR)


def pieces(text: str) -> list[str]:
    """The pieces that n-grams are made of: runs of digits, runs of letters, single other marks; white space parts.

    >>> pieces("5*12 = 60")
    ['5', '*', '12', '=', '60']
    """
    return _PIECE.findall(text)


@dataclass(frozen=True)
class HashedNgrams:
    """Counts of n-grams of pieces, hashed to `dim` buckets by CRC-32: equal in every process, nothing to download.

    orders: lengths of the n-grams. sublinear: 1 + log(count) in place of the count, so that repetition weighs less.
    Cosines lie in [0, 1]. A text without pieces gives the zero row.
    """

    dim: int = 512
    orders: tuple[int, ...] = (1, 2, 3)
    sublinear: bool = False

    def __post_init__(self) -> None:
        if self.dim < 1 or not self.orders or min(self.orders) < 1:
            raise ValueError(f"HashedNgrams needs dim >= 1 and orders >= 1, not {self.dim} and {self.orders}")

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "n D"]:
        """Unit rows [n dim], float32, of `texts`."""
        hashed = [[_crc(piece) for piece in pieces(text)] for text in texts]
        piece = torch.tensor([code for codes in hashed for code in codes], dtype=torch.long)
        row = torch.arange(len(texts)).repeat_interleave(torch.tensor([len(c) for c in hashed], dtype=torch.long))
        cells = torch.cat([self._cells(piece, row, order) for order in self.orders])
        counts = torch.bincount(cells, minlength=len(texts) * self.dim).reshape(len(texts), self.dim).float()
        if self.sublinear:
            counts = torch.where(counts > 0, 1 + counts.clamp_min(1).log(), 0.0)
        return unit_rows(counts)

    def _cells(self, piece: Int[Tensor, " N"], row: Int[Tensor, " N"], order: int) -> Int[Tensor, " M"]:
        """The cell row * dim + bucket of every n-gram of `order` consecutive pieces that lie in one text."""
        count = max(len(piece) - order + 1, 0)
        gram = torch.full((count,), order)
        for offset in range(order):
            gram = _mix(gram * _ODD + piece[offset : offset + count])
        inside = row[:count] == row[order - 1 : order - 1 + count]
        return (row[:count] * self.dim + gram % self.dim)[inside]


def _crc(piece: str) -> int:
    return zlib.crc32(piece.encode("utf-8", "surrogatepass"))  # a lone surrogate has bytes too


def _mix(x: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Spread int64 values over 31 bits, so that the products here and in `_cells` stay below 2^63."""
    x = (x ^ (x >> 32)) & 0x7FFFFFFF
    x = (x * 0x45D9F3B) & 0x7FFFFFFF  # the constant of a common 32-bit finaliser; odd, so nothing is lost
    return x ^ (x >> 16)


class PolicyStates:
    """Mean-pooled last hidden states of a frozen model over the tokens of a text, as unit rows.

    model: a transformers causal LM, the start of the run, or the start weights inside the one that trains; it is not
    changed (pass a copy of a model whose own weights train).
    limit: the last tokens of a text that are kept (EVOL-RL keeps 16,000). An empty text gives the zero row.
    """

    def __init__(self, model: Any, tokenizer: Any, batch: int = 32, limit: int = 16_000) -> None:
        # Imported here, since hashed n-grams should not wait for transformers.
        from rekindle.tokens.loader import context_length
        from rekindle.tokens.lora import at

        self.model, self.tokenizer, self.batch = model, tokenizer, batch
        with at(model) as whole:
            self.limit = min(limit, context_length(whole) or limit)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "n D"]:
        """Unit rows [n hidden], float32, on the CPU."""
        from rekindle.tokens.heads import unwrapped
        from rekindle.tokens.lora import at

        ids = [self.tokenizer(text, add_special_tokens=False).input_ids[-self.limit :] for text in texts]
        order = sorted((i for i in range(len(ids)) if ids[i]), key=lambda i: len(ids[i]))
        with at(self.model) as model:
            inner = unwrapped(model)
            out = torch.zeros(len(texts), inner.config.get_text_config().hidden_size)
            for start in range(0, len(order), self.batch):
                rows = order[start : start + self.batch]
                out[rows] = self._pooled(inner, [ids[i] for i in rows]).cpu()
        return unit_rows(out)

    def _pooled(self, inner: Any, ids: list[list[int]]) -> Float[Tensor, "n D"]:
        width, device = max(len(row) for row in ids), inner.device
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=device)
        mask = torch.arange(width, device=device) < torch.tensor([[len(row)] for row in ids], device=device)
        states = inner.base_model(input_ids=tokens, attention_mask=mask.long(), use_cache=False).last_hidden_state
        states = torch.where(mask[..., None], states.float(), 0.0)
        return states.sum(dim=1) / mask.sum(dim=1, keepdim=True)
