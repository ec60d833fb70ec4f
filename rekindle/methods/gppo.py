"""GPPO: a clipped token keeps a bounded gradient, of the size of the clip bound, instead of none.

Su et al., "Klear-Reasoner: Advancing Reasoning Capability via Gradient-Preserving Clipping Policy Optimization", arXiv
2508.07629. Differs from GRPO in the objective: clip-higher with PPO's pessimistic minimum, whose two clipped cases pass
beta_low * low and beta_high * high on to the gradient (the general form of CE-GPPO, arXiv 2509.20712).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip, ratio_metrics
from rekindle.core.ratios import token_form, token_ratio
from rekindle.core.types import Batch, Metrics, Now
from rekindle.methods import grpo

REUSE = {"lr": 0.1, "reuse": 8, "steps": 50}
CARD = Card(
    title="GPPO",
    summary="Clipped tokens keep a bounded gradient.",
    authors="Su, Pan, Bai, Liu, Dong, Huang, Hu, Zhang, Gai, Zhou",
    year=2025,
    arxiv="2508.07629",
    code="Kwai-Klear/KlearReasoner",
    parent="grpo",
    essence=("objective",),
    status="exact",
    deviations=("The paper's likelihood term on right answers and its dropping of unanimous groups are left out.",),
    version=1,
    sources={
        "objective.high": "paper and official code: 0.28",
        "objective.dual": "official scripts: clip_ratio_c 10",
        "objective.beta_low": "paper: 1 (later advice of the authors: 0.25 or 0.5)",
        "objective.beta_high": "paper: 1",
    },
    effects=(
        Effect(
            claim="the high side's gradient alone keeps more entropy than the low side's alone",
            bed="digits",
            metric="entropy",
            against="gppo",
            options={"objective.beta_low": 0.0},
            against_options={"objective.beta_high": 0.0},
            bed_options=REUSE,
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class GradientPreserving:
    """-A r; where A < 0 and r < low, -A beta_low low r / sg(r); where A > 0 and r > high, -A beta_high high r / sg(r).

    Then the dual clip (None: off). Both betas 1: clip-higher's value. Both 0: its gradient, though not its value.
    """

    low: float = 0.8
    high: float = 1.28
    dual: float | None = 10.0
    beta_low: float = 1.0
    beta_high: float = 1.0
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Clip(low=self.low, high=self.high, dual=self.dual)
        if self.beta_low < 0 or self.beta_high < 0:
            raise ValueError(f"the betas of GPPO are 0 or more, not {self.beta_low} and {self.beta_high}: 1 is usual")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token, 0 off live positions; metrics as sums and counts over live tokens)."""
        ratio = token_ratio(now, batch)
        moved, advantage = ratio.detach(), batch.advantage.where(batch.live, 0.0)
        one = token_form(now, batch, torch.ones_like(moved))  # value 1, gradient d logp: no inf / inf
        factor = torch.where((moved < self.low) & (advantage < 0), self.beta_low * self.low * one, ratio)
        factor = torch.where((moved > self.high) & (advantage > 0), self.beta_high * self.high * one, factor)
        loss = -advantage * factor
        if self.dual is not None:
            loss = torch.where(advantage < 0, torch.minimum(loss, -self.dual * advantage), loss)
        return loss, ratio_metrics(now, batch, ratio, self.low, self.high)


def method() -> PolicyGradient:
    """GPPO on GRPO as a record of parts."""
    return grpo.method().replace(objective=GradientPreserving())
