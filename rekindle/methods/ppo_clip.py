"""PPO: each token's advantage is over a learnt value of its state, so that no group of responses is needed.

Schulman et al., "Proximal Policy Optimization Algorithms", arXiv 1707.06347. Differs from GRPO in the advantage
(generalised advantage estimation over tokens, the score as the reward of the last one) and by the value head's loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, maximum

from rekindle.core.aggregate import Aggregate, TokenMean
from rekindle.core.gae import OverValue, Returns
from rekindle.core.masked import masked_sum
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.types import VALUE_OLD, Batch, Metrics, Need, Now
from rekindle.methods import grpo

CARD = Card(
    title="PPO",
    summary="Token-level advantages over a value head on the policy's hidden states.",
    authors="Schulman, Wolski, Dhariwal, Radford, Klimov",
    year=2017,
    arxiv="1707.06347",
    code="verl 0.9.1, core_algos.py (compute_gae_advantage_return, compute_value_loss)",
    parent="grpo",
    essence=("prepare", "advantage", "terms"),
    status="close",
    deviations=(
        "The value is a linear head on the policy's own states, trained by one optimiser; verl has a second model.",
        "No KL in the reward; the dual clip is 3 as in verl, the paper has none.",
        "No setting equals GRPO; with lam = gamma = 1, no whitening and values of 0 the advantage is the bare score.",
    ),
    version=1,
    sources={
        "prepare.0.gamma": "verl 0.9.1, algorithm.gamma 1.0",
        "prepare.0.lam": "paper: 0.95; verl's default is 1.0",
        "advantage.ddof": "verl 0.9.1, masked_whiten unbiased",
        "advantage.eps": "verl 0.9.1, masked_whiten",
        "terms.0.coef": "verl 0.9.1: half the squared error",
        "terms.0.clip": "verl 0.9.1, critic.cliprange_value 0.5",
        "descent.head_lr": "verl 0.9.1, critic.optim.lr 1e-5",
    },
    effects=(
        Effect(
            claim="with a value of every state PPO learns as much as GRPO does from groups",
            bed="digits",
            metric="accuracy",
            bed_options={"steps": 100},
            within=0.02,
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class ValueLoss:
    """coef * max((V - returns)^2, (clip(V, V_old - clip, V_old + clip) - returns)^2): the value may not run ahead."""

    coef: float = 0.5
    clip: float = 0.5
    aggregate: Aggregate = field(default_factory=TokenMean)
    separable: ClassVar[bool] = True
    regularizes: ClassVar[bool] = True  # it fits the head to the scores; the answers are taught by the advantage
    heads: ClassVar[tuple[str, ...]] = ("value",)
    needs: ClassVar[tuple[Need, ...]] = (VALUE_OLD,)

    def weights(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The aggregate's weights over live positions."""
        return self.aggregate(batch, batch.live)

    def per_token(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """The loss on live positions, 0 elsewhere; metric `value/error`, the mean squared error before the clip."""
        live = batch.live
        value, old = now.extra["value"].where(live, 0.0), batch.column("value_old").where(live, 0.0)
        target = batch.column("returns").where(live, 0.0)
        error = (value - target).square()
        near = (old + (value - old).clamp(-self.clip, self.clip) - target).square()
        metrics = {"value/error": (masked_sum(error.detach(), live).item(), float(live.sum().item()))}
        return self.coef * maximum(error, near), metrics


def method() -> PolicyGradient:
    """PPO as a record of parts."""
    host = grpo.method()
    descent = replace(host.descent, head_lr=1e-5)
    return host.replace(prepare=(Returns(),), advantage=OverValue(), terms=(ValueLoss(),), descent=descent)
