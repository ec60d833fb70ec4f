"""Advantages within strata of a prompt's group (Stratified GRPO, Zhu et al., arXiv 2510.06214).

Responses of one prompt that differ in kind compete with their own kind. That alone teaches nothing about which kind is
better, so it is blended with the group's advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rekindle.core.advantages import DDOF, require_finite, spread
from rekindle.core.groups import group_constant, group_count, group_mean, group_std
from rekindle.core.types import Batch, Metrics


@dataclass(frozen=True, kw_only=True)
class Stratified:
    """alpha * (score normalised in its stratum) + (1 - alpha) * (score normalised in its group).

    Strata are the values of the column `stratum`, inside one group. singleton: a response alone in its stratum gets
    "zero" there, or the group's value ("gn"). std, eps: as in `GroupNormalized`, for both. alpha 0 is GRPO; alpha 1
    has no gradient on whatever decides the stratum alone.
    """

    alpha: float = 0.6
    singleton: Literal["zero", "gn"] = "zero"
    std: Literal["sample", "population", "none"] = "sample"
    eps: float = 1e-6
    needs_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"the share of the strata in the advantage is from 0 to 1, not {self.alpha}")

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T]; 0 in a constant group."""
        require_finite(batch)
        own = strata(batch)
        within, group = self._normalised(batch, own), self._normalised(batch, batch.group)
        if self.singleton == "gn":
            within = torch.where(group_count(own, batch.graded) == 1, group, within)
        return spread(self.alpha * within + (1 - self.alpha) * group, batch)

    def report(self, batch: Batch) -> Metrics:
        """Strata a prompt, share of responses alone in theirs, and the strata's share of the variance of the score.

        A variance share near 0: the strata only add noise; near 1: little is left to learn within them.
        """
        own, live = strata(batch), batch.graded
        index = own.where(live, own.amax() + 1 if len(own) else 0)
        prompts, kinds = batch.group[live].unique().numel(), index[live].unique().numel()
        mean = group_mean(batch.score, batch.group, live)
        between = (group_mean(batch.score, own, live) - mean).square()
        total = (batch.score.where(live, 0.0) - mean.where(live, 0.0)).square()
        varied = live & ~group_constant(batch.score, batch.group, live)
        return {
            "strata/per_prompt": (float(kinds), float(prompts)),
            "strata/singletons": (float((group_count(own, live)[live] == 1).sum().item()), float(live.sum().item())),
            "strata/between": (between[varied].sum().item(), total[varied].sum().item()),
        }

    def _normalised(self, batch: Batch, group: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        centred = batch.score - group_mean(batch.score, group, batch.graded)
        if self.std != "none":
            centred = centred / (group_std(batch.score, group, batch.graded, DDOF[self.std]) + self.eps)
        return centred.where(batch.graded & ~group_constant(batch.score, group, batch.graded), 0.0)


def strata(batch: Batch) -> Int[Tensor, " B"]:
    """One id a pair of group and stratum."""
    pairs = torch.stack([batch.group, batch.column("stratum").to(batch.group.dtype)], dim=1)
    return torch.unique(pairs, dim=0, return_inverse=True)[1]
