"""SRT: no labels: agreement with the majority of the parsed answers is the score, and a weak majority labels nothing.

Shafayat et al., "Can Large Reasoning Models Self-Train?", arXiv 2505.21444. Differs from TTRL in the denominator (only
parsed answers vote), in a threshold on the majority's share, in a soft form, and in the loss, RLOO's without a KL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rekindle.core.groups import group_count, group_sum
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import rloo
from rekindle.methods.empo import ClusterShare
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import MajorityVote, Verdicts
from rekindle.tokens.rollouts import Rollouts

CARD = Card(
    title="SRT",
    summary="Label-free: agreement with a majority that holds a large enough share of the parsed answers.",
    authors="Shafayat, Tajwar, Salakhutdinov, Schneider, Zanette",
    year=2025,
    arxiv="2505.21444",
    code="tajwarfahim/srt",
    parent="rloo",
    essence=("collect.label", "collect.shape"),
    status="exact",
    deviations=(
        "The curriculum that keeps the prompts with the largest majorities is left out (off in the official script).",
        "Mixing labelled with unlabelled prompts is left out; vote ties go to the smallest answer string.",
    ),
    version=1,
    sources={
        "collect.label.margin": "0: the threshold on the share abstains",
        "collect.shape.0.threshold": "official script: self_consistency_threshold 0.0",
        "descent.minibatches": "official script: 16 prompts a step, 16 a minibatch",
    },
    effects=(
        Effect(
            claim="The majority as its own teacher sharpens: entropy falls below that of RLOO with labels.",
            bed="digits",
            metric="entropy",
            more=False,
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class SelfConsistency:
    """score = 1 for the majority's answer, or with `soft` each answer's share of the parsed answers of the group.

    Where the majority's share is below `threshold` the group has no label: every row scores 0 and fails.
    """

    threshold: float = 0.0
    soft: bool = False
    sets_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"the threshold of a majority is a share from 0 to 1, not {self.threshold}")

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, run: Any) -> Verdicts:
        """Scores all rows."""
        parsed = verdicts.graded.new_tensor([bool(answer) for answer in verdicts.answer])
        agreed = group_sum(verdicts.success.double(), rollouts.group, parsed)
        sure = agreed >= self.threshold * group_count(rollouts.group, parsed)
        success = verdicts.success & sure
        score = ClusterShare(over="parsed")(rollouts, verdicts, run).score if self.soft else success.double()
        return replace(verdicts, success=success, score=score.where(sure, 0.0))


def method() -> PolicyGradient:
    """SRT as a record of parts, with hard scores."""
    parent = rloo.method()
    collect = Answers(label=MajorityVote(), shape=(SelfConsistency(),))
    return parent.replace(collect=collect, descent=replace(parent.descent, minibatches=1))
