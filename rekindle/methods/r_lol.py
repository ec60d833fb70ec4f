"""R-LoL: A-LoL with the reward itself in the place of the advantage, on every response of the data.

Baheti et al., "Leftover Lunch", arXiv 2305.14718: the ablation that tells what the advantage and its filter add.
Differs from A-LoL in that there is no baseline and no response is left out.
"""

from __future__ import annotations

from rekindle.core.leftover import RatioWeighted
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import wbc

CARD = Card(
    title="R-LoL",
    summary="Reward-weighted likelihood times the bounded ratio to the start weights.",
    authors="Baheti, Lu, Brahman, Le Bras, Sap, Riedl",
    year=2023,
    arxiv="2305.14718",
    code="abaheti95/LoL-RL",
    parent="wbc",
    essence=("objective",),
    status="close",
    deviations=("Responses are drawn with replacement; the official code shuffles them.",),
    version=1,
    sources={"objective.eps": "official code, HH script: 0.9", "objective.beta": "official code, HH script: 0"},
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
    """R-LoL as a record of parts."""
    return wbc.method().replace(objective=RatioWeighted())
