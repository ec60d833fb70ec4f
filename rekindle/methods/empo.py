"""EMPO: no labels: the score of a response is the share of its group that gives an equivalent answer.

Zhang et al., "Right Question is Already Half the Answer: Fully Unsupervised LLM Reasoning Incentivization", arXiv
2504.05812. Differs from GRPO in the score (soft, where TTRL's is 0 or 1) and in its recipe's loss, that of GSPO.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from rekindle.core.aggregate import SequenceMean
from rekindle.core.method import Card, Descent, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import MajorityVote, Verdicts, classes
from rekindle.tokens.rollouts import Rollouts

CARD = Card(
    title="EMPO",
    summary="Label-free: the score is the share of the group whose answer is equivalent to one's own.",
    authors="Zhang, Wu, Zhang, Zhao, Bian",
    year=2025,
    arxiv="2504.05812",
    code="QingyangZhang/EMPO",
    parent="grpo",
    essence=("collect.label", "collect.shape"),
    status="exact",
    deviations=(
        "Answers are clustered by union-find, so that row order cannot matter; plain shares, no entropy threshold.",
        "A success, which is only reported, is membership in the largest cluster.",
    ),
    version=1,
    sources={
        "collect.label.margin": "0: no abstention",
        "objective.low": "7B recipe: GSPO clip 3e-4",
        "objective.high": "7B recipe: GSPO clip 4e-4",
        "descent.minibatches": "7B recipe: 256 prompts a step, 32 a minibatch",
    },
    effects=(
        Effect(
            claim="Without labels the shares of the clusters sharpen: entropy falls below the untrained start's.",
            bed="digits",
            metric="entropy",
            more=False,
            against="",
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class ClusterShare:
    """score = share of the group whose answer equals one's own in the task's sense; 0 without an answer.

    over: the share is of all "samples" of the group (EMPO), or of the "parsed" ones (SRT's soft form).
    """

    over: Literal["samples", "parsed"] = "samples"
    sets_score: ClassVar[bool] = True

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, run: Any) -> Verdicts:
        """Scores all rows; success stays."""
        score = torch.zeros_like(verdicts.score)
        for group in rollouts.group.unique():
            rows = (rollouts.group == group).nonzero()[:, 0]
            named = classes([verdicts.answer[i] for i in rows.tolist()], run.verifier)
            votes = Counter(name for name in named if name)
            total = len(named) if self.over == "samples" else votes.total()
            score[rows] = torch.tensor([votes[n] / total if n else 0.0 for n in named], dtype=score.dtype)
        return replace(verdicts, score=score)


def method() -> PolicyGradient:
    """EMPO as a record of parts."""
    return grpo.method().replace(
        collect=Answers(label=MajorityVote(by="equality"), shape=(ClusterShare(),)),
        objective=Clip(low=1 - 3e-4, high=1 + 4e-4, level="sequence"),
        aggregate=SequenceMean(),
        descent=Descent(minibatches=8),
    )
