"""DFT: likelihood of demonstrations, each token's gradient scaled by the policy's own probability of it.

Wu et al., "On the Generalization of SFT: A Reinforcement Learning Perspective with Reward Rectification", arXiv
2508.05629. Differs from SFT in that weight, a constant: SFT pushes hardest at what the policy holds impossible, this at
what it half believes.
"""

from __future__ import annotations

from rekindle.core.likelihood import Likelihood
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import sft

CARD = Card(
    title="DFT",
    summary="SFT whose tokens weigh as much as the policy believes them already.",
    authors="Wu, Zhou, Ziheng, Peng, Ye, Hu, ...",
    year=2025,
    arxiv="2508.05629",
    code="huggingface/trl 1.16, SFTConfig.loss_type dft",
    parent="sft",
    essence=("objective",),
    status="exact",
    deviations=("The learning rate is SFT's; the paper's own has not been verified.",),
    version=1,
    effects=(
        Effect(claim="forgets less of what was known", bed="corrupted", metric="retention"),
        Effect(claim="fits corrupted labels less", bed="corrupted", metric="corrupted", more=False),
        Effect(
            claim="learns slower from a cold start",
            bed="corrupted",
            metric="accuracy",
            more=False,
            bed_options={"hint": -4.0},
        ),
    ),
)


def method() -> PolicyGradient:
    """DFT as a record of parts."""
    return sft.method().replace(objective=Likelihood(confident=True))
