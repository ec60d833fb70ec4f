"""REINFORCE++-baseline: the group's mean is the baseline, and the whole batch's tokens give the scale.

Hu et al., "REINFORCE++", arXiv 2501.03262. Differs from GRPO in the advantage, score minus group mean whitened over all
tokens instead of divided by the group's standard deviation, and in a small k2 KL in the loss.
"""

from __future__ import annotations

from rekindle.core.advantages import BatchWhitened, GroupNormalized
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.terms import KLToReference
from rekindle.methods import grpo

CARD = Card(
    title="REINFORCE++-baseline",
    summary="Score minus group mean, whitened over all tokens of the batch; k2 KL in the loss.",
    authors="Hu, Liu, Xu, Shen",
    year=2025,
    arxiv="2501.03262",
    code="OpenRLHF, advantage_estimator reinforce_baseline; verl 0.9.1, reinforce_plus_plus_baseline",
    parent="grpo",
    essence=("advantage",),
    status="exact",
    deviations=(
        "The variance is divided by n (OpenRLHF); verl divides by n - 1: advantage.ddof=1.",
        "A group of one counts as 0 before the whitening; verl keeps its raw score.",
        "A constant group's zeros are whitened like any other value (both codes): they become (0 - mean) / std.",
        "The dual clip is GRPO's 3 (verl).",
    ),
    version=1,
    sources={
        "advantage.ddof": "OpenRLHF: variance over n",
        "advantage.eps": "verl 0.9.1: 1e-8, added (OpenRLHF: a floor)",
        "advantage.advantage.eps": "not used: there is no division in the group",
        "terms.0.coef": "OpenRLHF's example script: use_kl_loss, kl_estimator k2, init_kl_coef 1e-5",
    },
    effects=(
        Effect(
            claim="One scale for the whole batch learns as much as one a group.",
            bed="digits",
            metric="reward",
            bed_options={"steps": 100},
            within=0.05,
        ),
    ),
)


def method() -> PolicyGradient:
    """REINFORCE++-baseline as a record of parts."""
    advantage = BatchWhitened(advantage=GroupNormalized(std="none"), ddof=0, eps=1e-8)
    return grpo.method().replace(advantage=advantage, terms=(KLToReference(coef=1e-5, estimator="k2"),))
