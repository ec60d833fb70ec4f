"""CISPO: the importance weight is clipped and detached, not the update: no token ever loses its gradient.

MiniMax, "MiniMax-M1", arXiv 2506.13585. Differs from GRPO in the objective: -sg(clip(ratio)) * A * log pi.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import ratio_metrics
from rekindle.core.ratios import token_ratio
from rekindle.core.types import Batch, Metrics, Now
from rekindle.methods import grpo

CARD = Card(
    title="CISPO",
    summary="Clips the detached importance weight instead of the update; every token keeps its gradient.",
    authors="MiniMax",
    year=2025,
    arxiv="2506.13585",
    code="trl loss_type cispo; verl 0.9.1, policy_loss cispo",
    parent="grpo",
    essence=("objective",),
    status="exact",
    deviations=(
        "Both bounds are ratios. TRL's epsilon_high is the upper bound itself (5.0), and it has no lower one.",
        "verl's are differences from 1: clip_ratio_low 10 (no lower bound), clip_ratio_high 0.2 is high=1.2 here.",
    ),
    version=1,
    sources={
        "objective.low": "trl and verl's example: no lower bound",
        "objective.high": "trl: epsilon_high 5.0, as ScaleRL (2510.13786) advises",
    },
    effects=(
        Effect(
            claim="Where a batch is reused four times, it learns faster than the clip.",
            bed="digits",
            metric="reward",
            bed_options={"reuse": 4, "steps": 20},
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class CappedWeight:
    """-sg(clip(r, low, high)) * A * logp: REINFORCE with a clipped importance weight. Bounds are ratios."""

    low: float = 0.0
    high: float = 5.0
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 <= self.high < math.inf:
            raise ValueError(f"the bounds of the weight are ratios around 1, not {self.low} and {self.high}: try 0, 5")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token [B T], 0 off live positions; metrics as sums and counts over live tokens)."""
        live, ratio = batch.live, token_ratio(now, batch).detach()
        weight = ratio.clamp(self.low, self.high) * batch.advantage.where(live, 0.0)
        return -weight * now.logp.where(live, 0.0), ratio_metrics(now, batch, ratio, self.low, self.high)


def method() -> PolicyGradient:
    """CISPO as a record of parts."""
    return grpo.method().replace(objective=CappedWeight(low=0.0, high=5.0))
