"""EchoRL: the most uncertain step of the right answers is echoed: a small NLL on the response up to that step.

Bi et al., "EchoRL: Reinforcement Learning via Rollout Echoing", arXiv 2605.31228. Differs from its host (GRPO) by one
term that does not pass through the advantage, so a group that is all right still teaches. Not ECHO (2605.24517).
"""

from __future__ import annotations

from rekindle.core.echo import EchoNLL, MineEcho
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.columns import Steps

CARD = Card(
    title="EchoRL",
    summary="Echoes the highest-entropy step of the right answers; learns from groups whose advantage is zero.",
    authors="Bi, Aniri, Yang, ..., Tresp, Ma",
    year=2026,
    arxiv="2605.31228",
    code="bibisbar/EchoRL (launch script; the actor itself is not in it)",
    parent="grpo",
    essence=("collect.columns", "prepare", "terms"),
    status="close",
    deviations=(
        "Inferred, as the actor is not published: mean over prompts, ties, step ends (the task's; official: newlines).",
        "The launch script's host is Dr. GRPO with an entropy bonus of 0.001; the host here is GRPO.",
    ),
    version=1,
    sources={
        "terms.0.coef": "paper and launch script: entropy_sft_coef 0.001",
        "prepare.0.min_step_tokens": "paper: every step may win",
    },
    effects=(
        Effect(
            claim="Where all is right, the most uncertain step moves the policy towards it, a random step does not.",
            bed="echo",
            metric="flat",
            against="echo_random",
        ),
        Effect(
            claim="Where all is right, the most uncertain step moves the policy towards it, a whole response does not.",
            bed="echo",
            metric="flat",
            against="echo_whole",
        ),
    ),
)


def method() -> PolicyGradient:
    """EchoRL on GRPO as a record of parts."""
    collect = Answers(columns=(Steps(),))
    return grpo.method().replace(collect=collect, prepare=(MineEcho(),), terms=(EchoNLL(coef=0.001),))
