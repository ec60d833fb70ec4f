"""OTR: every token of a demonstration as a bandit: tokens are drawn there, and the demonstrated one is rewarded.

Ming et al., "One-Token Rollout: Guiding Supervised Fine-Tuning of LLMs with Policy Gradient", arXiv 2509.26313.
Differs from SFT in that objective: what the policy holds implausible gets a small push instead of a full one. With
kappa 1 it is DFT times 1 - beta.
"""

from __future__ import annotations

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.one_token import OneToken
from rekindle.methods import sft

SAMPLED = {"objective.estimator": "sampled"}
COLD = {"hint": -4.0}

CARD = Card(
    title="OTR",
    summary="One-token rollouts at every place of a demonstration: reward 1 for its token, a little less than 0 else.",
    authors="Ming, Wu, Hu, He, Yu",
    year=2025,
    arxiv="2509.26313",
    code=None,
    parent="sft",
    essence=("objective",),
    status="close",
    deviations=(
        "The mean is over tokens; the paper's, over the tokens of each response first, is aggregate=sequence_mean.",
        "Up to 4096 tokens of vocabulary the expectation over the draws is taken in their place.",
        "The value of beta is recalled, and known to be slightly negative; the learning rate is SFT's.",
    ),
    version=1,
    sources={
        "objective.draws": "paper: K = 256",
        "objective.kappa": "paper, by a summary of it: 1.3",
        "objective.beta": "recalled: negative and small; -0.1 is ours",
    },
    effects=(
        Effect(claim="is as accurate as DFT", bed="corrupted", metric="accuracy", against="dft", within=0.05),
        Effect(claim="forgets less of what was known than SFT", bed="corrupted", metric="retention"),
        Effect(claim="fits corrupted labels less than SFT", bed="corrupted", metric="corrupted", more=False),
        Effect(
            claim="draws do as well as their expectation",
            bed="corrupted",
            metric="accuracy",
            options=SAMPLED,
            against="otr",
            within=0.02,
        ),
        Effect(
            claim="learns slower than SFT from a cold start",
            bed="corrupted",
            metric="accuracy",
            more=False,
            bed_options=COLD,
        ),
    ),
)


def method() -> PolicyGradient:
    """OTR as a record of parts."""
    return sft.method().replace(objective=OneToken())
