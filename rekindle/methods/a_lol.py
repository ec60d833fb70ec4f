"""A-LoL: learn from the responses that are worth more than what the start weights would have said.

Baheti, Lu, Brahman, Le Bras, Sap & Riedl, "Leftover Lunch: Advantage-based Offline Reinforcement Learning for Language
Models", arXiv 2305.14718. Differs from wBC in the advantage over the start weights' value, of which only what is above
0 is drawn, by its size, and in the ratio to the start weights as a bounded constant.

Variants: objective.level=none (reference-free), objective.level=token (A-LoL seq), and with objective.level=none
objective.beta=0.1 (A-LoL KL).
"""

from __future__ import annotations

from rekindle.core.leftover import RatioWeighted
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import wbc
from rekindle.tokens.collect import Answers
from rekindle.tokens.leftover import ByAdvantage
from rekindle.tokens.offline import AllRows, Given, ScoredCompletions

OWN = {"collect.prompts.baseline": "group_mean"}
HALF = "where half of the corpus is wrong, more of the answers are right than by"
CARD = Card(
    title="A-LoL",
    summary="Offline: only responses that beat the start weights' value, weighted by advantage and ratio.",
    authors="Baheti, Lu, Brahman, Le Bras, Sap, Riedl",
    year=2023,
    arxiv="2305.14718",
    code="abaheti95/LoL-RL",
    parent="wbc",
    essence=("collect.prompts", "objective"),
    status="close",
    deviations=(
        "The value head sees at most 512 prompts, learns at 1e-3 (official: all of validation, 1e-5), masks padding.",
        "Its dropout takes whole features of a prompt; greedy answers are scored by the verifier, 0 or 1.",
        "The number of steps is the run's own; officially it is multiplied by the share of positive advantages.",
        "collect.prompts.baseline=group_mean takes the mean reward of the prompt's own responses instead: ours.",
    ),
    version=1,
    sources={
        "collect.prompts.baseline.prompts": "ours; officially all validation prompts",
        "collect.prompts.baseline.epochs": "official code, HH script: 10",
        "collect.prompts.baseline.lr": "ours; official code 1e-5 on many more prompts",
        "collect.prompts.baseline.dropout": "official code: 0.1",
        "collect.prompts.baseline.top": "official code, HH script: 1",
        "objective.eps": "official code, HH script: 0.9",
        "objective.beta": "official code, HH script: 0; the KL variant's own is not published",
    },
    effects=(
        Effect(claim=f"{HALF} imitation", bed="corpus", metric="accuracy", against="sft", options=OWN),
        Effect(claim=f"{HALF} rewards as weights", bed="corpus", metric="accuracy", options=OWN),
        Effect(
            claim="so without a reference", bed="corpus", metric="accuracy", options={**OWN, "objective.level": "none"}
        ),
        Effect(
            claim="so with a ratio a token",
            bed="corpus",
            metric="accuracy",
            options={**OWN, "objective.level": "token"},
        ),
    ),
)


def method() -> PolicyGradient:
    """A-LoL as a record of parts."""
    host = wbc.method()
    collect = Answers(prompts=ByAdvantage(), draw=ScoredCompletions(), label=Given(), pick=AllRows())
    return host.replace(collect=collect, objective=RatioWeighted())
