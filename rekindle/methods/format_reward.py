"""Format reward, a control: the score is that the answer is in the form asked for, right or wrong.

Shao et al., "Spurious Rewards", arXiv 2506.10947. Differs from GRPO in the label and the score: neither reads the
reference. What a label-free method gains beyond this comes from more than tidiness.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import Answered, Verdicts
from rekindle.tokens.rollouts import Rollouts

CARD = Card(
    title="Format reward (control)",
    summary="Control: the score is that the response is well formed; success is only that there is an answer.",
    authors="Shao, Li, Xin, Geng, Wang, ..., Zettlemoyer",
    year=2025,
    arxiv="2506.10947",
    code=None,
    parent="grpo",
    essence=("collect.label", "collect.shape"),
    status="exact",
    deviations=(
        "Well formed is what the task says, and ended within the length limit; the paper asks for a boxed expression.",
    ),
    version=1,
    effects=(
        Effect(
            claim="Where every response is in form there is nothing to learn: accuracy stays at that of the start.",
            bed="digits",
            metric="accuracy",
            against="",
            bed_options={"steps": 20},
            within=0.05,
        ),
    ),
)


@dataclass(frozen=True)
class WellFormed:
    """score = 1 where the task calls the response well formed and it ended within the length limit, else 0."""

    sets_score: ClassVar[bool] = True

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, run: Any) -> Verdicts:
        """The same verdicts with another score."""
        pairs = zip(rollouts.text, rollouts.finish, strict=True)
        formed = [float(run.verifier.well_formed(text) and finish != "length") for text, finish in pairs]
        return replace(verdicts, score=verdicts.score.new_tensor(formed))


def method() -> PolicyGradient:
    """GRPO on the form of answers as a record of parts."""
    return grpo.method().replace(collect=Answers(label=Answered(), shape=(WellFormed(),)))
