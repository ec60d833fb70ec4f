"""RLOO: the baseline of a response is the mean score of the *other* responses to its prompt.

Ahmadian et al., "Back to Basics", arXiv 2402.14740. Differs from GRPO in the advantage alone: r - mean of the other
G - 1, which is G / (G - 1) times Dr. GRPO's.
"""

from __future__ import annotations

from rekindle.core.advantages import LeaveOneOut
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import grpo

CARD = Card(
    title="RLOO",
    summary="Leave-one-out baseline within the group; no standard deviation.",
    authors="Ahmadian, Cremer, Gallé, Fadaee, Kreutzer, Pietquin, Üstün, Hooker",
    year=2024,
    arxiv="2402.14740",
    code="verl 0.9.1, adv_estimator=rloo",
    parent="grpo",
    essence=("advantage",),
    status="exact",
    deviations=(
        "The paper (and trl's RLOOTrainer) use one ratio a sequence; this is verl's, a ratio a token.",
        "The paper subtracts 0.05 * KL from the reward; it is off here, as in verl's default.",
        "A group of one gives advantage 0; verl's loop version keeps the raw score.",
    ),
    version=1,
    effects=(Effect(claim="learns as much as GRPO", bed="digits", metric="accuracy", within=0.01),),
)


def method() -> PolicyGradient:
    """RLOO as a record of parts."""
    return grpo.method().replace(advantage=LeaveOneOut())
