"""DAPO: a wider upper clip, prompts that are all right or all wrong replaced, overlong responses penalised softly.

Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", arXiv 2503.14476. Differs from GRPO in the
clip bounds, in what is selected and in the score of responses near the length limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers, MixedGroups
from rekindle.tokens.labels import Verdicts, Verified
from rekindle.tokens.rollouts import Rollouts

CARD = Card(
    title="DAPO",
    summary="Clip-higher, dynamic sampling, soft overlong penalty, token mean.",
    authors="Yu, Zhang, Zhu, Yuan, Zuo, ...",
    year=2025,
    arxiv="2503.14476",
    code="verl-recipe/dapo",
    parent="grpo",
    essence=("collect.select", "collect.shape", "objective"),
    status="exact",
    deviations=("The cache of the overlong penalty is a share of the length limit (4096 of 20480 in the recipe).",),
    version=1,
    sources={
        "objective.high": "paper: clip-higher 0.28",
        "objective.dual": "recipe: clip_ratio_c 10",
        "collect.select.max_rounds": "recipe: max_num_gen_batches 10",
        "collect.shape.0.cache_share": "recipe: 4096 of 20480 tokens",
        "collect.shape.0.factor": "recipe: penalty_factor 1.0",
    },
    effects=(
        Effect(
            claim="half the prompts solved, equal steps: more is learned",
            bed="spread",
            metric="reward",
            bed_options={"solved": 0.5, "steps": 50},
        ),
        Effect(
            claim="half the prompts solved, equal responses: more is learned",
            bed="spread",
            metric="reward",
            bed_options={"solved": 0.5, "steps": 300, "budget": 6400},
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Overlong:
    """A soft penalty near the length limit: it starts at limit - cache tokens, cache = cache_share * limit."""

    cache_share: float = 0.2
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.cache_share <= 1:
            raise ValueError(f"the overlong penalty's cache is a share above 0 and up to 1, not {self.cache_share}")

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, run: Any) -> Verdicts:
        """score += min(-(length - (limit - cache)) / cache * factor, 0)."""
        cache = self.cache_share * run.max_tokens
        excess = rollouts.mask.sum(dim=1) - (run.max_tokens - cache)
        penalty = (-excess.double() / cache * self.factor).clamp(max=0.0)
        return replace(verdicts, score=verdicts.score + penalty)


def method() -> PolicyGradient:
    """DAPO as a record of parts."""
    return grpo.method().replace(
        collect=Answers(label=Verified(), shape=(Overlong(),), select=MixedGroups(max_rounds=10)),
        objective=Clip(low=0.8, high=1.28, dual=10.0),
    )
