"""SFT: the likelihood of demonstrations, a mean over their tokens; the baseline of all that learns from written text.

Conventions of TRL 1.16's SFTTrainer on prompt-completion data: completion tokens only, the end token included, one mean
over the tokens of the minibatch. Differs from GRPO in that nothing is sampled: rows and scores are the data's.
"""

from __future__ import annotations

from dataclasses import replace

from rekindle.core.advantages import Score
from rekindle.core.likelihood import Likelihood
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.offline import AllRows, Demonstrations, Given

CARD = Card(
    title="SFT",
    summary="Maximum likelihood of the data's demonstrations.",
    authors="common practice",
    year=2022,
    arxiv=None,
    code="huggingface/trl 1.16, SFTTrainer",
    parent="grpo",
    essence=("collect", "advantage", "objective"),
    status="exact",
    deviations=("No packing: rows are never joined, and a row longer than rollout.max_tokens is refused, not cut.",),
    version=1,
    sources={
        "descent.lr": "trl 1.16, SFTConfig.learning_rate 2e-5",
        "descent.minibatches": "one update a step",
        "descent.weight_decay": "trl 1.16, TrainingArguments.weight_decay 0",
    },
    effects=(
        Effect(claim="demonstrations teach what the start does not solve", bed="digits", metric="accuracy", against=""),
    ),
)


def method() -> PolicyGradient:
    """SFT as a record of parts."""
    host = grpo.method()
    return host.replace(
        collect=Answers(draw=Demonstrations(), label=Given(), pick=AllRows()),
        advantage=Score(),
        objective=Likelihood(),
        descent=replace(host.descent, lr=2e-5, minibatches=1, weight_decay=0.0),
    )
