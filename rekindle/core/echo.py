"""Rollout echoing (EchoRL, Bi et al., arXiv 2605.31228): a small NLL on a piece of a right response of each prompt.

Likelihood does not pass through the advantage, so a prompt that is all right still teaches. What it teaches depends on
the piece alone: an unselected piece of one's own samples has an expected gradient of zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rekindle.core.groups import group_min
from rekindle.core.random import uniforms
from rekindle.core.segments import segment_mean
from rekindle.core.types import ENTROPY_OLD, Batch, Metrics, Need, Now


@dataclass(frozen=True, kw_only=True)
class MineEcho:
    """Cuts each prompt's clip: from the first token of the winner to the end of the winning step.

    choose: "entropy", the step with the highest mean entropy (at the sampling weights) among all successes of the
    prompt; ties: lowest uid, then earliest. "random": any step of them, all equally likely. "whole": any success, to
    its end. scope: "any_success" (the paper's formula) or "all_success" (only where every graded row is right).
    Steps of fewer than `min_step_tokens` cannot win: a mean of few tokens is noisy, and so the shortest often wins.
    """

    scope: Literal["any_success", "all_success"] = "any_success"
    choose: Literal["entropy", "random", "whole"] = "entropy"
    min_step_tokens: int = 1
    needs: ClassVar[tuple[Need, ...]] = (ENTROPY_OLD,)

    def __post_init__(self) -> None:
        if self.min_step_tokens < 1:
            raise ValueError(f"a step that may win has at least 1 token, not {self.min_step_tokens}")

    def __call__(self, batch: Batch) -> Batch:
        """Fills `echo` [B T], 1 / L on the L tokens of each clip, and `echo_step` [B T], True on the winning steps."""
        all_right = group_min(batch.success.double(), batch.group, batch.graded) == 1
        wins = batch.success & batch.live_rows & (all_right | (self.scope == "any_success"))
        segment, order = self._segment(batch), batch.uid.argsort()
        worth = self._worth(batch, segment).masked_fill(~self._allowed(batch, segment), float("-inf"))
        echo = batch.column("entropy_old").new_zeros(worth.shape)
        step = batch.live & False
        for group in batch.group[wins].unique():
            rows = order[(wins & (batch.group == group))[order]]
            peak = int(worth[rows].argmax())
            row, start = rows[peak // worth.shape[1]], peak % worth.shape[1]
            if worth[row, start] > float("-inf"):
                clip = batch.live[row] & (segment[row] <= segment[row, start])
                echo[row] = clip.to(echo.dtype) / clip.sum()
                step[row] = batch.live[row] & (segment[row] == segment[row, start])
        return batch.with_columns(echo=echo, echo_step=step)

    def _segment(self, batch: Batch) -> Int[Tensor, "B T"]:
        return batch.live.long() - 1 if self.choose == "whole" else batch.column("segment")

    def _worth(self, batch: Batch, segment: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        if self.choose == "entropy":
            return segment_mean(batch.column("entropy_old"), segment)
        # One draw a step; the key is not the sampler's, whose draws chose the tokens.
        return uniforms(batch.key - 1, batch.uid, segment.shape[1]).gather(1, segment.clamp(min=0))

    def _allowed(self, batch: Batch, segment: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        if self.choose == "whole" or self.min_step_tokens == 1:
            return batch.live
        return batch.live & (step_sizes(batch.live, segment) >= self.min_step_tokens)


def step_sizes(live: Bool[Tensor, "B T"], segment: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The number of live tokens of each live position's step; 0 elsewhere."""
    slot = segment.clamp(min=0)
    count = live.new_zeros(slot.shape).long().scatter_add(1, slot, (live & (segment >= 0)).long())
    return count.gather(1, slot).where(live, 0)


@dataclass(frozen=True)
class EchoNLL:
    """coef * mean over the clips of the minibatch of each clip's mean NLL: plain likelihood, no ratio, no advantage.

    watch: also log the norm of this term's gradient and its ratio to that of everything else (one more backward pass,
    over the rows that hold a clip).
    """

    coef: float
    watch: bool = False
    separable: ClassVar[bool] = True
    regularizes: ClassVar[bool] = False
    positive_signal: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ()

    def weights(self, batch: Batch) -> Float[Tensor, "B T"]:
        """1 / (L * number of clips in the minibatch) on the clips."""
        echo = batch.column("echo")
        return echo / (echo > 0).any(dim=1).sum().clamp(min=1)

    def per_token(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """-coef * logp; metrics of the clips.

        `echo/rows`: the share of rows that hold one; `echo/step_tokens`: length of the winning step; `echo/position`:
        where it ends, as a share of its response.
        """
        clip = batch.column("echo") > 0
        rows = clip.any(dim=1)
        ends = clip.sum(dim=1) / batch.live.sum(dim=1).clamp(min=1)
        clips = float(rows.sum().item())
        return -self.coef * now.logp, {
            "echo/rows": (batch.column("echo").sum().item(), float(len(batch))),
            "echo/step_tokens": (float(batch.column("echo_step").sum().item()), clips),
            "echo/position": (ends[rows].sum().item(), clips),
        }
