"""DPO: the log-ratio of the better of two responses is raised above that of the worse: a logistic loss on preferences.

Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290, with the conventions of TRL's DPOTrainer. Differs
from SFT in that each prompt brings a better and a worse response, and in the reference that both are measured by.
"""

from __future__ import annotations

from dataclasses import replace

from rekindle.core.advantages import LeaveOneOut
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.pairs import PairedPrompts
from rekindle.core.preferences import Logistic
from rekindle.methods import sft
from rekindle.tokens.collect import Answers
from rekindle.tokens.offline import AllRows, ChosenRejected, Given

CARD = Card(
    title="DPO",
    summary="Logistic loss on the difference of log-ratios of a preferred and a rejected response.",
    authors="Rafailov, Sharma, Mitchell, Ermon, Manning, Finn",
    year=2023,
    arxiv="2305.18290",
    code="huggingface/trl 1.16, DPOTrainer loss_type sigmoid, robust, sigmoid_norm",
    parent="sft",
    essence=("collect", "objective", "aggregate"),
    status="exact",
    deviations=(
        "A pair of equal responses is left out of the mean; TRL counts its log 2, which has no gradient.",
        "Of scored responses (collect.draw), all pairs of unequal score count, then prompts.",
        "A response longer than rollout.max_tokens is refused, not cut.",
    ),
    version=1,
    sources={
        "objective.beta": "trl 1.16, DPOConfig.beta 0.1",
        "objective.smoothing": "trl 1.16, DPOConfig.label_smoothing 0",
        "descent.lr": "trl 1.16, DPOConfig.learning_rate 1e-6",
    },
    effects=(
        Effect(claim="learns from frozen pairs", bed="frozen", metric="accuracy", against=""),
        Effect(
            claim="chosen responses become less likely, too",
            bed="frozen",
            metric="logp_chosen",
            more=False,
            against="",
        ),
        Effect(
            claim="rejected responses become less likely",
            bed="frozen",
            metric="logp_rejected",
            more=False,
            against="",
        ),
    ),
)


def method() -> PolicyGradient:
    """DPO as a record of parts."""
    host = sft.method()
    return host.replace(
        collect=Answers(draw=ChosenRejected(), label=Given(), pick=AllRows()),
        advantage=LeaveOneOut(),
        objective=Logistic(),
        aggregate=PairedPrompts(which="preferred"),
        descent=replace(host.descent, lr=1e-6),
    )
