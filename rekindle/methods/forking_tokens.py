"""Forking tokens: only the fifth of the tokens with the highest entropy is trained on, where the text can turn.

Wang, Yu, Gao et al., "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for
LLM Reasoning", arXiv 2506.01939. Differs from DAPO in one `keep` part; the loss is the mean over the kept tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.ranking import check_share, count_up, largest
from rekindle.core.types import Batch, Now
from rekindle.methods import dapo

CARD = Card(
    title="Forking tokens (80/20)",
    summary="DAPO on the 20 % of tokens with the highest entropy.",
    authors="Wang, Yu, Gao, Zheng, Liu, ..., Huang, Lin",
    year=2025,
    arxiv="2506.01939",
    code="Shenzhi-Wang/Beyond-the-80-20-Rule-RLVR; TRL top_entropy_quantile",
    parent="dapo",
    essence=("keep",),
    status="exact",
    deviations=(
        "Official code ranks per micro-batch; here once per minibatch, so its size changes nothing.",
        "Exactly the share is kept, ties by (uid, position); the paper's threshold would keep every tie.",
    ),
    version=1,
    sources={"keep.0.share": "paper and official code: rho 0.2"},
    effects=(
        Effect(
            claim="a fifth of the tokens does what all of them do",
            bed="digits",
            metric="accuracy",
            within=0.05,
            bed_options={"fillers": 4},
        ),
        Effect(
            claim="the other four fifths do not",
            bed="digits",
            metric="accuracy",
            more=False,
            options={"keep.0.share": 0.8, "keep.0.side": "bottom"},
            bed_options={"fillers": 4},
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class TopEntropy:
    """Keeps the `share` of a minibatch's tokens (rounded up) whose entropy under the policy of now ranks highest.

    side: "bottom" keeps those that rank lowest, the paper's control.
    """

    share: float = 0.2
    side: Literal["top", "bottom"] = "top"

    def __post_init__(self) -> None:
        check_share("the share of tokens kept by entropy", self.share)
        if self.share == 0:
            raise ValueError("the share of tokens kept by entropy is above 0: nothing would be trained on")

    def __call__(self, now: Now, batch: Batch) -> Bool[Tensor, "B T"]:
        """True on max(1, ceil(share * n)) of the n live tokens, of all responses together."""
        rank: Float[Tensor, "B T"] = now.entropy if self.side == "top" else -now.entropy
        return largest(rank, batch.live, batch.uid, count_up(self.share, batch.live))


def method() -> PolicyGradient:
    """Forking tokens on DAPO as a record of parts."""
    return dapo.method().replace(keep=(TopEntropy(),))
