"""Reinforce-Ada: prompts are sampled on until they show both right and wrong answers; the baseline is the whole pool's.

Xiong et al., "Reinforce-Ada: An Adaptive Sampling Framework under Non-linear RL Objectives", arXiv 2510.04996. Differs
from GRPO in how many samples a prompt gets, in which of them are trained on, in the baseline and by clip-higher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rekindle.core.advantages import Score
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.pools import HalfRight, OverPool, groups_of, joined, right_and_wrong
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.slots import Judge

BUDGET = {"budget": 12800, "steps": 400}
CARD = Card(
    title="Reinforce-Ada",
    summary="Samples a prompt until right and wrong answers are there; trains half and half of them.",
    authors="Xiong, Ye, Liao, Dong, Jiang, ...",
    year=2025,
    arxiv="2510.04996",
    code="RLHFlow/Reinforce-Ada",
    parent="grpo",
    essence=("collect.draw", "collect.shape", "collect.pick", "advantage"),
    status="close",
    deviations=(
        "A round draws twice the group (8 of 4 officially). One round of one draw is GRPO without std.",
        "The dual clip of 3 is the parent's.",
    ),
    version=1,
    sources={
        "collect.draw.rounds": "official script: 4 rounds",
        "collect.draw.draws": "official script: 8 samples a round, 4 kept",
        "objective.high": "official script: 0.28",
    },
    effects=(
        Effect(claim="more is right after as many steps", bed="spread", metric="reward"),
        Effect(claim="and after as many responses", bed="spread", metric="reward", bed_options=BUDGET),
    ),
)


@dataclass(frozen=True, kw_only=True)
class UntilBoth:
    """Up to `rounds` rounds of `draws` times the group's samples for prompts that are not done.

    until: "balanced" is done at half a group of right answers and half of wrong ones; "positive" at one right answer.
    """

    rounds: int = 4
    draws: int = 2
    until: Literal["balanced", "positive"] = "balanced"

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.draws < 1:
            raise ValueError(f"sampling takes at least one round of one draw, not {self.rounds} of {self.draws}")

    def __call__(self, run: Any, examples: Sequence[Example], judge: Judge) -> Rollouts:
        """All samples; those of a prompt's later draws are in the group of its first."""
        pool = run.sample(examples)
        group, active = groups_of(pool), list(range(len(examples)))
        for draw in range(1, self.rounds * self.draws + 1):
            if draw % self.draws == 0:  # a round is over
                verdicts = judge(pool)
                active = [i for i in active if not self.done(pool, verdicts, group[i], run.group_size)]
            if not active or draw == self.rounds * self.draws:
                return pool
            pool = joined(pool, run.sample([examples[i] for i in active]), [group[i] for i in active])
        return pool

    def done(self, pool: Rollouts, verdicts: Verdicts, group: int, size: int) -> bool:
        """Whether a prompt needs no more samples; one whose reference cannot be graded needs none."""
        right, wrong = (len(rows) for rows in right_and_wrong(pool, verdicts, group))
        enough = right >= 1 if self.until == "positive" else min(right, wrong) >= max(1, size // 2)
        return enough or right + wrong == 0


def method() -> PolicyGradient:
    """Reinforce-Ada as a record of parts."""
    collect = Answers(draw=UntilBoth(), shape=(OverPool(),), pick=HalfRight())
    return grpo.method().replace(collect=collect, advantage=Score(), objective=Clip(high=1.28, dual=3.0))
