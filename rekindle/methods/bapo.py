"""BAPO: both clip bounds are chosen anew for each update, so that right answers carry their share of the gradient.

Xi, Guo, Nan et al., "BAPO: Stabilizing Off-Policy RL for LLMs via Balanced Policy Optimization with Adaptive Clipping",
arXiv 2510.18927. Differs from GRPO in the objective: it raises the upper bound, then the lower one, until tokens with a
positive advantage supply `target` of the gradient-carrying mass |A r|.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rekindle.core.balance import positive_share
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.ratios import token_ratio
from rekindle.core.types import Batch, Metrics, Now
from rekindle.methods import grpo

PAPER = {"target": "rho_0", "low": "a-", "low_end": "b-", "low_step": "d_2", "high_end": "b+", "high_step": "d_1"}
BED = {"lr": 0.1, "reuse": 8, "steps": 50, "targets": 40}
OFF: Any = {"against_options": {"objective.target": 0.0}, "bed_options": BED}
CARD = Card(
    title="BAPO",
    summary="Adaptive clip bounds that balance right and wrong answers.",
    authors="Xi, Guo, Nan, Zhou, Shen, ..., Gui, Zhang, Huang",
    year=2025,
    arxiv="2510.18927",
    code="WooooDyy/BAPO",
    parent="grpo",
    essence=("objective",),
    status="close",
    deviations=("The share counts unclipped tokens; as printed (metric=value), it falls while the lower bound rises.",),
    version=1,
    sources={f"objective.{name}": f"paper: {symbol}" for name, symbol in PAPER.items()},
    effects=(
        Effect(claim="bounds gradients", bed="digits", metric="max/grad_norm", more=False, bed_options=BED),
        Effect(claim="keeps entropy", bed="digits", metric="entropy", bed_options=BED),
        Effect(claim="balances", bed="digits", metric="train/share", against="bapo", **OFF),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """The clipped surrogate; its bounds are searched on the whole minibatch, the upper one first.

    metric: the mass of "unclipped" tokens, |A r|, or the "value" of the clipped surrogate of all.
    """

    target: float = 0.4
    low: float = 0.6
    low_end: float = 0.9
    low_step: float = 0.02
    high: float = 1.2
    high_end: float = 3.0
    high_step: float = 0.05
    metric: Literal["unclipped", "value"] = "unclipped"
    separable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        rising = 0 <= self.low <= self.low_end <= 1 <= self.high <= self.high_end
        if not (rising and 0 <= self.target <= 1 and min(self.low_step, self.high_step) > 0):
            raise ValueError(f"BAPO takes 0 <= low <= low_end <= 1 <= high <= high_end, steps above 0, a share: {self}")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token, metrics): `c_low`, `c_high` are the bounds found, `share` is what they reach."""
        bounds, advantage, value = self.path(), batch.advantage.where(batch.live, 0.0), self.metric == "value"
        shares = positive_share(token_ratio(now, batch).detach(), advantage, bounds, value)
        at = min(int((shares < self.target).cumprod(dim=0).sum()), len(shares) - 1)
        low, high = bounds[at].tolist()
        loss, metrics = Clip(low=low, high=high)(now, batch)
        return loss, metrics | {"c_low": (low, 1), "c_high": (high, 1), "share": (shares[at].item(), 1)}

    def path(self) -> Float64[Tensor, "S 2"]:
        """(low, high) in the order in which they are tried; as printed, a low that cannot move ends the search."""
        lows = int((self.low_end - self.low) / self.low_step + 1e-9)
        highs = int((self.high_end - self.high) / self.high_step + 1e-9)
        steps = torch.arange(lows + highs + 1 if lows else 1, dtype=torch.float64)
        low = self.low + (steps - highs).clamp(min=0) * self.low_step
        return torch.stack([low, self.high + steps.clamp(max=highs) * self.high_step], dim=1)


def method() -> PolicyGradient:
    """BAPO on GRPO as a record of parts."""
    return grpo.method().replace(objective=Balanced())
