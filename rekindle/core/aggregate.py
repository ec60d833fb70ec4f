"""How tokens are averaged: weights [B T], made once for a whole minibatch, so that loss = (weights * per_token).sum().

Weights instead of means keep any split into micro-batches exact. They are 0 off the kept positions and do not see the
advantage, for an objective need not be linear in it. `kept` is already ANDed with `batch.live`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.groups import group_index, group_sum
from rekindle.core.ratios import MAX_LOG_RATIO
from rekindle.core.types import LOGP_OLD, Batch, Need


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


@dataclass(frozen=True, kw_only=True)
class SamplerWeighted:
    """Another aggregate's weights times w = pi_old / pi_sampled: the sampler's numbers differ from the trainer's.

    Truncated importance sampling: min(w, cap), or with `mask` w where w <= cap and 0 beyond (TRL, icepop). level:
    "token", or "sequence" (w of the whole row, log-ratios summed: verl's default, cap 2). log w is clamped to +-20.
    Replayed rows (column `drift`) are compared at the weights that sampled them.
    """

    inner: Aggregate = field(default_factory=TokenMean)
    level: Literal["token", "sequence"] = "sequence"
    cap: float = 2.0
    mask: bool = False
    refuses: ClassVar[tuple[str, ...]] = ("rows that nobody sampled",)
    needs: ClassVar[tuple[Need, ...]] = (LOGP_OLD,)

    def __post_init__(self) -> None:
        if not self.cap > 0:
            raise ValueError(f"the cap of the sampler weights is a ratio above 0, not {self.cap}: 2 is usual")

    def __call__(self, batch: Batch, kept: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """The inner weights, each times its truncated w."""
        live = batch.live
        log = batch.logp_old.where(live, 0.0) - batch.column("logp_sampled").where(live, 0.0)
        log = log - batch.column("drift").where(live, 0.0) if "drift" in batch.extra else log
        log = log.sum(dim=1, keepdim=True).expand_as(log) if self.level == "sequence" else log
        w = log.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        w = w.where(w <= self.cap, 0.0) if self.mask else w.clamp(max=self.cap)
        return self.inner(batch, kept) * w.to(batch.score.dtype)


@dataclass(frozen=True)
class FixedLength:
    """Every kept token weighs 1 / (live rows * length): no length bias (Dr. GRPO, Liu et al., arXiv 2503.20783).

    `length` is the response budget in tokens; None takes the one that the batch was sampled under (its column `limit`).
    verl 0.9.1's seq-mean-token-sum-norm is the same; earlier versions did not divide by the number of rows.
    """

    length: int | None = None

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise ValueError(f"the fixed length of an aggregate is a number of tokens from 1 up, not {self.length}")

    def __call__(self, batch: Batch, kept: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Weights that sum to the mean kept share of `length`; a live row with no kept token still counts as a row."""
        length = batch.column("limit").amax() if self.length is None else self.length
        return kept.to(batch.score.dtype) / (batch.live_rows.sum() * length).clamp(min=1)
