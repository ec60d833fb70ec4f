"""RENT: no labels: the score of a response is how certain its tokens were, minus their mean entropy.

Prabhudesai et al., "Maximizing Confidence Alone Improves Reasoning", arXiv 2505.22660. Differs from GRPO in the label
(an answer could be parsed, nothing more), in the score and in a small KL to the start model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rekindle.core.masked import masked_mean
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.terms import KLToReference
from rekindle.core.types import ENTROPY_OLD, Batch, Need
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import Answered

CARD = Card(
    title="RENT",
    summary="Label-free: the lower the entropy of its tokens, the higher a response's score.",
    authors="Prabhudesai, Chen, Ippoliti, Fragkiadaki, Liu, Pathak",
    year=2025,
    arxiv="2505.22660",
    code="satrams/rent-rl",
    parent="grpo",
    essence=("collect.label", "prepare"),
    status="exact",
    deviations=(
        "The entropy is that of the training code at the weights that sampled, at the sampling temperature.",
        "Differences of 1e-3 between scores become advantages of 1; a larger advantage.eps puts a floor under the std.",
    ),
    version=1,
    sources={
        "prepare.0.unparsed": "official code: -7 where no answer can be parsed",
        "terms.0.coef": "official script: KL loss 0.001",
    },
    effects=(
        Effect(
            claim="Certainty as the only reward spends the entropy that GRPO keeps.",
            bed="digits",
            metric="entropy",
            more=False,
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class NegativeEntropy:
    """score = -mean over the response of the token entropy (nats); `unparsed` where there is no answer (None: no rule).

    `unparsed` is far below any entropy score: one such response decides the advantages of its group.
    """

    unparsed: float | None = -7.0
    needs: ClassVar[tuple[Need, ...]] = (ENTROPY_OLD,)
    sets_score: ClassVar[bool] = True
    refuses: ClassVar[tuple[str, ...]] = ("a success by correctness",)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the scores replaced."""
        score = -masked_mean(batch.column("entropy_old"), batch.live, dim=1)
        if self.unparsed is not None:
            score = score.where(batch.success, self.unparsed)
        return replace(batch, score=score)


def method() -> PolicyGradient:
    """RENT as a record of parts."""
    return grpo.method().replace(
        collect=Answers(label=Answered()),
        prepare=(NegativeEntropy(),),
        terms=(KLToReference(coef=0.001, estimator="k3"),),
    )
