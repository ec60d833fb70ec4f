"""The log-likelihood weighted by the advantage, no ratio or clip: REINFORCE on samples, imitation on written rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rekindle.core.masked import masked_sum
from rekindle.core.objectives import ratio_metrics
from rekindle.core.ratios import token_ratio
from rekindle.core.types import Batch, Metrics, Now


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """-A log p of each token; with `confident`, -A p log p with p as a constant (DFT, Wu et al., arXiv 2508.05629).

    The second has p times the gradient of the first: what the policy holds impossible is hardly learned.
    """

    confident: bool = False
    separable: ClassVar[bool] = True

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token, 0 off live positions; metrics: `nll`, the mean of -log p in nats, and ratios)."""
        live = batch.live
        logp = now.logp.where(live, 0.0)
        weight = batch.advantage.where(live, 0.0) * (logp.detach().exp() if self.confident else 1.0)
        metrics = ratio_metrics(now, batch, token_ratio(now, batch), 0.0, math.inf)
        metrics["nll"] = (-masked_sum(logp.detach(), live).item(), float(live.sum().item()))
        return -weight * logp, metrics
