"""The clipped surrogate on a mix of fresh and replayed rows, and a KL penalty between two anchors.

ReMix (Liang et al., arXiv 2507.06892). A replayed row has two stale policies: the one that sampled it, and the one of
this step's start, around which it is clipped. The column `drift` [B T] is the log-ratio of the two, 0 on fresh rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.core.aggregate import Aggregate, TokenMean
from rekindle.core.masked import masked_sum
from rekindle.core.objectives import ratio_metrics, share
from rekindle.core.ratios import MAX_LOG_RATIO
from rekindle.core.schedules import Scalar, Schedule, plain
from rekindle.core.terms import kl_estimate
from rekindle.core.types import LOGP_REF, Batch, Metrics, Need, Now, Seen, taken

PREVIOUS = "previous"


def _previous_logp(seen: Seen) -> Tensor:
    return taken(torch.log_softmax(seen.logits[PREVIOUS], dim=-1), seen.action)


LOGP_PREVIOUS = Need("logp_previous", _previous_logp, passes=(PREVIOUS,))


@dataclass(frozen=True, kw_only=True)
class MixedClip:
    """max(-A r, -A clip(r, c - width, c + width)) with r = pi / pi_sampling and c = pi_old / pi_sampling.

    The interval is additive around c, its lower end at least 0. Fresh rows have c = 1, the clip of PPO. dual: where
    A < 0, min(that, -dual A), whatever c is (Ye et al., arXiv 1912.09729). Log-ratios are clamped to +-20.
    """

    width: Scalar = 0.2
    dual: Scalar | None = None
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.width, Schedule) and not self.width >= 0:
            raise ValueError(f"the clip interval reaches so far to both sides: 0 or more, not {self.width}")
        if self.dual is not None and not isinstance(self.dual, Schedule) and not self.dual > 1:
            raise ValueError(f"the dual clip bound is a ratio above 1, not {self.dual}: 3 is usual")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token [B T], 0 off live positions; metrics as sums and counts over live tokens)."""
        live = batch.live
        drift = batch.column("drift").where(live, 0.0)
        moved = now.logp.where(live, 0.0) - batch.logp_old.where(live, 0.0)
        ratio = (moved + drift).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        centre = drift.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        low, high = (centre - plain(self.width)).clamp(min=0.0), centre + plain(self.width)
        advantage = batch.advantage.where(live, 0.0)
        loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(low, high))
        metrics = ratio_metrics(now, batch, ratio, low, high)
        if self.dual is not None:
            loss = torch.where(advantage < 0, torch.minimum(loss, -plain(self.dual) * advantage), loss)
            beyond = (ratio.detach() > plain(self.dual)) & (advantage < 0)
            metrics["clip_dual"] = share(beyond, live & (advantage != 0))
        return loss.where(live, 0.0), metrics


@dataclass(frozen=True)
class KLConvex:
    """coef * (lam KL(pi || reference) + (1 - lam) KL(pi || pi of the previous step)), estimated on the batch's tokens.

    lam is the column `lam` [B] (see `Anneal`); the estimators are those of `KLToReference`. Replayed tokens are not
    samples of pi, and are not weighted for it.
    """

    coef: Scalar
    estimator: Literal["k1", "k2", "k3"] = "k3"
    aggregate: Aggregate = field(default_factory=TokenMean)
    separable: ClassVar[bool] = True
    regularizes: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (LOGP_REF, LOGP_PREVIOUS)

    def weights(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The aggregate's weights over live positions."""
        return self.aggregate(batch, batch.live)

    def per_token(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """coef * the mix on live positions, 0 elsewhere; metrics `kl_ref` and `kl_previous`, the estimates."""
        live, metrics = batch.live, Metrics()
        kl = {}
        for name, column in (("kl_ref", "logp_ref"), ("kl_previous", "logp_previous")):
            kl[name] = kl_estimate(batch.column(column).where(live, 0.0) - now.logp.where(live, 0.0), self.estimator)
            metrics[name] = (masked_sum(kl[name].detach(), live).item(), float(live.sum().item()))
        lam = batch.column("lam").to(now.logp.dtype)[:, None]
        return plain(self.coef) * (lam * kl["kl_ref"] + (1 - lam) * kl["kl_previous"]), metrics


@dataclass(frozen=True, kw_only=True)
class Anneal:
    """The column `lam` [B] = max(1 - drop * ceil(max(t - start, 0) / every), floor); t counts a run's steps from 1."""

    start: int = 50
    every: int = 10
    drop: float = 0.1
    floor: float = 0.5

    def __post_init__(self) -> None:
        if self.start < 0 or self.every < 1 or self.drop < 0 or not 0 <= self.floor <= 1:
            raise ValueError(
                f"lam falls from 1 after a step, every so many steps, down to a floor of 0 to 1, not {self}"
            )

    def lam(self, t: int) -> float:
        """The weight of the reference in step `t`."""
        return max(1 - self.drop * math.ceil(max(t - self.start, 0) / self.every), self.floor)

    def __call__(self, batch: Batch, run: Any) -> Batch:
        """The batch with `lam`."""
        return batch.with_columns(lam=torch.full_like(batch.score, self.lam(run.step_index + 1)))


@dataclass(frozen=True)
class Follow:
    """Brings the pass "previous" to the weights of now: the batch is scored, so the next step will find it behind.

    In a run's first step it is the start weights.
    """

    def __call__(self, batch: Batch, run: Any) -> Batch:
        """The batch as it is; the last of the parts that score anything."""
        run.snapshot(PREVIOUS)
        return batch
