"""Reward GOLD: imitation weighted by the reward and, token by token, by the policy's own probability.

Pang & He, "Text Generation by Learning from Demonstrations", arXiv 2009.07839, in the form that A-LoL's code compares
itself with. Differs from wBC in the factor max(p, 0.1): what the policy would hardly say is learned slowly.
"""

from __future__ import annotations

from rekindle.core.leftover import Floored
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import wbc

CARD = Card(
    title="Reward GOLD",
    summary="Reward-weighted likelihood that leans on the tokens the policy holds likely already.",
    authors="Pang, He",
    year=2020,
    arxiv="2009.07839",
    code="abaheti95/LoL-RL",
    parent="wbc",
    essence=("objective",),
    status="close",
    deviations=(
        "One reward a response, as in A-LoL's code; GOLD's own rewards to go of a likelihood model are not here.",
        "Responses are drawn with replacement; the official code shuffles them.",
    ),
    version=1,
    sources={"objective.floor": "official code: 0.1"},
    effects=(
        Effect(
            claim="where half of the corpus is wrong, more of the answers are right than by imitation",
            bed="corpus",
            metric="accuracy",
            against="sft",
        ),
    ),
)


def method() -> PolicyGradient:
    """Reward GOLD as a record of parts."""
    return wbc.method().replace(objective=Floored())
