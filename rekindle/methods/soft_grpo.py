"""SofT-GRPO: thinking steps are mixtures of tokens with Gumbel noise, so that they have a policy gradient.

Zheng, Gu, Liu, Teh, Lee, "SofT-GRPO: Surpassing Discrete-Token LLM Reinforcement Learning via Gumbel-Reparameterized
Soft-Thinking Policy Optimization", arXiv 2511.06411. Differs from GRPO in the draw (the first steps of a response feed
a weighted mean of embeddings) and in what a step's ratio is made of: the density of its noisy log-probs.
"""

from __future__ import annotations

from dataclasses import replace

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.soft import SoftClip, Thinking
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.sampling.soft import SoftSteps

CARD = Card(
    title="SofT-GRPO",
    summary="GRPO for soft thinking: mixtures of tokens by Gumbel noise; set thinking.end, or how many steps.",
    authors="Zheng, Gu, Liu, Teh, Lee",
    year=2025,
    arxiv="2511.06411",
    code="zz1358m/SofT-GRPO-master",
    parent="grpo",
    essence=("collect.draw", "objective"),
    status="close",
    deviations=(
        "Thinking ends after 4 steps unless objective.thinking.end names the text of one token (and steps=0).",
        "Tokens behind it are drawn from the whole distribution, officially by top-p 0.95 and top-k 5.",
        "No gradient flows through mixtures that are fed; through tokens it does, as in GRPO.",
        "`rekindle eval` of the trained model draws tokens only; a run's own evaluations think softly.",
    ),
    version=1,
    sources={
        "objective.thinking.top_k": "paper and launch scripts: 5",
        "objective.thinking.top_p": "paper and launch scripts: 0.95",
        "objective.thinking.noise": "launch scripts: noise_factor 1",
        "objective.thinking.clamp": "official code: -1.5, 3",
        "objective.thinking.tau": "paper and launch scripts: 0.1",
        "objective.thinking.steps": "ours: models without an end marker",
        "objective.inner.low": "official code: clip ratio 0.2",
        "objective.inner.high": "official code: clip ratio 0.2",
        "objective.inner.dual": "official code: verl's dual clip 3",
        "objective.kl": "launch scripts: kl_loss_coef 1e-3, low_var_kl",
        "descent.minibatches": "launch scripts: 64 prompts in minibatches of 32",
    },
    effects=(
        Effect(
            claim="mixtures of tokens solve as much as tokens",
            bed="chains",
            metric="pass@1",
            options={"objective.thinking.end": ">"},
            within=0.05,
        ),
    ),
)


def method() -> PolicyGradient:
    """SofT-GRPO as a record of parts."""
    host = grpo.method()
    return host.replace(
        collect=Answers(draw=SoftSteps()),
        objective=SoftClip(thinking=Thinking(), inner=Clip(low=0.8, high=1.2, dual=3.0)),
        descent=replace(host.descent, minibatches=2),
    )
