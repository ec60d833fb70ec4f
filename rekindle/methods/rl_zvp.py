"""RL-ZVP: a group without variance teaches after all: its tokens are pushed by their own entropy.

Le et al., "No Prompt Left Behind: Exploiting Zero-Variance Prompts in LLM RL", arXiv 2509.21880. Differs from GRPO in
the advantage of groups that are all right or all wrong only; mixed groups are GRPO's exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rekindle.core.advantages import GroupNormalized
from rekindle.core.groups import group_constant, group_max, group_min
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.slots import Advantage
from rekindle.core.types import ENTROPY_OLD, Batch, Need
from rekindle.methods import grpo

CARD = Card(
    title="RL-ZVP",
    summary="Groups that are all right or all wrong get advantages from token entropy.",
    authors="Le, Jeon, Vu, Lai, Yang",
    year=2025,
    arxiv="2509.21880",
    code=None,
    parent="grpo",
    essence=("advantage",),
    status="close",
    deviations=("From descriptions of the paper and a reimplementation that agrees; its upper clip is 0.28, not 0.2.",),
    version=1,
    sources={
        "advantage.alpha": "paper: 0.1 to 0.2; 0.05 is too weak, 0.3 unstable",
        "advantage.inner.eps": "the host's",
    },
    effects=(
        Effect(
            claim="where most groups are all right, the entropy of their tokens is spent on becoming surer",
            bed="digits",
            metric="entropy",
            more=False,
            bed_options={"solved": 0.8, "steps": 60},
        ),
        Effect(
            claim="and accuracy rises with it",
            bed="digits",
            metric="accuracy",
            bed_options={"solved": 0.8, "steps": 60},
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class ZeroVariance:
    """alpha * H on groups that are all right, alpha * (H - max H of the response) on those all wrong, else `inner`.

    H: entropy in nats of the full distribution at the sampling weights, no gradient. Only a group whose scores are
    equal, too, has no variance: one that a shaped score tells apart is left to `inner`.
    """

    alpha: float = 0.1
    inner: Advantage = field(default_factory=GroupNormalized)
    needs_group: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (ENTROPY_OLD,)
    positive_signal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ValueError(f"the strength alpha of zero-variance advantages is 0 or more, not {self.alpha}")

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T]; reads `entropy_old`."""
        won, live, of = batch.success.double(), batch.live, (batch.group, batch.graded)
        constant = group_constant(batch.score, *of)
        right, wrong = constant & (group_min(won, *of) == 1), constant & (group_max(won, *of) == 0)
        entropy = batch.column("entropy_old").where(live, 0.0)
        advantage = self.inner(batch).to(entropy.dtype)
        advantage = (self.alpha * entropy).where(right[:, None] & live, advantage)
        least = entropy - entropy.amax(dim=1, keepdim=True) if entropy.shape[1] else entropy
        return (self.alpha * least).where(wrong[:, None] & live, advantage)


def method() -> PolicyGradient:
    """RL-ZVP as a record of parts."""
    return grpo.method().replace(advantage=ZeroVariance())
