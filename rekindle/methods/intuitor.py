"""INTUITOR: no labels: the score of a response is the policy's self-certainty, how far its tokens are from uniform.

Zhao et al., "Learning to Reason without External Rewards", arXiv 2505.19590. Differs from GRPO in the label (an answer
could be parsed, nothing more), in the score and in a small KL to the start model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from rekindle.core.masked import masked_mean
from rekindle.core.method import Card, Descent, Effect, PolicyGradient
from rekindle.core.terms import KLToReference
from rekindle.core.types import Batch, Need, Seen
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import Answered

CARD = Card(
    title="INTUITOR",
    summary="Label-free: the policy's self-certainty, KL(uniform || policy) a token, is the score.",
    authors="Zhao, Kang, Feng, Levine, Song",
    year=2025,
    arxiv="2505.19590",
    code="sunblaze-ucb/Intuitor",
    parent="grpo",
    essence=("collect.label", "prepare"),
    status="exact",
    deviations=(
        "Forbidden tokens (a logit of minus infinity) are left out of the mean over the vocabulary.",
        "Differences of 1e-3 between scores become advantages of 1; a larger advantage.eps puts a floor under the std.",
    ),
    version=1,
    sources={
        "terms.0.coef": "reference script: KL loss 0.005",
        "descent.lr": "reference script: 3e-6",
    },
    effects=(
        Effect(
            claim="Self-certainty as the only reward spends the entropy that GRPO keeps.",
            bed="digits",
            metric="entropy",
            more=False,
        ),
    ),
)


def certainty(seen: Seen) -> Tensor:
    """logsumexp(z) - mean(z) = KL(uniform || policy) + ln V of each action's distribution [N]; unbounded above."""
    logits = seen.logits["policy"]
    allowed = logits > -torch.inf
    mean = logits.where(allowed, 0.0).sum(dim=-1) / allowed.sum(dim=-1)
    return torch.logsumexp(logits, dim=-1) - mean


CERTAINTY_OLD = Need("certainty_old", certainty)


@dataclass(frozen=True)
class SelfCertainty:
    """score = mean over the response of each token's self-certainty, from the training code's own logits."""

    needs: ClassVar[tuple[Need, ...]] = (CERTAINTY_OLD,)
    sets_score: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the scores replaced."""
        return replace(batch, score=masked_mean(batch.column("certainty_old"), batch.live, dim=1))


def method() -> PolicyGradient:
    """INTUITOR as a record of parts."""
    return grpo.method().replace(
        collect=Answers(label=Answered()),
        prepare=(SelfCertainty(),),
        terms=(KLToReference(coef=0.005, estimator="k3"),),
        descent=Descent(lr=3e-6),
    )
