"""Stratified GRPO: responses of a prompt compete with those of their own structure, blended with the whole group.

Zhu, Chen, Yu, Zhao, Jia, "Stratified GRPO: Handling Structural Heterogeneity in RL of LLM Search Agents", arXiv
2510.06214. Differs from GRPO in the advantage; a stratum is any whole number known of a response.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.strata import Stratified
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.columns import Steps
from rekindle.tokens.rollouts import Rollouts

PURE = {"advantage.alpha": 1.0}
CARD = Card(
    title="Stratified GRPO",
    summary="Scores normalised among the responses of like structure, blended with the group's.",
    authors="Zhu, Chen, Yu, Zhao, Jia",
    year=2025,
    arxiv="2510.06214",
    code=None,
    parent="grpo",
    essence=("collect.columns", "advantage"),
    status="close",
    deviations=(
        "The paper's strata are numbers of search calls; the default here is the number of steps of a response. Any "
        "column part named `stratum` serves.",
        "Inferred: a response alone in its stratum gets 0 there, and both parts use GRPO's standard deviation.",
    ),
    version=1,
    sources={
        "advantage.alpha": "appendix, as a reviewer quotes it: 0.6 for Qwen2.5-3B",
        "collect.columns.0.most": "ours: no strata are merged",
    },
    effects=(
        Effect(
            claim="The blend learns the skills of every stratum and the best stratum: more reward than GRPO.",
            bed="strata",
            metric="reward",
        ),
        Effect(
            claim="Pure strata never learn which stratum is best, the blend does.",
            bed="strata",
            metric="top",
            against="stratified_grpo",
            against_options=PURE,
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """`stratum` [B]: the number of steps of each response (by="steps"), or how often its text holds `by`, a tool's tag.

    most: strata beyond this number are merged into it (None: none are), since rare ones are all singletons.
    """

    by: str = "steps"
    most: int | None = None
    name: ClassVar[str] = "stratum"

    def __call__(self, rollouts: Rollouts, run: Any) -> Tensor:
        """Int [B]."""
        if self.by == "steps":
            found = Steps()(rollouts, run).amax(dim=1) + 1
        else:
            found = torch.tensor([text.count(self.by) for text in rollouts.text])
        return found if self.most is None else found.clamp(max=self.most)


def method() -> PolicyGradient:
    """Stratified GRPO as a record of parts."""
    return grpo.method().replace(collect=Answers(columns=(Stratum(),)), advantage=Stratified(alpha=0.6))
