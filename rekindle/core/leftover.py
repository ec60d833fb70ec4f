"""Likelihood of written rows, weighted by what start weights or policy say of them: A-LoL and Reward GOLD.

Every weight is a constant: a bound on it changes its size and never stops the gradient, unlike that of PPO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.core.masked import masked_sum
from rekindle.core.ratios import MAX_LOG_RATIO
from rekindle.core.types import LOGP_REF, Batch, Metrics, Need, Now


@dataclass(frozen=True, kw_only=True)
class RatioWeighted:
    """-A w log p of each token plus beta (log p - log p_ref), w a constant in [1 - eps, 1 + eps] (None: no bound).

    level: w is pi / pi_ref of the whole "sequence", of the "token", or "none", which is 1. Log-ratios are clamped to
    +-20, for that of a long row is 0 or infinity in practice. beta lowers every advantage by as much: rows with less
    are made unlikelier without end.
    """

    level: Literal["sequence", "token", "none"] = "sequence"
    eps: float | None = 0.9
    beta: float = 0.0
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.eps is not None and not 0 <= self.eps < 1:
            raise ValueError(
                f"eps bounds a ratio to 1 - eps .. 1 + eps and lies in [0, 1), not {self.eps}: 0.9 is usual"
            )
        if self.beta < 0:
            raise ValueError(f"beta is a distance that keeps the policy near its start, from 0 up, not {self.beta}")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The start weights' log-probs, where a ratio or a distance is asked for."""
        return (LOGP_REF,) if self.level != "none" or self.beta else ()

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token, 0 off live positions; metrics: `nll`, mean `weight`, share `bounded` of tokens)."""
        live = batch.live
        logp = now.logp.where(live, 0.0)
        ratio = self._ratio(logp.detach(), batch)
        weight = ratio if self.eps is None else ratio.clamp(1 - self.eps, 1 + self.eps)
        loss = -batch.advantage.where(live, 0.0) * weight * logp
        if self.beta:
            loss = loss + self.beta * (logp - batch.column("logp_ref").where(live, 0.0))
        metrics = {**_told(logp, weight, batch), "bounded": _mean((weight != ratio).to(logp.dtype), batch)}
        return loss.where(live, 0.0), metrics

    def _ratio(self, logp: Float[Tensor, "B T"], batch: Batch) -> Float[Tensor, "B T"]:
        if self.level == "none":
            return torch.ones_like(logp)
        log = logp - batch.column("logp_ref").where(batch.live, 0.0)
        log = log.sum(dim=1, keepdim=True).expand_as(log) if self.level == "sequence" else log
        return log.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


@dataclass(frozen=True, kw_only=True)
class Floored:
    """-A max(p, floor) log p of each token, the weight a constant: GOLD (Pang & He, arXiv 2009.07839) as A-LoL has it.

    The likelihood of a token that the policy holds impossible is still raised, at `floor` times the rate of imitation.
    """

    floor: float = 0.1
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ValueError(f"the floor of GOLD is a probability, not {self.floor}: 0.1 is usual")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token, 0 off live positions; metrics: `nll` and the mean `weight`)."""
        logp = now.logp.where(batch.live, 0.0)
        weight = logp.detach().exp().clamp(min=self.floor)
        return -batch.advantage.where(batch.live, 0.0) * weight * logp, _told(logp, weight, batch)


def _told(logp: Float[Tensor, "B T"], weight: Float[Tensor, "B T"], batch: Batch) -> Metrics:
    return {"nll": _mean(-logp.detach(), batch), "weight": _mean(weight, batch)}


def _mean(values: Float[Tensor, "B T"], batch: Batch) -> tuple[float, float]:
    return masked_sum(values, batch.live).item(), float(batch.live.sum().item())
