"""EMPG: confident steps of a response get more of its advantage, uncertain ones less; clear futures a bonus.

Wang, Liu, Fu, ..., "Harnessing Uncertainty: Entropy-Modulated Policy Gradients for Long-Horizon LLM Agents", arXiv
2509.09265. Differs from GRPO in how a response's advantage spreads over its steps. It spends entropy, it keeps none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.core.groups import group_max
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.types import ENTROPY_OLD, Batch, Need
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.columns import Steps

SOONER = "Confident steps learn faster: entropy is spent sooner than by GRPO."
BLOCKS = {"collect.columns.0.ids": (0,)}
CARD = Card(
    title="EMPG",
    summary="Advantages scaled by each step's certainty, with a bonus for steps that lead to certain ones.",
    authors="Wang, Liu, Fu, ... (ByteDance Seed)",
    year=2025,
    arxiv="2509.09265",
    code=None,
    parent="grpo",
    essence=("collect.columns", "modulate"),
    status="close",
    deviations=(
        "A step is a reasoning step of one response; the paper's is a turn of an agent.",
        "Groups without an advantage are left out of every mean and get none, as with dynamic sampling.",
        "The neutral setting (k = 0, zeta = 0) is GRPO with center=false; the paper always centres.",
    ),
    version=1,
    sources={
        "modulate.0.k": "authors' listing: 1.0",
        "modulate.0.k_future": "authors' listing: 1.0",
        "modulate.0.zeta": "authors' listing: 0.1",
        "modulate.0.eps": "authors' listing: 1e-8",
    },
    effects=(
        Effect(
            claim=SOONER, bed="digits", metric="entropy_half", more=False, options=BLOCKS, bed_options={"fillers": 1}
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class StepModulation:
    """A * g + zeta * f of the next step, minus the mean over steps with `center`; steps by the column `segment`.

    With h a step's mean entropy, scaled to 0 .. 1 over the batch: g = exp(-k h) over its mean, f = exp(-k_future h).
    """

    k: float = 1.0
    k_future: float = 1.0
    zeta: float = 0.1
    center: bool = True
    eps: float = 1e-8
    needs: ClassVar[tuple[Need, ...]] = (ENTROPY_OLD,)

    def __call__(self, advantage: Float[Tensor, "B T"], batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages by step; 0 in groups without any."""
        on = batch.live & (group_max(advantage.abs().amax(dim=1), batch.group, batch.live_rows) > 0)[:, None]
        if not on.any():
            return torch.zeros_like(advantage)
        step = batch.column("segment").where(on, 0)
        count, entropy, credit = (
            torch.zeros_like(advantage).scatter_add(1, step, x.to(advantage.dtype).where(on, 0.0))
            for x in (on, batch.column("entropy_old"), advantage)
        )
        there, size = count > 0, count.clamp(min=1)
        low, high = (entropy / size)[there].aminmax()
        h = (entropy / size - low) / (high - low + self.eps)
        g = torch.exp(-self.k * h) / torch.exp(-self.k * h)[there].mean()
        bonus = self.zeta * torch.nn.functional.pad(torch.exp(-self.k_future * h).where(there, 0.0)[:, 1:], (0, 1))
        mean = (credit / size * g + bonus)[there].mean() if self.center else 0.0
        return (advantage * g.gather(1, step) + bonus.gather(1, step) - mean).where(on, 0.0)


def method() -> PolicyGradient:
    """EMPG on GRPO as a record of parts."""
    return grpo.method().replace(collect=Answers(columns=(Steps(),)), modulate=(StepModulation(),))
