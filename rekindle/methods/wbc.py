"""wBC: imitation weighted by reward, every response of the data as often as any other.

The weighted behaviour cloning that Baheti et al. compare A-LoL with, arXiv 2305.14718, as their code runs it. Differs
from SFT in the reward before each response and in the sum over its tokens instead of a mean over all.
"""

from __future__ import annotations

from dataclasses import replace

from rekindle.core.aggregate import FixedLength
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import sft
from rekindle.tokens.collect import Answers
from rekindle.tokens.leftover import ByAdvantage, NoBaseline
from rekindle.tokens.offline import AllRows, Given, ScoredCompletions

CARD = Card(
    title="wBC",
    summary="Maximum likelihood of the data's responses, each weighted by its reward.",
    authors="Baheti, Lu, Brahman, Le Bras, Sap, Riedl",
    year=2023,
    arxiv="2305.14718",
    code="abaheti95/LoL-RL",
    parent="sft",
    essence=("collect",),
    status="close",
    deviations=(
        "Responses are drawn with replacement; the official code shuffles them.",
        "The official code's 300 steps of warm-up are left to a schedule of descent.lr.",
    ),
    version=1,
    sources={
        "aggregate.length": "official code: the sum over a response's tokens",
        "descent.lr": "official code, general script: 2e-5",
        "descent.weight_decay": "official code, general script: 0.01",
    },
    effects=(
        Effect(
            claim="where half of the corpus is wrong, rewards make more of the answers right",
            bed="corpus",
            metric="accuracy",
        ),
    ),
)


def method() -> PolicyGradient:
    """wBC as a record of parts."""
    host = sft.method()
    prompts = ByAdvantage(baseline=NoBaseline(), strategy="all", filtered=False)
    return host.replace(
        collect=Answers(prompts=prompts, draw=ScoredCompletions(), label=Given(), pick=AllRows()),
        aggregate=FixedLength(1),  # a sum over the tokens of a row, a mean over rows
        descent=replace(host.descent, weight_decay=0.01),
    )
