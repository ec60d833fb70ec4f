"""MaxRL: the advantage is divided by the group's mean score, so that the log of the success rate is what rises.

Tajwar et al., "Maximum Likelihood Reinforcement Learning", arXiv 2602.02710. Differs from GRPO in the advantage alone:
(score - mean) / mean: a prompt that succeeds one time in a hundred weighs as in maximum likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rekindle.core.advantages import require_finite, spread
from rekindle.core.groups import group_constant, group_mean
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.types import Batch
from rekindle.methods import grpo

CARD = Card(
    title="MaxRL",
    summary="Score minus mean over mean: maximum likelihood of success, hard prompts weigh more.",
    authors="Tajwar, Zeng, Zhou, Song, Arora, Jiang, Schneider, Salakhutdinov, Feng, Zanette",
    year=2026,
    arxiv="2602.02710",
    code=None,
    parent="grpo",
    essence=("advantage",),
    status="close",
    deviations=(
        "Aggregation and clip are GRPO's; the paper's own were not compared.",
        "A group whose mean score is not above 0 gives 0; the paper's scores are 0 or 1.",
    ),
    version=1,
    effects=(
        Effect(
            claim="It keeps more distinct right answers than GRPO.",
            bed="digits",
            metric="distinct",
            bed_options={"steps": 100},
        ),
        Effect(
            claim="A single sample is right as often as with GRPO.",
            bed="digits",
            metric="reward",
            bed_options={"steps": 100},
            within=0.05,
        ),
    ),
)


@dataclass(frozen=True)
class OverMean:
    """(score - mean of the group) / mean of the group, where the mean is above 0; else 0.

    For 0/1 scores the sum over the successes of a group alone, 1 / successes each, has the same expected gradient.
    """

    needs_group: ClassVar[bool] = True
    refuses: ClassVar[tuple[str, ...]] = ("scores below 0",)

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T]; 0 in a constant group."""
        require_finite(batch)
        mean = group_mean(batch.score, batch.group, batch.graded)
        teaches = ~group_constant(batch.score, batch.group, batch.graded) & (mean > 0)
        return spread(((batch.score - mean) / mean.where(teaches, 1.0)).where(teaches, 0.0), batch)


def method() -> PolicyGradient:
    """MaxRL as a record of parts."""
    return grpo.method().replace(advantage=OverMean())
