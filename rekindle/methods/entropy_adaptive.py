"""GRPO with an adaptive entropy bonus: it is paid only while entropy is at or below a target, and grows meanwhile.

He et al., "Skywork Open Reasoner 1 Technical Report", arXiv 2505.22312; TRL has it too. Differs from the fixed bonus in
its coefficient, a state of the run: written after each step, read into a column before the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.core.aggregate import Aggregate, TokenMean
from rekindle.core.masked import masked_sum
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.types import Batch, Metrics, Need, Now, Update
from rekindle.methods import grpo

STATE = "entropy_adaptive"
TOY = {"after.0.target": 1.2}
CARD = Card(
    title="GRPO + adaptive entropy bonus",
    summary="An entropy bonus whose coefficient follows a target entropy.",
    authors="He, Liu, Liu, Yan, Wang, Cheng, ..., Liu, Zhou",
    year=2025,
    arxiv="2505.22312",
    code="SkyworkAI/Skywork-OR1; TRL, adaptive entropy coefficient",
    parent="grpo",
    essence=("source", "terms", "after"),
    status="close",
    deviations=("The entropy is that of the previous step, at the weights of each of its updates (TRL).",),
    version=1,
    sources={"after.0.target": "report and TRL: 0.2", "after.0.delta": "report and TRL: 0.005"},
    effects=(Effect(claim="keeps entropy", bed="digits", metric="entropy", options=TOY),),
)


@dataclass(frozen=True, kw_only=True)
class FollowEntropy:
    """After each step: coef += delta if its mean entropy H <= target, else -= delta; kept in [0, 1]. Starts at 0."""

    target: float = 0.2
    delta: float = 0.005

    def __post_init__(self) -> None:
        if not (self.target >= 0 and self.delta >= 0):
            raise ValueError(f"target entropy and step are 0 or more, not {self.target} and {self.delta}")

    def __call__(self, run: Any, update: Update) -> None:
        """Adds an update's entropies up; after the last one of a step, `coef` and `applied` change."""
        state = run.memory.setdefault(STATE, {"coef": 0.0, "applied": 0.0, "sum": 0.0, "tokens": 0})
        state["sum"] += masked_sum(update.now.entropy, update.batch.live).item()
        state["tokens"] += int(update.batch.live.sum())
        if update.last and state["tokens"]:
            low = state["sum"] / state["tokens"] <= self.target
            coef = min(max(state["coef"] + (self.delta if low else -self.delta), 0.0), 1.0)
            run.memory[STATE] = {"coef": coef, "applied": coef if low else 0.0, "sum": 0.0, "tokens": 0}


def entropy_coef(batch: Batch, run: Any) -> Batch:
    """The batch with the coefficient of this step in the column `entropy_coef` [B]; 0 in the first step."""
    coef = run.memory.get(STATE, {"applied": 0.0})["applied"]
    return batch.with_columns(entropy_coef=torch.full_like(batch.score, coef))


@dataclass(frozen=True)
class AdaptiveBonus:
    """-coef * H with the coefficient of the column `entropy_coef`."""

    aggregate: Aggregate = field(default_factory=TokenMean)
    separable: ClassVar[bool] = True
    regularizes: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ()

    def weights(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The aggregate's weights over live positions."""
        return self.aggregate(batch, batch.live)

    def per_token(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """-coef * entropy on live positions; metric `entropy_coef`."""
        coef = batch.column("entropy_coef")
        return -coef[:, None] * now.entropy.where(batch.live, 0.0), {"entropy_coef": (coef.sum().item(), len(batch))}


def method() -> PolicyGradient:
    """GRPO with an adaptive entropy bonus as a record of parts."""
    return grpo.method().replace(source=(entropy_coef,), terms=(AdaptiveBonus(),), after=(FollowEntropy(),))
