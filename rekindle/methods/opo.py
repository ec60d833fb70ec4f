"""OPO: the baseline of least variance, the mean score weighted by response length, and exactly on-policy updates.

Hao et al., "On-Policy RL with Optimal Reward Baseline", arXiv 2505.23585. Differs from GRPO in the advantage, without a
standard deviation, and in one update a batch, so that the ratio is 1 and no clip acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rekindle.core.advantages import require_finite, spread
from rekindle.core.groups import group_constant, group_sum
from rekindle.core.method import Card, Descent, Effect, PolicyGradient
from rekindle.core.types import Batch
from rekindle.methods import grpo

CARD = Card(
    title="OPO",
    summary="Length-weighted group mean as the baseline; one exactly on-policy update a batch.",
    authors="Hao, Dong, Wu, Huang, Chi, Wei",
    year=2025,
    arxiv="2505.23585",
    code="verl 0.9.1, adv_estimator=opo",
    parent="grpo",
    essence=("advantage", "descent.minibatches"),
    status="exact",
    deviations=(
        "The objective stays GRPO's: at a ratio of 1 its gradient is that of -A log pi.",
        "A group of one gives advantage 0; verl keeps the raw score.",
    ),
    version=1,
    sources={"descent.minibatches": "paper: exactly on-policy, one update a batch"},
    effects=(
        Effect(
            claim="One exactly on-policy update a batch keeps more entropy than four.",
            bed="digits",
            metric="entropy",
            options={"descent.minibatches": 1},
            bed_options={"steps": 100},
        ),
        Effect(
            claim="Where both are exactly on policy, it learns faster than GRPO.",
            bed="digits",
            metric="reward",
            options={"descent.minibatches": 1},
            against_options={"descent.minibatches": 1},
            bed_options={"steps": 100},
        ),
    ),
)


@dataclass(frozen=True)
class LengthWeightedBaseline:
    """score - sum(L * score) / sum(L) over the group, L the number of live tokens of a row."""

    needs_group: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T]; 0 in a constant group. Weighted by length they sum to 0 in a group."""
        require_finite(batch)
        rows, length = batch.live_rows, batch.live.sum(dim=1).to(batch.score.dtype)
        total = group_sum(length * batch.score.where(rows, 0.0), batch.group, rows)
        baseline = total / group_sum(length, batch.group, rows).clamp(min=1)
        varied = ~group_constant(batch.score, batch.group, rows)
        return spread((batch.score - baseline).where(varied, 0.0), batch)


def method() -> PolicyGradient:
    """OPO as a record of parts."""
    return grpo.method().replace(advantage=LengthWeightedBaseline(), descent=Descent(epochs=1, minibatches=1))
