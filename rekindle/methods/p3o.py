"""P3O: responses to one prompt are compared in pairs, so that only differences of their rewards count.

Wu et al., "Pairwise Proximal Policy Optimization", arXiv 2310.00212. Differs from RLOO in one ratio a response in place
of one a token, in clips on pairs, and in a KL to the reference within the reward. At the sampling weights, and without
that KL, its gradient is RLOO's.
"""

from __future__ import annotations

from rekindle.core.contrast import PairwiseClip
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.pairs import PairedPrompts
from rekindle.methods import rloo

SAME, SHIFTED = {"offset": 0.0}, {"offset": 10.0}

CARD = Card(
    title="P3O",
    summary="Policy gradient on pairs of responses: blind to whatever shifts all rewards of a prompt.",
    authors="Wu, Zhu, Zhang, Wen, Ramchandran, Jiao",
    year=2023,
    arxiv="2310.00212",
    code=None,
    parent="rloo",
    essence=("objective", "aggregate"),
    status="close",
    deviations=(
        "Where the clips stand was inferred from the paper's description; at the sampling weights the gradient is its.",
        "The paper has two responses a prompt (rollout.group=2); of more, all pairs count.",
        "The advantage (RLOO's, of the scores) only tells which prompts teach: the objective reads the scores.",
        "Log-ratios of responses are clamped to +-20.",
    ),
    version=1,
    sources={
        "objective.eps": "inferred: PPO's 0.2",
        "objective.delta": "inferred: PPO's 0.2",
        "objective.beta": "not given; 0.05 lies within the 0.02 to 0.2 that trace the frontier of KL and reward",
    },
    effects=(
        Effect(
            claim="Rewards shifted by N(0, 1) a prompt change nothing.",
            bed="digits",
            metric="accuracy",
            against="p3o",
            bed_options={"offset": 1.0},
            against_bed_options=SAME,
            within=1e-6,
        ),
        Effect(
            claim="Rewards shifted by N(0, 100) a prompt change nothing.",
            bed="digits",
            metric="accuracy",
            against="p3o",
            bed_options=SHIFTED,
            against_bed_options=SAME,
            within=1e-6,
        ),
        Effect(
            claim="Nor do they where the clip is joint.",
            bed="digits",
            metric="accuracy",
            against="p3o",
            options={"objective.version": "joint"},
            against_options={"objective.version": "joint"},
            bed_options=SHIFTED,
            against_bed_options=SAME,
            within=1e-6,
        ),
        Effect(
            claim="So shifted, it learns more than with a baseline for the whole batch.",
            bed="digits",
            metric="accuracy",
            against="reinforce_pp",
            bed_options=SHIFTED,
        ),
    ),
)


def method() -> PolicyGradient:
    """P3O as a record of parts."""
    return rloo.method().replace(objective=PairwiseClip(), aggregate=PairedPrompts())
