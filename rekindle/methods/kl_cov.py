"""KL-Cov: the few tokens that drive entropy collapse are held back by a penalty on their log-ratio.

Cui, Zhang, Chen et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models", arXiv
2505.22617. Differs from GRPO in the objective: no clip, and |log ratio| on the tokens with the largest product of
centred log-prob and centred advantage. On the first, on-policy update of a step it is the unclipped surrogate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.groups import group_max
from rekindle.core.masked import masked_mean, masked_sum
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import ratio_metrics
from rekindle.core.ranking import check_share, count_down, largest
from rekindle.core.ratios import log_ratio
from rekindle.core.types import Batch, Metrics, Now
from rekindle.methods import grpo

TOY = {"objective.share": 0.2}
CARD = Card(
    title="KL-Cov",
    summary="Penalises the log-ratio of the few tokens whose covariance burns entropy.",
    authors="Cui, Zhang, Chen, Yuan, Wang, Zuo, ..., Ding",
    year=2025,
    arxiv="2505.22617",
    code="PRIME-RL/Entropy-Mechanism-of-RL; verl policy loss kl_cov",
    parent="grpo",
    essence=("objective",),
    status="exact",
    deviations=(
        "Official code selects per micro-batch and device; here once per minibatch, so its size changes nothing.",
        "The paper drops prompts whose group is all right or all wrong; here only the selection leaves them out.",
        "The log-ratio is clamped to +-20; official code has no guard.",
    ),
    version=1,
    sources={
        "objective.share": "paper: k = 2e-3 for 7B (official code's k_percent is in percent)",
        "objective.beta": "paper and official code: ppo_kl_coef 1.0",
    },
    effects=(
        Effect(claim="keeps entropy", bed="digits", metric="entropy", options=TOY),
        Effect(claim="finds more distinct right answers", bed="digits", metric="distinct", options=TOY),
    ),
)


def centred_product(now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """((A - mean A) * (logp - mean logp) over the pool, 0 elsewhere; the pool: tokens of groups with an advantage).

    Tokens of a constant group have advantage 0: they teach nothing and would only shift the means.
    """
    most = batch.advantage.abs().where(batch.live, 0.0).amax(dim=1)
    pool = batch.live & (group_max(most, batch.group, batch.live_rows) > 0)[:, None]
    advantage, logp = batch.advantage, now.logp.detach()
    product = (advantage - masked_mean(advantage, pool)) * (logp - masked_mean(logp, pool))
    return product.where(pool, 0.0), pool


@dataclass(frozen=True, kw_only=True)
class KLCov:
    """-A r, plus beta |log r| on the `share` of the minibatch's tokens (at least one) with the largest products."""

    share: float = 0.002
    beta: float = 1.0
    separable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_share("KL-Cov's share", self.share)

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token, metrics): `cov` is the mean product, `kl_cov` the mean |log r| of those selected."""
        product, pool = centred_product(now, batch)
        chosen = largest(product, pool, batch.uid, count_down(self.share, pool))
        moved = log_ratio(now, batch)
        loss = -batch.advantage.where(batch.live, 0.0) * moved.exp() + self.beta * moved.abs().where(chosen, 0.0)
        metrics = ratio_metrics(now, batch, moved.exp(), 0.0, float("inf"))
        metrics["cov"] = (product.sum().item(), float(pool.sum().item()))
        metrics["kl_cov"] = (masked_sum(moved.detach().abs(), chosen).item(), float(chosen.sum().item()))
        return loss, metrics


def method() -> PolicyGradient:
    """KL-Cov on GRPO as a record of parts."""
    return grpo.method().replace(objective=KLCov())
