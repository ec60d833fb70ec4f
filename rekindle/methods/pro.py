"""PRO: each response is raised above all that rank below it, the more the further their scores lie apart.

Song et al., "Preference Ranking Optimization for Human Alignment", arXiv 2306.17492. Differs from DPO in rankings of
any length, in mean log-probs without a reference, and in the likelihood of the best response. Two responses whose
scores differ by d have DPO's loss on mean log-probs with beta = d.
"""

from __future__ import annotations

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.preferences import Ranked
from rekindle.methods import dpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.offline import AllRows, Given, ScoredCompletions

CARD = Card(
    title="PRO",
    summary="Ranked responses, each against all that rank below it; no reference.",
    authors="Song, Yu, Li, Yu, Huang, Li, Wang",
    year=2023,
    arxiv="2306.17492",
    code="abaheti95/LoL-RL",
    parent="dpo",
    essence=("collect.draw", "objective"),
    status="close",
    deviations=(
        "Tokens are scored where they stand; the code that was read is off by one position.",
        "Responses are ranked by their scores; of equal scores the data's earlier one ranks higher.",
        "A prompt whose scores are all equal is left out, the likelihood of its best response included.",
        "That likelihood is a sum over tokens, and weighs sft * (K - 1)^2, as in that code.",
    ),
    version=1,
    sources={"objective.sft": "LoL-RL: 0.05"},
    effects=(Effect(claim="learns from frozen rankings", bed="frozen", metric="accuracy", against=""),),
)


def method() -> PolicyGradient:
    """PRO as a record of parts."""
    return dpo.method().replace(
        collect=Answers(draw=ScoredCompletions(), label=Given(), pick=AllRows()), objective=Ranked()
    )
