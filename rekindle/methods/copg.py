"""CoPG: off-policy policy gradient without importance weights: differences of regularised rewards within a prompt.

Flet-Berliac et al., "Contrastive Policy Gradient", arXiv 2406.19185. The optimum pi_ref exp(R / beta) / Z is the only
one, wherever responses came from. Differs from RLOO in that they come with the data and in the KL within the reward.
"""

from __future__ import annotations

from dataclasses import replace

from rekindle.core.contrast import Contrastive
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.pairs import PairedPrompts
from rekindle.methods import rloo
from rekindle.tokens.collect import Answers
from rekindle.tokens.offline import AllRows, Given, ScoredCompletions

HALF = {"objective.beta": 0.5}
PLAIN = {"objective.form": "plain"}

CARD = Card(
    title="CoPG",
    summary="Contrastive policy gradient on responses with scores, wherever they came from.",
    authors="Flet-Berliac, Grinsztajn, Strub, Wu, Choi, Cremer, ...",
    year=2024,
    arxiv="2406.19185",
    code=None,
    parent="rloo",
    essence=("collect", "objective"),
    status="close",
    deviations=(
        "Of more than two responses a prompt: the sum over pairs / (n - 1), as in Command A; the paper has pairs.",
        "The loss is a regression with the same gradient as the paper's objective; it is minimised.",
        "The advantage (RLOO's, of the scores) only tells which prompts teach: equal scores pull to the reference.",
    ),
    version=1,
    sources={
        "objective.beta": "paper: 0.06 is best on TL;DR; it scales with the rewards' units",
        "descent.minibatches": "one update a step",
        "descent.weight_decay": "paper: Adam, no weight decay",
    },
    effects=(
        Effect(
            claim="Off-policy, it ends nearer the optimum than IPO on preferences drawn from the same rewards.",
            bed="bandit",
            metric="regret",
            more=False,
            against="ipo",
            options=HALF,
            against_options={"objective.tau": 0.5},
        ),
        Effect(
            claim="Off-policy, it ends nearer the optimum than the policy gradient without a baseline.",
            bed="bandit",
            metric="regret",
            more=False,
            against="copg",
            options=HALF,
            against_options={**HALF, **PLAIN},
        ),
        Effect(claim="learns more from frozen responses than DPO", bed="frozen", metric="accuracy", against="dpo"),
        Effect(
            claim="learns more from frozen responses than IPO",
            bed="frozen",
            metric="accuracy",
            against="ipo",
            against_options={"objective.tau": 0.01},
        ),
        Effect(
            claim="learns more from frozen responses than without a baseline",
            bed="frozen",
            metric="accuracy",
            against="copg",
            against_options=PLAIN,
        ),
    ),
)


def method() -> PolicyGradient:
    """CoPG as a record of parts."""
    collect = Answers(draw=ScoredCompletions(), label=Given(), pick=AllRows())
    return on_policy().replace(collect=collect)


def on_policy() -> PolicyGradient:
    """CoPG on the policy's own responses; `rekindle train FILE:on_policy`, FILE being the path of this module."""
    host = rloo.method()
    descent = replace(host.descent, minibatches=1, weight_decay=0.0)
    return host.replace(objective=Contrastive(), aggregate=PairedPrompts(), descent=descent)
