"""GRPO: the advantage of a response is its score, normalised within the group of responses to the same prompt.

Shao et al., "DeepSeekMath", arXiv 2402.03300. The word names ten formulas; this one follows verl 0.9.1's defaults:
token mean over the minibatch, sample standard deviation, dual clip, no KL.
"""

from __future__ import annotations

from rekindle.core.advantages import GroupNormalized
from rekindle.core.aggregate import TokenMean
from rekindle.core.method import Card, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import Verified

CARD = Card(
    title="GRPO",
    summary="Scores normalised within the group of a prompt, clipped policy gradient.",
    authors="Shao, Wang, Zhu, Xu, Song, Bi, ...",
    year=2024,
    arxiv="2402.03300",
    code="verl 0.9.1, core_algos.py",
    parent=None,
    essence=("advantage",),
    status="exact",
    deviations=(
        "The paper averages over tokens within each response, then over responses; this is the token mean (verl).",
        "The paper adds a k3 KL of 0.04 to the reference; it is off here (verl).",
        "The paper has no dual clip; it is 3 here (verl).",
        "A group of one gives advantage 0; verl keeps the raw score.",
    ),
    version=1,
    sources={
        "advantage.eps": "verl 0.9.1, compute_grpo_outcome_advantage; acts only behind a max == min test",
        "objective.low": "verl 0.9.1, clip_ratio 0.2",
        "objective.high": "verl 0.9.1, clip_ratio 0.2",
        "objective.dual": "verl 0.9.1, clip_ratio_c 3.0",
        "descent.lr": "verl 0.9.1, actor.optim.lr 1e-6",
        "descent.epochs": "verl 0.9.1, ppo_epochs 1",
        "descent.minibatches": "verl 0.9.1, train_batch_size 1024 over ppo_mini_batch_size 256",
        "descent.micro_batch": "memory only: no effect on the update",
        "descent.beta1": "AdamW default",
        "descent.beta2": "AdamW default",
        "descent.weight_decay": "verl 0.9.1, actor.optim.weight_decay 0.01",
        "descent.grad_clip": "verl 0.9.1, actor.grad_clip 1.0",
        "collect.select.max_rounds": "one round: nothing is asked for again",
    },
)


def method() -> PolicyGradient:
    """GRPO as a record of parts."""
    return PolicyGradient(
        collect=Answers(label=Verified()),
        advantage=GroupNormalized(std="sample", eps=1e-6),
        objective=Clip(low=0.8, high=1.2, dual=3.0),
        aggregate=TokenMean(),
    )
