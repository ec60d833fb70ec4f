"""CAPO: tokens whose own optimiser step would move the policy too far are left out of the update.

Melo, Abate, Gal, arXiv 2510.00819. Differs from GRPO in a `keep` part: a curvature model of the head predicts how far
each token moves the policy, m_F, and the objective, m_H; beyond a threshold it is rejected, from the denominator too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from rekindle.core.curvature import HEAD_CURVE, HEAD_SIZE, head_excess, head_shifts
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.ranking import check_share, count_up, largest, upper
from rekindle.core.schedules import plain
from rekindle.core.types import Batch, Need, Now, Update
from rekindle.methods import grpo

CARD = Card(
    title="CAPO",
    summary="Rejects tokens whose predicted step leaves a trust region.",
    authors="Melo, Abate, Gal",
    year=2025,
    arxiv="2510.00819",
    code="luckeciano/stable-pg-llm",
    parent="grpo",
    essence=("source", "keep", "after"),
    status="close",
    deviations=(
        "The optimiser model is plain gradient descent on the full softmax; official code's Adam model is not offered.",
        "Thresholds are calibrated on the first steps (official: 1e-4, 0.01), and half of the tokens is always kept.",
    ),
    version=1,
    sources={"keep.0.floor": "ours", "after.0.quantile": "paper: up to 8 % are rejected", "after.0.steps": "ours"},
    effects=(Effect(claim="learns better at 10 x lr", bed="digits", metric="accuracy", bed_options={"lr": 0.5}),),
)


def with_limits(batch: Batch, run: Any) -> Batch:
    """The batch with this step's learning rate and thresholds in columns [B]; infinite until calibrated."""
    limits = run.memory.get("capo", {}).get("limits") or [float("inf")] * 2
    values = {"step_lr": plain(run.record.descent.lr), "limit_f": limits[0], "limit_h": limits[1]}
    return batch.with_columns(**{name: torch.full_like(batch.score, value) for name, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """Keeps tokens with m_F < limit_f and |m_H| < limit_h, and the share `floor` that exceeds them least."""

    floor: float = 0.5
    needs: ClassVar[tuple[Need, ...]] = (HEAD_SIZE, HEAD_CURVE)

    def __post_init__(self) -> None:
        check_share("the floor of kept tokens", self.floor)

    def __call__(self, now: Now, batch: Batch) -> Bool[Tensor, "B T"]:
        """True on the live tokens that are trained on; ties at the floor by (uid, position)."""
        excess = head_excess(batch)
        taught = batch.live & (batch.advantage != 0)
        return batch.live & ((excess < 1) | largest(-excess, taught, batch.uid, count_up(self.floor, taught)))


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Thresholds: means over the updates of the first `steps` steps (anew as the rate rises) of a `quantile` each."""

    quantile: float = 0.92
    steps: int = 5

    def __call__(self, run: Any, update: Update) -> None:
        """Writes `limits` once enough steps have been seen."""
        batch, rate = update.batch, plain(run.record.descent.lr)
        state = run.memory.setdefault("capo", {"rate": rate, "steps": 0, "seen": [], "limits": None})
        if rate > state["rate"]:
            state.update(rate=rate, steps=0, seen=[], limits=None)
        taught = batch.live & (batch.advantage != 0)
        if state["limits"] is None and taught.any():
            state["seen"].append([upper(shift[taught].abs(), self.quantile) for shift in head_shifts(batch)])
        state["steps"] += update.last
        if state["limits"] is None and state["steps"] >= self.steps and state["seen"]:
            state["limits"] = torch.tensor(state["seen"], dtype=torch.float64).mean(dim=0).tolist()


def method() -> PolicyGradient:
    """CAPO on GRPO as a record of parts."""
    return grpo.method().replace(source=(with_limits,), keep=(Trusted(),), after=(Calibrate(),))
