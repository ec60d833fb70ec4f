"""LUFFY: one response of every group is a demonstration from elsewhere, so that an unsolved prompt has a right answer.

Yan et al., "Learning to Reason under Off-Policy Guidance", arXiv 2504.14945. Differs from GRPO in that row, in its
shaped weight p / (p + 0.1) in place of a ratio, in that ratios are not clipped, and in no division by the std.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from rekindle.core.advantages import GroupNormalized
from rekindle.core.masked import masked_sum
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import ratio_metrics
from rekindle.core.ratios import token_ratio
from rekindle.core.types import Batch, Metrics, Now
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.demonstrations import Shown, demonstrated
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.slots import Judge

CARD = Card(
    title="LUFFY",
    summary="A demonstration replaces one response of each group; its unlikely tokens weigh the most.",
    authors="Yan, Li, Hu, Wang, Cui, Qu, ...",
    year=2025,
    arxiv="2504.14945",
    code="ElliottYan/LUFFY",
    parent="grpo",
    essence=("collect.draw", "collect.columns", "advantage", "objective"),
    status="close",
    deviations=(
        "The mean is over tokens; demonstrations are the data's column 'demonstration'.",
        "The demonstration counts in the prompt's logged share of successes.",
        "No setting equals GRPO: without a demonstration it is Dr. GRPO's advantage without a clip.",
    ),
    version=1,
    sources={"objective.gamma": "paper: 0.1"},
    effects=(Effect(claim="what the start weights hardly ever solve is solved", bed="spread", metric="accuracy"),),
)


@dataclass(frozen=True)
class OneDemonstrated:
    """Samples a group and puts the example's demonstration in the place of its first response."""

    example_columns: ClassVar[tuple[str, ...]] = ("demonstration",)
    gives: ClassVar[tuple[str, ...]] = ("rows that nobody sampled",)

    def __call__(self, run: Any, examples: Sequence[Example], judge: Judge) -> Rollouts:
        """Responses to every example, one of each group a demonstration."""
        return demonstrated(run.sample(examples), run)


@dataclass(frozen=True, kw_only=True)
class ShapedOffPolicy:
    """-A r on the policy's own rows, -A p / (p + gamma) on demonstrations, p the token's probability now. No clip."""

    gamma: float = 0.1
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma of the shaped weight is a probability above 0, not {self.gamma}")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token, 0 off live positions; metrics: ratios, and `demonstration/p`, the mean p)."""
        live = batch.live
        shown = batch.column("demonstration")[:, None] & live
        ratio, p = token_ratio(now, batch), now.logp.where(live, 0.0).exp()
        loss = -batch.advantage.where(live, 0.0) * (p / (p + self.gamma)).where(shown, ratio)
        metrics = ratio_metrics(now, batch, ratio, 0.0, float("inf"))
        metrics["demonstration/p"] = (masked_sum(p.detach(), shown).item(), float(shown.sum().item()))
        return loss.where(live, 0.0), metrics


def method() -> PolicyGradient:
    """LUFFY as a record of parts."""
    collect = Answers(draw=OneDemonstrated(), columns=(Shown(),))
    advantage = GroupNormalized(std="none")
    return grpo.method().replace(collect=collect, advantage=advantage, objective=ShapedOffPolicy())
