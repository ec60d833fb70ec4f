"""Rewards token by token, and what is still to come of them: for methods that charge a KL inside the reward.

PPO, RLOO and REINFORCE++ (Hu et al., arXiv 2501.03262) subtract an estimate of the KL to the reference from the reward
of each token, before any advantage is taken. As a loss, see `rekindle.core.terms.KLToReference`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.advantages import require_finite
from rekindle.core.masked import whiten
from rekindle.core.schedules import Scalar, plain
from rekindle.core.terms import kl_estimate
from rekindle.core.types import LOGP_OLD, LOGP_REF, Batch, Metrics, Need


@dataclass(frozen=True, kw_only=True)
class ClippedScore:
    """The score, clipped to -limit .. limit before anything is charged: a reward model's outliers pull no harder."""

    limit: float
    needs: ClassVar[tuple[Need, ...]] = ()
    reads_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(f"the limit of clipped scores is a number above 0, not {self.limit}: 2.5 is usual")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the scores replaced."""
        return replace(batch, score=batch.score.clamp(-self.limit, self.limit))


@dataclass(frozen=True, kw_only=True)
class KLInReward:
    """Fills `reward` [B T]: the score at a row's last live token, minus coef * an estimate of KL(old || ref) at each.

    The estimate is that of `kl_estimate` for x = logp_ref - logp_old. With returns-to-go, k1 has the expected gradient
    of KL(pi || ref) over whole responses; k3 does not, and is not what PPO or RLOO use.
    """

    coef: Scalar
    estimator: Literal["k1", "k2", "k3"] = "k1"
    needs: ClassVar[tuple[Need, ...]] = (LOGP_OLD, LOGP_REF)
    reads_score: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the column `reward`, 0 off live positions."""
        return charged(batch, plain(self.coef), self.estimator)


@dataclass(frozen=True, kw_only=True)
class KLByCoefficient:
    """`KLInReward` with the coefficient in the column `kl_coef` [B], which a controller of the run fills."""

    estimator: Literal["k1", "k2", "k3"] = "k1"
    needs: ClassVar[tuple[Need, ...]] = (LOGP_OLD, LOGP_REF)
    reads_score: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the column `reward`, 0 off live positions."""
        return charged(batch, batch.column("kl_coef")[:, None], self.estimator)

    def report(self, batch: Batch) -> Metrics:
        """The coefficient as `kl_coef`."""
        coef = batch.column("kl_coef")
        return {"kl_coef": (coef.sum().item(), len(coef))}


def charged(batch: Batch, coef: float | Float[Tensor, "B 1"], estimator: Literal["k1", "k2", "k3"]) -> Batch:
    """The batch with the column `reward`: the score at each row's end, minus coef * the KL estimate of each token."""
    require_finite(batch)
    live = batch.live
    x = batch.column("logp_ref").where(live, 0.0) - batch.logp_old.where(live, 0.0)
    outcome = batch.score[:, None].where(last_live(live), 0.0)
    return batch.with_columns(reward=outcome - coef * kl_estimate(x, estimator))


@dataclass(frozen=True)
class ReturnToGo:
    """The sum of a row's rewards from each live position on, undiscounted. Reads the column `reward`."""

    needs_group: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T]."""
        reward = batch.column("reward").where(batch.live, 0.0)
        return reward.flip(1).cumsum(1).flip(1).where(batch.live, 0.0)


@dataclass(frozen=True, kw_only=True)
class WhitenTokens:
    """Advantages whitened over all live *tokens* of the batch, so that long rows weigh more; all 0 where all equal."""

    ddof: int = 0  # OpenRLHF; verl 1
    eps: float = 1e-8  # added to the variance: verl

    def __call__(self, advantage: Float[Tensor, "B T"], batch: Batch) -> Float[Tensor, "B T"]:
        """(A - mean) / sqrt(variance + eps) on live positions, 0 elsewhere."""
        return whiten(advantage, batch.live, ddof=self.ddof, eps=self.eps)


def last_live(live: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """True at the last True of each row."""
    return live & (live.flip(1).cumsum(1).flip(1) == 1)
