"""Objectives on differences of rewards within a prompt: P3O's clipped pairs and CoPG's contrastive policy gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.groups import group_count, group_mean, group_sum
from rekindle.core.pairs import all_pairs, of_prompts, row_log_ratio, row_sum
from rekindle.core.ratios import MAX_LOG_RATIO
from rekindle.core.types import LOGP_REF, Batch, Metrics, Need, Now


@dataclass(frozen=True, kw_only=True)
class PairwiseClip:
    """A pair's reward difference times what its two log-probs moved: P3O (Wu et al., arXiv 2310.00212).

    l is a response's log-ratio to the sampling weights, rho = exp(l), r = score - beta * log(old / reference) constant.
    version "separate": -(o_1 + o_2) / 2 with o_i = min(w_i rho_i, w_i clip(rho_i)), w_i = (r_i - r_j) clip(rho_j), the
    clip to 1 +- eps. "joint": -min(w d, w clip(d, +-delta)) / 2 with d = l_1 - l_2, w = (r_1 - r_2) clip(rho_1 rho_2).
    clip_weight: False leaves the rho within w as it is. length_norm: l is divided by the number of tokens.
    """

    version: Literal["separate", "joint"] = "separate"
    eps: float = 0.2
    delta: float = 0.2
    beta: float = 0.05
    clip_weight: bool = True
    length_norm: bool = False
    separable: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (LOGP_REF,)

    def __post_init__(self) -> None:
        if not 0 < self.eps < 1:
            raise ValueError(f"eps is the clip's width around a ratio of 1, between 0 and 1, not {self.eps}")
        if not self.delta > 0:
            raise ValueError(f"delta is the clip's width around a difference of 0, above 0, not {self.delta}")
        if not self.beta >= 0:
            raise ValueError(f"beta is the weight of the KL in the reward, 0 or more, not {self.beta}")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(each prompt's mean loss on its live tokens; shares: `pair/tied` of pairs, `pair/clipped` of the others)."""
        pairs = all_pairs(batch)
        move = row_log_ratio(now, batch, "logp_old", self.length_norm).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        reward = batch.score - self.beta * (row_sum(batch.logp_old, batch) - row_sum(batch.column("logp_ref"), batch))
        gap = reward[pairs.first] - reward[pairs.second]
        loss = self._separate if self.version == "separate" else self._joint
        values, clipped = loss(gap, move[pairs.first], move[pairs.second])
        metrics = {
            "pair/tied": (float((gap == 0).sum().item()), float(len(pairs))),
            "pair/clipped": (float((clipped & (gap != 0)).sum().item()), float((gap != 0).expand_as(clipped).sum())),
        }
        return of_prompts(pairs.prompt_mean(values), batch), metrics

    def _separate(
        self, gap: Float[Tensor, " N"], one: Float[Tensor, " N"], two: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, " N"], Bool[Tensor, "2 N"]]:
        rho = torch.stack([one, two]).exp()
        weight = torch.stack([gap, -gap]) * self._weight(rho.flip(0))
        full, cut = weight * rho, weight * rho.clamp(1 - self.eps, 1 + self.eps)
        return -torch.minimum(full, cut).sum(dim=0) / 2, cut < full

    def _joint(
        self, gap: Float[Tensor, " N"], one: Float[Tensor, " N"], two: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
        weight, moved = gap * self._weight((one + two).exp()), one - two
        full, cut = weight * moved, weight * moved.clamp(-self.delta, self.delta)
        return -torch.minimum(full, cut) / 2, cut < full

    def _weight(self, rho: Tensor) -> Tensor:
        return (rho.clamp(1 - self.eps, 1 + self.eps) if self.clip_weight else rho).detach()


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    """Differences of regularised rewards weigh differences of log-ratios: CoPG (Flet-Berliac et al., arXiv 2406.19185).

    h is a response's log-ratio to the reference, R_b = R - b h. Of n responses, the sum over pairs / (n - 1), in O(n):
    "regression": (R_beta - R_beta')^2 / (2 beta), which goes to 0; "full": -(R_(beta/2) - R_(beta/2)') (h - h'), the
    gradient through all of it; "detached": -sg[R_beta - R_beta'] (h - h'), for beta = 0, too. All have one gradient.
    "plain": -sg[R_beta] h, no baseline: off-policy it has another optimum, and is what CoPG is compared with.
    length_norm: h is a mean over tokens, another objective.
    """

    beta: float = 0.06
    form: Literal["regression", "full", "detached", "plain"] = "regression"
    length_norm: bool = False
    separable: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (LOGP_REF,)

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise ValueError(f"beta is the weight of the KL in the reward, 0 or more, not {self.beta}")
        if self.beta == 0 and self.form == "regression":
            raise ValueError("the form 'regression' divides by beta, which is 0: set form=detached before beta=0")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(each prompt's loss on its live tokens; metric `log_ratio`, the mean of h over responses)."""
        rows = batch.live_rows
        h = row_log_ratio(now, batch, "logp_ref", self.length_norm)
        loss = group_sum(self.by_row(batch.score.where(rows, 0.0), h, batch), batch.group, rows)
        metrics: Metrics = {"log_ratio": (h.detach().sum().item(), float(rows.sum().item()))}
        return of_prompts(loss, batch), metrics

    def by_row(self, score: Float[Tensor, " B"], h: Float[Tensor, " B"], batch: Batch) -> Float[Tensor, " B"]:
        """What each row adds to the loss of its prompt; `score` and `h` are finite."""
        rows = batch.live_rows
        n = group_count(batch.group, rows).to(h.dtype)  # whole numbers would be divided in single precision
        factor = n / (n - 1).clamp(min=1)

        def centred(x: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
            return x - group_mean(x, batch.group, rows)

        if self.form == "plain":
            return -(score - self.beta * h).detach() * h
        if self.form == "regression":
            return factor * centred(score - self.beta * h).square() / (2 * self.beta)
        if self.form == "full":
            return -factor * centred(score - self.beta / 2 * h) * centred(h)
        return -factor * centred(score - self.beta * h).detach() * centred(h)
