"""NGRPO: a virtual response with the best reward joins each group's statistics, so that all wrong counts as bad.

Nan et al., "NGRPO: Negative-enhanced Group Relative Policy Optimization", arXiv 2509.18851. Differs from GRPO in mean
and standard deviation (of one more, virtual, score) and in a tight lower clip bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rekindle.core.advantages import require_finite, spread
from rekindle.core.groups import group_constant, group_count, group_max, group_sum
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.types import Batch
from rekindle.methods import grpo

CARD = Card(
    title="NGRPO",
    summary="A virtual best response in every group's statistics; groups that are all wrong push away.",
    authors="Nan, Chen, Huang, Lu, Wang, Xie, ...",
    year=2025,
    arxiv="2509.18851",
    code="nangongrui-ngr/NGRPO",
    parent="grpo",
    essence=("advantage", "objective"),
    status="exact",
    deviations=(
        "Groups that are all right stay in the batch with advantage 0; the official code filters them out.",
        "No setting equals GRPO: a virtual score is there or not.",
        "The dual clip of 3 is the parent's.",
    ),
    version=1,
    sources={
        "advantage.best": "paper: the virtual reward is the maximum, 1",
        "objective.low": "official code: clip_ratio_low 0.16",
        "objective.high": "official code: clip_ratio_high 0.24",
    },
    effects=(
        Effect(claim="prompts that start almost unsolved are learnt sooner", bed="spread", metric="accuracy"),
        Effect(
            claim="pressing on groups that can never be right costs entropy",
            bed="digits",
            metric="entropy",
            more=False,
            bed_options={"unsolvable": 0.6, "steps": 60},
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class VirtualBest:
    """(score - mean) / (std + eps), both of the group's scores and one virtual score `best`; std divides by G.

    That is the sample std of the G + 1. All wrong, G = 8: -1/3 each; all at `best`: exactly 0. The virtual response
    has no tokens.
    """

    best: float = 1.0
    eps: float = 1e-6
    needs_group: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T], 0 where a group's graded scores are all `best`."""
        require_finite(batch)
        of = (batch.group, batch.graded)
        count = group_count(*of)
        mean = (group_sum(batch.score, *of) + self.best) / (count + 1)
        squares = group_sum((batch.score - mean).square(), *of) + (self.best - mean).square()
        std = (squares / count.clamp(min=1)).sqrt()
        at_best = group_constant(batch.score, *of) & (group_max(batch.score, *of) == self.best)
        return spread(((batch.score - mean) / (std + self.eps)).masked_fill(at_best, 0.0), batch)


def method() -> PolicyGradient:
    """NGRPO as a record of parts."""
    return grpo.method().replace(advantage=VirtualBest(), objective=Clip(low=0.84, high=1.24, dual=3.0))
