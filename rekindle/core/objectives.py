"""The clipped surrogate of PPO (Schulman et al., arXiv 1707.06347), by token, by sequence (GSPO) or by segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.masked import masked_sum
from rekindle.core.ratios import log_ratio, segment_ratio, sequence_ratio, token_form, token_ratio
from rekindle.core.schedules import Scalar, Schedule, plain
from rekindle.core.types import Batch, Metrics, Now


@dataclass(frozen=True, kw_only=True)
class Clip:
    """max(-A r, -A clip(r, low, high)); with `dual`, where A < 0, min(that, -dual A) (Ye et al., arXiv 1912.09729).

    Bounds are ratios. level: "token" has one ratio a token; "sequence" the geometric mean of the row (GSPO, use it with
    `SequenceMean` and bounds such as 1 - 3e-4, 1 + 4e-4); "segment" that of the ids in the column `segment`.
    The ratio of a level is in token form: a per-token A is allowed, and the gradient reaches each token's own logp.
    """

    low: Scalar = 0.8
    high: Scalar = 1.2
    dual: Scalar | None = None
    level: Literal["token", "sequence", "segment"] = "token"
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        low, high, dual = self.low, self.high, self.dual
        if not isinstance(low, Schedule) and not 0 <= low <= 1:
            raise ValueError(f"the lower clip bound is a ratio from 0 to 1, not {low}: write 0.8 for a width of 0.2")
        if not isinstance(high, Schedule) and not high >= 1:
            raise ValueError(f"the upper clip bound is a ratio from 1 up, not {high}: write 1.2 for a width of 0.2")
        if dual is None or isinstance(dual, Schedule) or isinstance(high, Schedule):
            return
        if not dual > high:
            raise ValueError(f"the dual clip bound {dual} must lie above the upper clip bound {high}: 3 is usual")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token [B T], 0 off live positions; metrics as sums and counts over live tokens)."""
        live = batch.live
        ratio = self.ratio(now, batch)
        advantage = batch.advantage.where(live, 0.0)
        loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(plain(self.low), plain(self.high)))
        if self.dual is not None:
            loss = torch.where(advantage < 0, torch.minimum(loss, -plain(self.dual) * advantage), loss)
        metrics = ratio_metrics(now, batch, ratio, plain(self.low), plain(self.high))
        if self.dual is not None:
            beyond = (ratio.detach() > plain(self.dual)) & (advantage < 0)
            metrics["clip_dual"] = share(beyond, live & (advantage != 0))
        return loss.where(live, 0.0), metrics

    def ratio(self, now: Now, batch: Batch) -> Float[Tensor, "B T"]:
        """The ratio that is clipped, one a token; 1 off live positions."""
        if self.level == "token":
            return token_ratio(now, batch)
        if self.level == "sequence":
            shared = sequence_ratio(now, batch)[:, None].expand_as(now.logp)
        else:
            shared = segment_ratio(now, batch, batch.column("segment"))
        return token_form(now, batch, shared.where(batch.live, 1.0))


def ratio_metrics(
    now: Now, batch: Batch, ratio: Float[Tensor, "B T"], low: float | Tensor, high: float | Tensor
) -> Metrics:
    """What became of the ratios: shares of tokens beyond `low` and `high` whose advantage points outwards, and means.

    `clip_high`, `clip_low` count tokens with an advantage, for others can never be clipped; `outside` counts all;
    `update_kl_k3` is k3 of KL(old || now) on samples of old: the change that this update has made so far.
    """
    live = batch.live
    ratio, advantage, moved = ratio.detach(), batch.advantage.where(live, 0.0), log_ratio(now.detach(), batch)
    over, under, counted = ratio > high, ratio < low, live & (advantage != 0)
    return {
        "clip_high": share(over & (advantage > 0), counted),
        "clip_low": share(under & (advantage < 0), counted),
        "outside": share(over | under, live),
        "ratio": (masked_sum(ratio, live).item(), float(live.sum().item())),
        "update_kl_k3": (masked_sum(moved.exp() - moved - 1, live).item(), float(live.sum().item())),
    }


def share(hit: Bool[Tensor, "B T"], counted: Bool[Tensor, "B T"]) -> tuple[float, float]:
    """(number of hits among the counted positions, number of counted positions): a metric that is a share, 0 to 1."""
    return float((hit & counted).sum().item()), float(counted.sum().item())
