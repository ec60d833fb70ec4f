"""Advantage estimators that need no critic: one number a row, spread over its live positions.

Statistics are over the *graded* rows of a group; an ungraded row gets 0. A group whose scores are all the same, or that
has one graded row, gets exactly 0: tested by max == min, for rounding leaves float32 rewards of 0.7 a false spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from rekindle.core.groups import group_constant, group_count, group_mean, group_std
from rekindle.core.masked import whiten
from rekindle.core.slots import Advantage
from rekindle.core.types import Batch

DDOF = {"sample": 1, "population": 0}


@dataclass(frozen=True, kw_only=True)
class GroupNormalized:
    """(score - mean of the group) / (std of the group + eps): GRPO (Shao et al., arXiv 2402.03300).

    std: "sample" divides by n - 1 (verl, TRL, OpenRLHF), "population" by n, "none" does not divide (Dr. GRPO).
    """

    std: Literal["sample", "population", "none"] = "sample"
    eps: float = 1e-6  # verl; TRL 1e-4, OpenRLHF 1e-9
    needs_group: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T]; 0 in a constant group."""
        require_finite(batch)
        centred = batch.score - group_mean(batch.score, batch.group, batch.graded)
        if self.std == "none":
            return _varied(centred, batch)
        return _varied(centred / (group_std(batch.score, batch.group, batch.graded, DDOF[self.std]) + self.eps), batch)


@dataclass(frozen=True)
class LeaveOneOut:
    """score - mean of the *other* scores of the group: RLOO (Ahmadian et al., arXiv 2402.14740)."""

    needs_group: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T]; 0 in a constant group. Equal to (score - mean) * G / (G - 1)."""
        require_finite(batch)
        count = group_count(batch.group, batch.graded)
        centred = batch.score - group_mean(batch.score, batch.group, batch.graded)
        return _varied(centred * count / (count - 1).clamp(min=1), batch)


@dataclass(frozen=True, kw_only=True)
class BatchWhitened:
    """Another part's advantages, whitened over all live *tokens* of the batch, so that long rows weigh more.

    With the default inner part this is REINFORCE++-baseline (Hu et al., arXiv 2501.03262). The inner zeros of constant
    groups take part like any other value and come out as (0 - mean) / std.
    """

    advantage: Advantage = GroupNormalized(std="none")
    ddof: int = 0  # OpenRLHF; verl 1
    eps: float = 1e-8  # added to the variance: verl
    needs_group: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T] with mean 0 and variance 1 over live positions; all 0 where every value is the same."""
        return whiten(self.advantage(batch), batch.live, ddof=self.ddof, eps=self.eps)


@dataclass(frozen=True)
class Score:
    """The score itself, no baseline: for methods whose score is relative already (a virtual or a greedy baseline)."""

    needs_group: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T]: the row's score on its live positions."""
        require_finite(batch)
        return spread(batch.score, batch)


def spread(row: Float[Tensor, " B"], batch: Batch) -> Float[Tensor, "B T"]:
    """One number a row on its live positions, 0 elsewhere."""
    return row[:, None].where(batch.live, 0.0)


def _varied(row: Float[Tensor, " B"], batch: Batch) -> Float[Tensor, "B T"]:
    varied = ~group_constant(batch.score, batch.group, batch.graded)
    return row[:, None].where(batch.live & varied[:, None], 0.0)


def require_finite(batch: Batch) -> None:
    """ValueError naming graded rows whose score is not finite."""
    bad = (~batch.score.isfinite() & batch.graded).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(f"the scores of graded rows {bad[:5]} are not finite: mark rows without a score as not graded")
