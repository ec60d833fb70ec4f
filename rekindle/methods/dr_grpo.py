"""Dr. GRPO: GRPO without its two biases: no division by the group's standard deviation, none by the response's length.

Liu et al., "Understanding R1-Zero-Like Training", arXiv 2503.20783. Differs from GRPO in the advantage (score minus
group mean) and in the aggregation (sum over tokens / (rows * length limit)).
"""

from __future__ import annotations

from rekindle.core.advantages import GroupNormalized
from rekindle.core.aggregate import FixedLength
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.methods import grpo

CARD = Card(
    title="Dr. GRPO",
    summary="GRPO without the division by the group's std and by the response's length.",
    authors="Liu, Chen, Li, Qi, Pang, Du, Lee, Lin",
    year=2025,
    arxiv="2503.20783",
    code="sail-sg/understand-r1-zero; trl loss_type dr_grpo",
    parent="grpo",
    essence=("advantage", "aggregate"),
    status="exact",
    deviations=("The denominator counts graded rows; rows outside loss and statistics do not dilute it.",),
    version=1,
    sources={
        "advantage.eps": "not used: there is no division",
        "aggregate.length": "none: the length limit of the run, as in trl's dr_grpo",
        "objective.dual": "none: the paper has no dual clip",
    },
    effects=(
        Effect(claim="learns as much as GRPO without its divisions", bed="digits", metric="accuracy", within=0.01),
    ),
)


def method() -> PolicyGradient:
    """Dr. GRPO as a record of parts."""
    return grpo.method().replace(
        advantage=GroupNormalized(std="none"),
        objective=Clip(low=0.8, high=1.2),
        aggregate=FixedLength(),
    )
