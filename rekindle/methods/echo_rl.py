"""EchoRL: the most uncertain step of the right answers is echoed: a small NLL on the response up to that step.

Bi et al., "EchoRL: Reinforcement Learning via Rollout Echoing", arXiv 2605.31228. Differs from its host (GRPO) by one
term that does not pass through the advantage, so a group that is all right still teaches. Not ECHO (2605.24517).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from rekindle.core.groups import group_min
from rekindle.core.method import Card, PolicyGradient
from rekindle.core.segments import segment_mean
from rekindle.core.types import ENTROPY_OLD, Batch, Metrics, Need, Now
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers
from rekindle.tokens.columns import Steps

CARD = Card(
    title="EchoRL",
    summary="Echoes the highest-entropy step of the right answers; learns from groups whose advantage is zero.",
    authors="Bi, Aniri, Yang, ..., Tresp, Ma",
    year=2026,
    arxiv="2605.31228",
    code="bibisbar/EchoRL (launch script; the actor itself is not in it)",
    parent="grpo",
    essence=("collect.columns", "prepare", "terms"),
    status="close",
    deviations=(
        "Inferred, as the actor is not published: mean over prompts, ties, step ends (the task's; official: newlines).",
        "The launch script's host is Dr. GRPO with an entropy bonus of 0.001; the host here is GRPO.",
    ),
    version=1,
    sources={"terms.0.coef": "paper and launch script: entropy_sft_coef 0.001"},
)


@dataclass(frozen=True, kw_only=True)
class MineEcho:
    """Cuts each prompt's clip: from the first token of the winner to the end of the winning step.

    That is the step with the highest mean entropy (at the sampling weights) among all successes of the prompt; ties:
    lowest uid, then earliest. scope: "any_success" (the paper's formula) or "all_success" (every graded row is right).
    """

    scope: Literal["any_success", "all_success"] = "any_success"
    needs: ClassVar[tuple[Need, ...]] = (ENTROPY_OLD,)

    def __call__(self, batch: Batch) -> Batch:
        """Fills `echo` [B T]: 1 / L on the L tokens of each clip, 0 elsewhere. Reads `entropy_old` and `segment`."""
        all_right = group_min(batch.success.double(), batch.group, batch.graded) == 1
        wins = batch.success & batch.live_rows & (all_right | (self.scope == "any_success"))
        segment, order = batch.column("segment"), batch.uid.argsort()
        mean = segment_mean(batch.column("entropy_old"), segment).masked_fill(~batch.live, float("-inf"))
        echo = mean.new_zeros(mean.shape)
        for group in batch.group[wins].unique():
            rows = order[(wins & (batch.group == group))[order]]
            peak = int(mean[rows].argmax())
            row, start = rows[peak // mean.shape[1]], peak % mean.shape[1]
            clip = batch.live[row] & (segment[row] <= segment[row, start])
            echo[row] = clip.to(echo.dtype) / clip.sum()
        return batch.with_columns(echo=echo)


@dataclass(frozen=True)
class EchoNLL:
    """coef * mean over the clips of the minibatch of each clip's mean NLL: plain likelihood, no ratio, no advantage."""

    coef: float
    separable: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ()

    def weights(self, batch: Batch) -> Float[Tensor, "B T"]:
        """1 / (L * number of clips in the minibatch) on the clips."""
        echo = batch.column("echo")
        return echo / (echo > 0).any(dim=1).sum().clamp(min=1)

    def per_token(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """-coef * logp; metric `echo/rows`, the share of rows that hold a clip."""
        return -self.coef * now.logp, {"echo/rows": (batch.column("echo").sum().item(), float(len(batch)))}


def method() -> PolicyGradient:
    """EchoRL on GRPO as a record of parts."""
    collect = Answers(columns=(Steps(),))
    return grpo.method().replace(collect=collect, prepare=(MineEcho(),), terms=(EchoNLL(coef=0.001),))
