"""GPG: the plain policy gradient -A log pi, without ratio or clip, scaled up for the groups that teach nothing.

Chu et al., "GPG: A Simple and Strong Reinforcement Learning Baseline", arXiv 2504.02546. Differs from GRPO in the
advantage, alpha * (score - group mean) with alpha = groups / groups that are not constant, and in the objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rekindle.core.advantages import GroupNormalized
from rekindle.core.groups import group_index
from rekindle.core.likelihood import Likelihood
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.types import Batch
from rekindle.methods import grpo

CARD = Card(
    title="GPG",
    summary="Plain -A log pi; the advantage is scaled by groups over groups with a signal.",
    authors="Chu, Huang, Zhang, Wei, Wang",
    year=2025,
    arxiv="2504.02546",
    code="AMAP-ML/GPG",
    parent="grpo",
    essence=("advantage", "objective"),
    status="exact",
    deviations=(
        "alpha counts the groups of a step; the official code divides by the valid share + 1e-5.",
        "verl's alpha is another number, responses over responses with a score other than 0.",
        "The paper's resampling until 60 % of the groups are mixed is off; see DAPO's collect.select.",
    ),
    version=1,
    effects=(
        Effect(
            claim="It learns as much as GRPO, without ratio, clip or standard deviation.",
            bed="digits",
            metric="reward",
            bed_options={"steps": 100},
            within=0.05,
        ),
    ),
)


@dataclass(frozen=True)
class PerMixedGroup:
    """alpha * (score - mean of the group), alpha = groups / groups whose scores differ, over the whole batch."""

    needs_group: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T]; 0 in a constant group."""
        centred = GroupNormalized(std="none")(batch)
        mixed = group_index(batch.group[(centred != 0).any(dim=1)])[1]
        return centred * (group_index(batch.group[batch.live_rows])[1] / max(mixed, 1))


def method() -> PolicyGradient:
    """GPG as a record of parts."""
    return grpo.method().replace(advantage=PerMixedGroup(), objective=Likelihood())
