"""Pairs of responses to one prompt: sums over rows, all pairs of a group, means over pairs, then over prompts.

Rows are told apart by group id and ordered by uid, so that the row order of a batch cannot matter. Only live rows
(graded, with at least one action) make pairs. An objective on pairs is not separable, for a row's loss depends on the
others; it gives every live token of a prompt the prompt's own loss (`of_prompts`), and `PairedPrompts` averages these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rekindle.core.aggregate import PromptMean
from rekindle.core.groups import group_index
from rekindle.core.types import Batch, Now

Which = Literal["all", "preferred"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """N pairs of row indices, the members of each in one group. group: that of every row of the batch."""

    first: Int[Tensor, " N"]
    second: Int[Tensor, " N"]
    group: Int[Tensor, " B"]

    def __len__(self) -> int:
        return self.first.shape[0]

    def keep(self, kept: Bool[Tensor, " N"]) -> Pairs:
        """Those pairs that are `kept`."""
        return Pairs(self.first[kept], self.second[kept], self.group)

    def count(self) -> Int[Tensor, " B"]:
        """Number of pairs of each row's prompt."""
        return self._sum(torch.ones_like(self.first))

    def prompt_mean(self, value: Float[Tensor, " N"]) -> Float[Tensor, " B"]:
        """Mean of `value` over the pairs of each row's prompt; 0 where there is none."""
        return self._sum(value) / self.count().clamp(min=1)

    def _sum(self, value: Tensor) -> Tensor:
        index, groups = group_index(self.group)
        return value.new_zeros(groups).index_add(0, index[self.first], value)[index]


def all_pairs(batch: Batch) -> Pairs:
    """Every pair of live rows of one group, the row with the smaller uid first."""
    return _pairs(batch, torch.zeros_like(batch.uid))


def ranked_pairs(batch: Batch) -> Pairs:
    """Every pair of live rows of one group, the row with the higher score first, of equal scores the smaller uid."""
    return _pairs(batch, batch.score)


def preferred_pairs(batch: Batch) -> Pairs:
    """The ranked pairs that state a preference: neither equal scores nor equal responses state one."""
    pairs = ranked_pairs(batch)
    said = batch.action.where(batch.live, -1)
    differ = (said[pairs.first] != said[pairs.second]).any(dim=1)
    return pairs.keep(differ & (batch.score[pairs.first] > batch.score[pairs.second]))


def _pairs(batch: Batch, rank: Tensor) -> Pairs:
    rows = batch.live_rows.nonzero()[:, 0]
    for key, down in ((batch.uid, False), (rank, True), (batch.group, False)):
        rows = rows[torch.argsort(key[rows], descending=down, stable=True)]
    group, place = batch.group[rows], torch.arange(len(rows), device=rows.device)
    start = torch.searchsorted(group, group)
    before = place - start
    second = place.repeat_interleave(before)
    turn = torch.arange(len(second), device=rows.device) - (before.cumsum(0) - before).repeat_interleave(before)
    return Pairs(rows[start[second] + turn], rows[second], batch.group)


@dataclass(frozen=True, kw_only=True)
class PairedPrompts:
    """Every prompt with a pair counts the same, and within a prompt every kept token; all 0 where no prompt has one.

    which: "preferred" counts only pairs that state a preference. Minibatches must hold whole prompts.
    """

    which: Which = "all"
    whole_prompts: ClassVar[bool] = True

    def __call__(self, batch: Batch, kept: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Weights that sum to 1 / (number of prompts with a pair) over each of these prompts."""
        pairs = preferred_pairs(batch) if self.which == "preferred" else all_pairs(batch)
        return PromptMean()(batch, kept & (pairs.count() > 0)[:, None])


def of_prompts(loss: Float[Tensor, " B"], batch: Batch) -> Float[Tensor, "B T"]:
    """The loss of each row's prompt on the row's live positions, 0 elsewhere: what an objective on pairs returns."""
    return loss[:, None].where(batch.live, 0.0)


def row_sum(x: Float[Tensor, "B T"], batch: Batch, mean: bool = False) -> Float[Tensor, " B"]:
    """Sum (or mean) of `x` over each row's live positions, in the score's precision; 0 for an empty row."""
    total = x.where(batch.live, 0.0).to(batch.score.dtype).sum(dim=1)
    return total / batch.live.sum(dim=1).clamp(min=1) if mean else total


def row_log_ratio(now: Now, batch: Batch, base: str, mean: bool = False) -> Float[Tensor, " B"]:
    """log p(response) now minus that in the column `base` of log-probs, summed over live tokens, or their mean."""
    return row_sum(now.logp, batch, mean) - row_sum(batch.column(base), batch, mean)
