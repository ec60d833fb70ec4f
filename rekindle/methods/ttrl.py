"""TTRL: no labels: the most frequent answer among many samples is the label, and agreement with it is the score.

Zuo et al., "TTRL: Test-Time Reinforcement Learning", arXiv 2504.16084. Differs from GRPO in the label, in voting with
more samples (64) than it trains on (32), and in a small KL to the start model.
"""

from __future__ import annotations

from rekindle.core.method import Card, Descent, Effect, PolicyGradient
from rekindle.core.schedules import Cosine, Warmup
from rekindle.core.terms import KLToReference
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import MajorityVote

CARD = Card(
    title="TTRL",
    summary="Label-free: agreement with the majority vote is the score.",
    authors="Zuo, Zhang, Sheng, Qu, Cui, ..., Ding, Zhou",
    year=2025,
    arxiv="2504.16084",
    code="PRIME-RL/TTRL",
    parent="grpo",
    essence=("collect.label",),
    status="exact",
    deviations=(
        "Answers come from the task's extractor; the official one also takes the last number of any text.",
        "Vote ties go to the smallest answer string; the official code takes the first seen.",
        "An empty answer never votes and is never a success.",
    ),
    version=1,
    sources={
        "collect.label.margin": "0: no abstention, as in the paper",
        "terms.0.coef": "official code: kl_loss_coef 0.001",
        "descent.lr": "official code: 5e-7, cosine, 3 % warm-up",
        "descent.lr.fraction": "official code: 3 % warm-up",
        "descent.lr.then.start": "official code: 5e-7",
        "descent.lr.then.end": "official code: cosine to 0",
        "descent.minibatches": "official code: 8 prompts a step, 1 prompt a minibatch",
    },
    effects=(
        Effect(claim="improves without a label", bed="ways", metric="accuracy", against=""),
        Effect(
            claim="and pays with coverage of held-out prompts", bed="ways", metric="pass@16", more=False, against=""
        ),
    ),
)


def method() -> PolicyGradient:
    """TTRL as a record of parts."""
    return grpo.method().replace(
        collect=Answers(label=MajorityVote()),
        terms=(KLToReference(coef=0.001, estimator="k3"),),
        descent=Descent(lr=Warmup(0.03, Cosine(5e-7, 0.0)), minibatches=8),
    )
