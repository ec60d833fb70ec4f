"""GSPO: one ratio a response, the geometric mean of its token ratios, clipped within a thousandth of 1.

Zheng et al., "Group Sequence Policy Optimization", arXiv 2507.18071. Differs from GRPO in the level of the ratio, in
bounds about 1000 times narrower, and in the mean over tokens within each response first.
"""

from __future__ import annotations

from rekindle.core.aggregate import SequenceMean
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.methods import grpo

CARD = Card(
    title="GSPO",
    summary="Clips one ratio a response, the geometric mean of its token ratios.",
    authors="Zheng, Liu, Li, Chen, Yu, Gao, Dang, Liu, Men, Yang, Zhou, Lin",
    year=2025,
    arxiv="2507.18071",
    code="verl 0.9.1, policy_loss gspo; trl importance_sampling_level sequence with loss_type grpo",
    parent="grpo",
    essence=("objective", "aggregate"),
    status="exact",
    deviations=(
        "The ratio is in the paper's token form (GSPO-token), as in verl: the gradient is that of the sequence form.",
        "The paper has no dual clip, and there is none; verl's recipe has one of 10.",
    ),
    version=1,
    sources={
        "objective.low": "paper: 1 - 3e-4",
        "objective.high": "paper: 1 + 4e-4",
        "objective.dual": "none: the paper has no dual clip",
    },
    effects=(
        Effect(
            claim="With its own bounds it clips a larger share of tokens than GRPO.",
            bed="digits",
            metric="train/clip_high",
            bed_options={"reuse": 4, "steps": 20},
        ),
        Effect(
            claim="Where a batch is reused four times, it learns faster than GRPO.",
            bed="digits",
            metric="reward",
            options={"objective.low": 0.9, "objective.high": 1.1},
            bed_options={"reuse": 4, "steps": 20},
        ),
    ),
)


def method() -> PolicyGradient:
    """GSPO as a record of parts."""
    objective = Clip(low=1 - 3e-4, high=1 + 4e-4, level="sequence")
    return grpo.method().replace(objective=objective, aggregate=SequenceMean())
