"""TIS: truncated importance sampling for a sampler whose log-probs differ from the trainer's.

Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025. Differs from GRPO in the
aggregation: each token weighs min(pi_old / pi_sampled, cap) more, detached.
"""

from __future__ import annotations

from rekindle.core.aggregate import SamplerWeighted, TokenMean
from rekindle.core.method import Card, PolicyGradient
from rekindle.methods import grpo

CARD = Card(
    title="TIS",
    summary="Weights by min(trainer / sampler probability, cap), by token or by sequence.",
    authors="Yao, Liu, Zhang, Dong, Shang, Gao",
    year=2025,
    arxiv=None,
    code="verl 0.9.1, rollout correction; OpenRLHF, enable_vllm_is_correction",
    parent="grpo",
    essence=("aggregate",),
    status="exact",
    deviations=(
        "By token, as in the authors' text; verl's class defaults to the level sequence, TRL to that with mask, cap 3.",
        "Weights are not scaled back to a mean of 1 (an option of verl, off by default).",
    ),
    version=1,
    sources={"aggregate.cap": "authors and verl 0.9.1: 2"},
)


def method() -> PolicyGradient:
    """TIS on GRPO as a record of parts."""
    return grpo.method().replace(aggregate=SamplerWeighted(inner=TokenMean(), level="token", cap=2.0))
