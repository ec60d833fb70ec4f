"""Clip-Cov: a few random ones of the tokens that drive entropy collapse get no policy gradient.

Cui, Zhang, Chen et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models", arXiv
2505.22617. Differs from GRPO in the objective: a clip so wide that it is nearly off, and tokens dropped at random from
those whose centred log-prob times centred advantage lies in a band. They stay in the denominator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip, share
from rekindle.core.random import uniforms
from rekindle.core.ranking import check_share, count_down, largest
from rekindle.core.schedules import plain
from rekindle.core.types import Batch, Metrics, Now
from rekindle.methods import grpo
from rekindle.methods.kl_cov import centred_product

TOY = {"objective.share": 0.2, "objective.above": 0.2}
CARD = Card(
    title="Clip-Cov",
    summary="Drops the gradient of a random few of the tokens whose covariance burns entropy.",
    authors="Cui, Zhang, Chen, Yuan, Wang, Zuo, ..., Ding",
    year=2025,
    arxiv="2505.22617",
    code="PRIME-RL/Entropy-Mechanism-of-RL; verl policy loss clip_cov",
    parent="grpo",
    essence=("objective",),
    status="exact",
    deviations=(
        "Official code selects per micro-batch, by a generator; here once per minibatch, by a uniform a token.",
        "The paper drops prompts whose group is all right or all wrong; here only the selection leaves them out.",
    ),
    version=1,
    sources={
        "objective.share": "paper and official code: clip_cov_ratio 2e-4",
        "objective.above": "paper and official code: 1.0",
        "objective.below": "paper and official code: 5.0",
        "objective.clip.low": "official scripts: epsilon 1.0, a ratio of 0",
        "objective.clip.high": "official scripts: epsilon 1.0, a ratio of 2",
    },
    effects=(
        Effect(claim="keeps entropy", bed="digits", metric="entropy", options=TOY),
        Effect(claim="finds more distinct right answers", bed="digits", metric="distinct", options=TOY),
    ),
)


@dataclass(frozen=True, kw_only=True)
class ClipCov:
    """A clipped surrogate, 0 on a random `share` of the minibatch's tokens (at least one): see `eligible`."""

    share: float = 2e-4
    above: float = 1.0
    below: float = 5.0
    clip: Clip = field(default_factory=lambda: Clip(low=0.0, high=2.0, dual=None))
    separable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_share("Clip-Cov's share", self.share)
        if not self.above < self.below:
            raise ValueError(f"the band of Clip-Cov must have above < below, not {self.above} and {self.below}")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token, metrics): `cov_dropped` is the share of tokens dropped, `cov_eligible` of the band."""
        band, pool = self.eligible(now, batch)
        draw = uniforms(batch.key, batch.uid, batch.mask.shape[1])
        dropped = largest(-draw, band, batch.uid, count_down(self.share, pool))
        loss, metrics = self.clip(now, batch)
        metrics |= {"cov_dropped": share(dropped, pool), "cov_eligible": share(band, pool)}
        return loss.where(~dropped, 0.0), metrics

    def eligible(self, now: Now, batch: Batch) -> tuple[Bool[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """(tokens that may be dropped: above < product < below and not clipped; the pool they are counted in)."""
        product, pool = centred_product(now, batch)
        ratio, advantage = self.clip.ratio(now, batch).detach(), batch.advantage
        over = (ratio > plain(self.clip.high)) & (advantage > 0)
        under = (ratio < plain(self.clip.low)) & (advantage < 0)
        return pool & (self.above < product) & (product < self.below) & ~over & ~under, pool


def method() -> PolicyGradient:
    """Clip-Cov on GRPO as a record of parts."""
    return grpo.method().replace(objective=ClipCov())
