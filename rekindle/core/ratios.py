"""Importance ratios pi / pi_old of tokens, whole sequences (GSPO, Zheng et al., arXiv 2507.18071) and segments."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rekindle.core.masked import masked_mean
from rekindle.core.segments import segment_mean
from rekindle.core.types import Batch, Now

MAX_LOG_RATIO = 20.0  # verl clamps log-ratios, of KL estimates too, to +-20 before exp


def log_ratio(now: Now, batch: Batch) -> Float[Tensor, "B T"]:
    """logp - logp_old on live positions, clamped to +-20 (no gradient beyond); 0 elsewhere."""
    live = batch.live
    return (now.logp.where(live, 0.0) - batch.logp_old.where(live, 0.0)).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def token_ratio(now: Now, batch: Batch) -> Float[Tensor, "B T"]:
    """pi / pi_old of each action; 1 off live positions."""
    return log_ratio(now, batch).exp()


def sequence_ratio(now: Now, batch: Batch) -> Float[Tensor, " B"]:
    """Geometric mean of a row's token ratios, exp(sum of log-ratios / number of live positions); 1 for an empty row."""
    return masked_mean(log_ratio(now, batch), batch.live, dim=1).exp()


def segment_ratio(now: Now, batch: Batch, segment: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Geometric mean of the token ratios of each live position's segment; 1 off live positions."""
    return segment_mean(log_ratio(now, batch), segment.where(batch.live, -1)).exp()


def token_form(now: Now, batch: Batch, shared: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """A ratio with the value of `shared` whose gradient reaches each token's own logp only: s * d logp_t.

    exp(logp - sg(logp) + sg(log s)) of GSPO-token. With a mean over the tokens that share s, its gradient is that of s.
    """
    logp = now.logp.where(batch.live, 0.0)
    return torch.exp(logp - logp.detach()) * shared.detach()
