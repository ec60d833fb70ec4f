"""Random reward, a control: the score is a coin toss, so that whatever improves is not taught by the answers.

Shao et al., "Spurious Rewards", arXiv 2506.10947. Differs from GRPO in the label and the score: neither reads the
answer. Whoever claims that a label-free method learns should beat this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.random import uniforms
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import Answered, Verdicts
from rekindle.tokens.rollouts import Rollouts

CARD = Card(
    title="Random reward (control)",
    summary="Control: the score is a coin toss; success is only that there is an answer.",
    authors="Shao, Li, Xin, Geng, Wang, ..., Zettlemoyer",
    year=2025,
    arxiv="2506.10947",
    code=None,
    parent="grpo",
    essence=("collect.label", "collect.shape"),
    status="exact",
    deviations=("Not for training: a control.",),
    version=1,
    sources={"collect.shape.0.probability": "paper: 1 with probability 0.5"},
    effects=(
        Effect(
            claim="Coin tosses teach nothing: accuracy stays at that of the start.",
            bed="digits",
            metric="accuracy",
            against="",
            bed_options={"steps": 100},
            within=0.05,
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class CoinToss:
    """score = 1 with `probability`, else 0: drawn by the run's seed, the step and the response's uid."""

    probability: float = 0.5
    sets_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise ValueError(f"a coin's probability lies between 0 and 1, not {self.probability}: 0.5 is usual")

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, run: Any) -> Verdicts:
        """The same verdicts with another score."""
        # Tokens are drawn at positions from 0 on: position -1 is a draw that no token depends on.
        draw = uniforms(run.key, rollouts.uid, 1, offset=-1)[:, 0]
        return replace(verdicts, score=(draw < self.probability).to(verdicts.score.dtype))


def method() -> PolicyGradient:
    """GRPO on coin tosses as a record of parts."""
    return grpo.method().replace(collect=Answers(label=Answered(), shape=(CoinToss(),)))
