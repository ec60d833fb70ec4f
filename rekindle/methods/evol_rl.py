"""EVOL-RL: label-free: the majority selects (sign of the score), novelty varies (order within it).

Zhou et al., "Evolving Language Models without Labels", arXiv 2509.15194. Differs from TTRL in the score (a response
that resembles its group gets less, so a unanimous group still has a gradient), by clip-higher and an entropy bonus.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.terms import EntropyBonus
from rekindle.methods import ttrl
from rekindle.tokens.collect import Answers
from rekindle.tokens.labels import MajorityVote, Verdicts
from rekindle.tokens.rollouts import Rollouts

CARD = Card(
    title="EVOL-RL",
    summary="Label-free: the majority selects, novelty varies.",
    authors="Zhou, Liang, Liu, Yu, Panaganti, Song, Yu, Zhang, Mi, Yu",
    year=2025,
    arxiv="2509.15194",
    code="YujunZhou/EVOL-RL",
    parent="ttrl",
    essence=("collect.label", "collect.shape", "terms"),
    status="exact",
    deviations=("Embeddings are n-grams or the start model's states; the task says what is compared and valid.",),
    version=1,
    sources={
        "collect.shape.0.alpha": "official code, hard-coded 0.5",
        "collect.shape.0.tolerance": "ours: float noise must not be stretched over a band",
        "objective.high": "official code: --clip-high, 0.28",
        "terms.1.coef": "README run command: 0.003",
    },
    effects=(
        Effect(claim="Novelty keeps ways of solving that TTRL loses.", bed="ways", metric="pass@16"),
        Effect(claim="More distinct right answers than TTRL.", bed="digit_sum", metric="distinct"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class NoveltyBands:
    """Scores: majority in [0.5, 1], minority in [-1, -0.5], invalid -1; novelty orders each band. No gradient."""

    alpha: float = 0.5
    tolerance: float = 1e-6
    sets_score: ClassVar[bool] = True
    gives: ClassVar[tuple[str, ...]] = ("scores below 0",)

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, run: Any) -> Verdicts:
        """Scores all rows of all groups; a group with fewer than two valid rows gets -1 throughout."""
        valid = torch.tensor([run.verifier.well_formed(text) for text in rollouts.text]) & verdicts.graded
        score = torch.full_like(verdicts.score, -1.0)
        for group in rollouts.group.unique():
            rows = ((rollouts.group == group) & valid).nonzero()[:, 0]
            if len(rows) > 1:
                embedded = run.embed([run.verifier.compared(rollouts.text[i]) for i in rows.tolist()])
                score[rows] = self.bands(embedded.double(), verdicts.success[rows])
        return replace(verdicts, score=score, success=verdicts.success & valid)

    def bands(self, embedded: Float[Tensor, "n D"], majority: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The scores of the n >= 2 valid responses of one group; alone on its side, one gets the best of its band."""
        unit = torch.nn.functional.normalize(embedded, dim=1, eps=1e-8)
        similarity = (unit @ unit.T).clamp(0.0, 1.0)
        other = ~torch.eye(len(unit), dtype=torch.bool)
        same = (majority[:, None] == majority[None, :]) & other
        mean = (similarity * same).sum(dim=1) / same.sum(dim=1).clamp(min=1)
        novelty = 1 - self.alpha * mean - (1 - self.alpha) * similarity.masked_fill(~other, -1.0).amax(dim=1)
        return torch.where(majority, 0.5 + self._rank(novelty, majority), -1 + self._rank(novelty, ~majority))

    def _rank(self, novelty: Float[Tensor, " n"], side: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
        if side.sum() < 2:
            return torch.full_like(novelty, 0.5)
        low, high = novelty[side].aminmax()
        return torch.full_like(novelty, 0.25) if high - low <= self.tolerance else 0.5 * (novelty - low) / (high - low)


def method() -> PolicyGradient:
    """EVOL-RL as a record of parts."""
    parent, collect = ttrl.method(), Answers(label=MajorityVote(), shape=(NoveltyBands(),))
    terms = (*parent.terms, EntropyBonus(coef=0.003))
    return parent.replace(collect=collect, objective=Clip(low=0.8, high=1.28, dual=3.0), terms=terms)
