"""Whether a sampler with weights of its own drew from what is trained: log-probs of the step's tokens, both ways."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rekindle.core.ratios import MAX_LOG_RATIO
from rekindle.core.types import Batch, Metrics
from rekindle.errors import GuardStop


def agreement(batch: Batch, uids: Sequence[Tensor], allowed: float, cap: float) -> Metrics:
    """Statistics of w = pi_old / pi_sampled over the tokens of rows in `uids`; GuardStop where they are too far apart.

    uids: of the rows that this step sampled; others (demonstrations, older responses) are not compared. allowed: the
    largest mean of |log w|, in nats. cap: the ratio from which truncated importance sampling cuts.
    """
    if not uids:
        return {}
    mask = batch.live & torch.isin(batch.uid, torch.cat(list(uids)))[:, None]
    if not mask.any():
        return {}
    log = (batch.logp_old - batch.column("logp_sampled"))[mask].double()
    count, gap = len(log), log.abs().mean().item()
    if not torch.isfinite(log).all():
        broken = int((~torch.isfinite(log)).sum())
        raise GuardStop(
            f"{broken} of this step's {count} tokens have a log-prob that is no finite number, by the sampler or by "
            "the training model: look at the weights (descent.lr too large?) and number formats of both, and go on "
            "in a new run (--model CHECKPOINT)"
        )
    if not gap <= allowed:
        raise GuardStop(
            f"the sampler's log-probs of this step's {count} tokens are not those of the training model: mean "
            f"difference {gap:.2g} nats (allowed {allowed:g}), largest {log.abs().max().item():.2g}; look at its "
            "temperature, number format and weights, or raise vllm.tolerance"
        )
    ratio = log.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return {
        "sampler/gap": (gap * count, count),
        "sampler/ratio": (ratio.sum().item(), count),
        "sampler/ratio_max": (ratio.max().item(), 1.0),
        "sampler/capped": ((ratio > cap).sum().item(), count),
    }
