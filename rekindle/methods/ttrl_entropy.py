"""TTRL with EVOL-RL's two helpers, the wider upper clip and the entropy bonus, and without its novelty: the control.

Zhou et al., arXiv 2509.15194, ablate the novelty reward; this record isolates what the helpers do by themselves.
"""

from __future__ import annotations

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.terms import EntropyBonus
from rekindle.methods import ttrl

CARD = Card(
    title="TTRL + clip-higher + entropy bonus",
    summary="EVOL-RL without novelty: the control that isolates its helpers.",
    authors="Zhou, Liang, Liu, Yu, Panaganti, ..., Mi, Yu (ablation)",
    year=2025,
    arxiv="2509.15194",
    code="YujunZhou/EVOL-RL",
    parent="ttrl",
    essence=("collect.label", "objective", "terms"),
    status="exact",
    deviations=(),
    version=1,
    sources={
        "objective.high": "official code: --clip-high, 0.28",
        "terms.1.coef": "README run command: 0.003",
    },
    effects=(
        Effect(
            claim="without novelty the helpers keep no more ways than TTRL", bed="ways", metric="pass@16", within=0.05
        ),
    ),
)


def method() -> PolicyGradient:
    """The control as a record of parts."""
    parent = ttrl.method()
    return parent.replace(
        objective=Clip(low=0.8, high=1.28, dual=3.0),
        terms=(*parent.terms, EntropyBonus(coef=0.003)),
    )
