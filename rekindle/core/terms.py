"""Loss terms besides the surrogate: an entropy bonus and a KL penalty to a reference, each with its own denominator.

A token term adds (weights * per_token).sum() to the loss, with weights of its own; `coef` is inside `per_token`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from rekindle.core.aggregate import Aggregate, TokenMean
from rekindle.core.masked import masked_sum
from rekindle.core.ratios import MAX_LOG_RATIO
from rekindle.core.schedules import Scalar, plain
from rekindle.core.types import LOGP_REF, Batch, Metrics, Need, Now

MAX_K3 = 10.0  # verl and EVOL-RL clamp the value of k3 to +-10


@dataclass(frozen=True)
class EntropyBonus:
    """-coef * H: the entropy (nats) of the full distribution at the sampling temperature lowers the loss."""

    coef: Scalar
    aggregate: Aggregate = field(default_factory=TokenMean)
    separable: ClassVar[bool] = True
    regularizes: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ()

    def weights(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The aggregate's weights over live positions."""
        return self.aggregate(batch, batch.live)

    def per_token(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """-coef * entropy on live positions, 0 elsewhere; no metrics."""
        return -plain(self.coef) * now.entropy.where(batch.live, 0.0), {}


@dataclass(frozen=True)
class KLToReference:
    """coef * an estimate of the KL divergence to the reference, on the sampled tokens, with x = logp_ref - logp.

    k1 = -x, k2 = x^2 / 2, k3 = e^x - x - 1 (Schulman). Used as a loss on the policy's own samples, k1 has expected
    gradient zero, k2 that of KL(pi || ref), k3 that of KL(ref || pi). x is clamped to +-20 and the value of k3 to 10:
    beyond that there is no gradient (verl, EVOL-RL).
    """

    coef: Scalar
    estimator: Literal["k1", "k2", "k3"] = "k3"
    aggregate: Aggregate = field(default_factory=TokenMean)
    separable: ClassVar[bool] = True
    regularizes: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (LOGP_REF,)

    def weights(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The aggregate's weights over live positions."""
        return self.aggregate(batch, batch.live)

    def per_token(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """coef * estimate on live positions, 0 elsewhere; metric `kl_ref`, the estimate itself."""
        live = batch.live
        x = batch.column("logp_ref").where(live, 0.0) - now.logp.where(live, 0.0)
        estimate = kl_estimate(x, self.estimator)
        metrics = {"kl_ref": (masked_sum(estimate.detach(), live).item(), float(live.sum().item()))}
        return plain(self.coef) * estimate, metrics


def kl_estimate(x: Float[Tensor, "*s"], estimator: Literal["k1", "k2", "k3"]) -> Float[Tensor, "*s"]:
    """An estimate of KL(pi || ref) from x = logp_ref - logp of a sampled token: k1, k2 or k3, clamped as in verl."""
    x = x.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k1":
        return -x
    if estimator == "k2":
        return x.square() / 2
    return (x.exp() - x - 1).clamp(-MAX_K3, MAX_K3)
