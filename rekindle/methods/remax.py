"""ReMax: the baseline of a response is the score of the greedy response to the same prompt.

Li et al., "ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method", arXiv 2310.10505. Differs from
GRPO in the score, less that of one extra greedy response a prompt, and in taking it as the advantage: no group needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from rekindle.core.advantages import Score
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.errors import InputError
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import Label, Verdicts, Verified
from rekindle.tokens.rollouts import Rollouts

CARD = Card(
    title="ReMax",
    summary="Score minus the score of the greedy response to the prompt.",
    authors="Li, Xu, Zhang, Lin, Yu, Sun, Luo",
    year=2023,
    arxiv="2310.10505",
    code="liziniu/ReMax; verl 0.9.1, adv_estimator=remax",
    parent="grpo",
    essence=("collect.shape", "advantage"),
    status="exact",
    deviations=(
        "The paper has no ratio and charges a KL inside the reward; clip and token mean are GRPO's, as in verl.",
        "A prompt whose greedy response cannot be graded counts as not graded.",
    ),
    version=1,
    effects=(
        Effect(
            claim="It learns from one response a prompt, where GRPO has no advantage.",
            bed="digits",
            metric="reward",
            bed_options={"steps": 50, "group": 1, "prompts": 128},
        ),
    ),
)


@dataclass(frozen=True)
class GreedyBaseline:
    """score -= the label's score of the greedy response of the prompt. `label` is to be the collector's own."""

    label: Label = field(default_factory=Verified)
    sets_score: ClassVar[bool] = True
    draws_more: ClassVar[bool] = True
    refuses: ClassVar[tuple[str, ...]] = ("a vote", "a success that is no correctness")

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, run: Any) -> Verdicts:
        """One greedy response to each prompt, whatever the number of samples; InputError under a vote."""
        if verdicts.vote or self.label.votes:
            raise InputError("a greedy response alone cannot be voted on: set collect.label=verified for ReMax")
        first = {group: row for row, group in reversed(list(enumerate(rollouts.group.tolist())))}
        groups = sorted(first)
        said = self.label(run.greedy([rollouts.example[first[group]] for group in groups]), run.verifier)
        place = {group: i for i, group in enumerate(groups)}
        own = said.take(torch.tensor([place[group] for group in rollouts.group.tolist()]))
        return replace(verdicts, score=verdicts.score - own.score, graded=verdicts.graded & own.graded)


def method() -> PolicyGradient:
    """ReMax as a record of parts."""
    collect = Answers(label=Verified(), shape=(GreedyBaseline(),))
    return grpo.method().replace(collect=collect, advantage=Score())
