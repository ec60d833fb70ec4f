"""IPO: the log-ratio of the better of two responses is brought to a fixed margin above that of the worse, not beyond.

Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", arXiv 2310.12036. Differs
from DPO in the loss alone: a square around the margin 1 / (2 tau), so that no preference drives it to infinity.
"""

from __future__ import annotations

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.preferences import Squared
from rekindle.methods import dpo

CARD = Card(
    title="IPO",
    summary="Squared loss that brings the difference of two log-ratios to a fixed margin.",
    authors="Azar, Rowland, Piot, Guo, Calandriello, Valko, Munos",
    year=2023,
    arxiv="2310.12036",
    code="huggingface/trl 1.16, DPOTrainer loss_type ipo (objective.length_norm=true)",
    parent="dpo",
    essence=("objective",),
    status="exact",
    deviations=(
        "Log-ratios are sums over tokens, as in the paper: its optimum holds for whole responses, and CoPG's special "
        "case is this form. TRL takes means over tokens, as its authors confirmed (objective.length_norm=true): tau "
        "0.1 then asks for 5 nats a token, not a response.",
    ),
    version=1,
    sources={"objective.tau": "trl 1.16, DPOConfig.beta 0.1 (the margin is then 5 nats)"},
    effects=(
        Effect(
            claim="learns more from frozen pairs than DPO",
            bed="frozen",
            metric="accuracy",
            options={"objective.tau": 0.01},
        ),
    ),
)


def method() -> PolicyGradient:
    """IPO as a record of parts."""
    return dpo.method().replace(objective=Squared())
