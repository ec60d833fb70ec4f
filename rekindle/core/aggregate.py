"""How tokens are averaged: weights [B T], made once for a whole minibatch, so that loss = (weights * per_token).sum().

Weights instead of means keep any split into micro-batches exact. They are 0 off the kept positions and do not see the
advantage, for an objective need not be linear in it. `kept` is already ANDed with `batch.live`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.groups import group_index, group_sum
from rekindle.core.types import Batch


@runtime_checkable
class Aggregate(Protocol):
    """(batch, kept) -> weights [B T]; all 0 where nothing is kept."""

    def __call__(self, batch: Batch, kept: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The weight of each token."""
        ...


@dataclass(frozen=True)
class TokenMean:
    """Every kept token counts the same: 1 / number of kept tokens (DAPO, Yu et al., arXiv 2503.14476)."""

    def __call__(self, batch: Batch, kept: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Weights that sum to 1."""
        return kept.to(batch.score.dtype) / kept.sum().clamp(min=1)


@dataclass(frozen=True)
class SequenceMean:
    """Every row with a kept token counts the same, whatever its length (the original GRPO, arXiv 2402.03300).

    Rows without a kept token are left out of the row count, as in verl and OpenRLHF; TRL counts them.
    """

    def __call__(self, batch: Batch, kept: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Weights that sum to 1."""
        tokens = kept.sum(dim=1, keepdim=True)
        rows = (tokens > 0).sum()
        return kept.to(batch.score.dtype) / (tokens * rows).clamp(min=1)


@dataclass(frozen=True)
class PromptMean:
    """Every prompt with a kept token counts the same, and within a prompt every kept token."""

    def __call__(self, batch: Batch, kept: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Weights that sum to 1."""
        weight = kept.to(batch.score.dtype)
        tokens = group_sum(weight.sum(dim=1), batch.group, kept.any(dim=1))
        prompts = group_index(batch.group[tokens > 0])[1]
        return weight / (tokens * prompts).clamp(min=1)[:, None]


@dataclass(frozen=True)
class FixedLength:
    """Every kept token weighs 1 / (live rows * length): no length bias (Dr. GRPO, Liu et al., arXiv 2503.20783).

    `length` is the response budget in tokens; None takes the one that the batch was sampled under (its column `limit`).
    verl's form of the same name does not divide by the number of rows.
    """

    length: int | None = None

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise ValueError(f"the fixed length of an aggregate is a number of tokens from 1 up, not {self.length}")

    def __call__(self, batch: Batch, kept: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Weights that sum to the mean kept share of `length`; a live row with no kept token still counts as a row."""
        length = batch.column("limit").amax() if self.length is None else self.length
        return kept.to(batch.score.dtype) / (batch.live_rows.sum() * length).clamp(min=1)
