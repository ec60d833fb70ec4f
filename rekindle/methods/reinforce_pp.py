"""REINFORCE++: no critic and no groups: returns with a KL inside the reward, whitened over all tokens of the batch.

Hu et al., "REINFORCE++", arXiv 2501.03262. Differs from GRPO in the advantage: the baseline is the mean over the whole
batch, so that one response a prompt is enough, and each token is charged for leaving the reference.
"""

from __future__ import annotations

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.returns import KLInReward, ReturnToGo, WhitenTokens
from rekindle.methods import grpo

CARD = Card(
    title="REINFORCE++",
    summary="Returns-to-go with a k1 KL in the reward, whitened over all tokens of the batch; no groups.",
    authors="Hu, Liu, Xu, Shen",
    year=2025,
    arxiv="2501.03262",
    code="OpenRLHF, advantage_estimator reinforce; verl 0.9.1, reinforce_plus_plus",
    parent="grpo",
    essence=("prepare", "advantage", "modulate"),
    status="exact",
    deviations=(
        "The variance is divided by n (OpenRLHF); verl divides by n - 1: modulate.0.ddof=1.",
        "The reward is not discounted, nor clipped or normalised before the KL is charged.",
        "The dual clip is GRPO's 3 (verl).",
    ),
    version=1,
    sources={
        "prepare.0.coef": "OpenRLHF's example script: init_kl_coef 1e-4",
        "modulate.0.ddof": "OpenRLHF: variance over n",
        "modulate.0.eps": "verl 0.9.1: 1e-8, added (OpenRLHF: a floor)",
    },
    effects=(
        Effect(
            claim="It learns from one response a prompt, where GRPO has no advantage.",
            bed="digits",
            metric="reward",
            bed_options={"steps": 50, "group": 1, "prompts": 128},
        ),
    ),
)


def method() -> PolicyGradient:
    """REINFORCE++ as a record of parts."""
    return grpo.method().replace(
        prepare=(KLInReward(coef=1e-4, estimator="k1"),),
        advantage=ReturnToGo(),
        modulate=(WhitenTokens(),),
    )
