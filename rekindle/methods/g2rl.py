"""G2RL: right answers whose gradient points elsewhere than their group's are worth more.

Liang et al., "Can LLMs Guide Their Own Exploration? Gradient-Guided Reinforcement Learning for LLM Reasoning", arXiv
2512.15687. Differs from GRPO in the score: +-1 for right and wrong, shifted by the novelty of a row's logit gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.types import Batch, Need, Seen
from rekindle.methods import grpo

CARD = Card(
    title="G2RL",
    summary="Scores of +-1 shifted by how far a response's own gradient points away from its group's.",
    authors="Liang, Lu, Yu, Panaganti, Zhou, Mi, Yu",
    year=2025,
    arxiv="2512.15687",
    code=None,
    parent="grpo",
    essence=("prepare",),
    status="close",
    deviations=(
        "The weight of the novelty is not in what was read of the paper: ours is 0.5.",
        "As printed a novel wrong answer is punished less; the prose says more: wrong='more'.",
        "Novelty within a tolerance of equal counts as equal: 0 for all.",
    ),
    version=1,
    sources={
        "prepare.0.weight": "ours: not in what was read of the paper",
        "prepare.0.bound": "paper: scores are clipped to [-3, 3]",
        "prepare.0.tolerance": "ours: float noise must not be stretched over the range",
    },
    effects=(Effect(claim="Keeps more distinct right answers than GRPO.", bed="digits", metric="distinct"),),
)


def row_gradient(seen: Seen) -> Tensor:
    """W[action] - E_policy W [N D]: the gradient of an action's log-prob to its hidden state, times the temperature."""
    weight = seen.weight["policy"]
    return weight[seen.action] - torch.softmax(seen.logits["policy"], dim=-1) @ weight


GRADIENT_OLD = Need("gradient_old", row_gradient, per="row")


@dataclass(frozen=True, kw_only=True)
class GradientNovelty:
    """score = r + weight * novelty, within +-bound, r = +-1; with wrong="more" r - weight * novelty where r = -1.

    novelty, 0 to 1 over the group: 1 - sum over the others of softmax(r) * cos^2 of the mean gradients of two rows.
    """

    weight: float = 0.5
    wrong: Literal["less", "more"] = "less"
    bound: float = 3.0
    tolerance: float = 1e-6
    needs: ClassVar[tuple[Need, ...]] = (GRADIENT_OLD,)
    sets_score: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the scores replaced."""
        right = 2 * batch.success.to(batch.score.dtype) - 1
        novelty = torch.zeros_like(right)
        for group in batch.group.unique():
            rows = ((batch.group == group) & batch.live_rows).nonzero()[:, 0]
            if len(rows) > 1:
                novelty[rows] = self.novelty(batch.column("gradient_old")[rows].to(right.dtype), right[rows])
        sign = right if self.wrong == "more" else 1.0
        return replace(batch, score=(right + self.weight * sign * novelty).clamp(-self.bound, self.bound))

    def novelty(self, gradient: Float[Tensor, "n D"], right: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The novelty of the n >= 2 rows of one group; 0 for all where none is ahead of another."""
        unit = torch.nn.functional.normalize(gradient, dim=1, eps=1e-12)
        others = right.expand(len(right), -1).masked_fill(torch.eye(len(right), dtype=torch.bool), -torch.inf)
        raw = (1 - (torch.softmax(others, dim=1) * (unit @ unit.T).square()).sum(dim=1)).clamp(min=0.0)
        low, high = raw.aminmax()
        return (raw - low) / (high - low) if high - low > self.tolerance else torch.zeros_like(raw)


def method() -> PolicyGradient:
    """G2RL on GRPO as a record of parts."""
    return grpo.method().replace(prepare=(GradientNovelty(),))
