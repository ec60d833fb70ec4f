"""CE-GPPO: GPPO with the gradient of the low side, which burns entropy, at half its size.

Su et al., "CE-GPPO: Coordinating Entropy via Gradient-Preserving Clipping Policy Optimization in Reinforcement
Learning", arXiv 2509.20712. Differs from GPPO in beta_low.
"""

from __future__ import annotations

from dataclasses import replace

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import gppo
from rekindle.methods.gppo import REUSE, GradientPreserving

CARD = Card(
    title="CE-GPPO",
    summary="GPPO with a smaller gradient for clipped tokens of wrong answers.",
    authors="Su, Pan, Lv, Li, Hu, Zhang, Gai, Zhou",
    year=2025,
    arxiv="2509.20712",
    code="Kwai-Klear/CE-GPPO",
    parent="gppo",
    essence=("objective",),
    status="close",
    deviations=("The betas are those reported for 1.5B models (0.75 and 1 for 7B); the paper tunes them per model.",),
    version=1,
    sources={"objective.beta_low": "paper, 1.5B: 0.5"},
    effects=(Effect(claim="keeps more entropy", bed="digits", metric="entropy", bed_options=REUSE),),
)


def method() -> PolicyGradient:
    """CE-GPPO as a record of parts."""
    return gppo.method().replace(objective=replace(GradientPreserving(), beta_low=0.5))
