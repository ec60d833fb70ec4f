"""Tokens from logits by inverse CDF, so that a row's token depends on its own uniform and nothing else."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from rekindle.errors import GuardStop
from rekindle.tokens.sampling.base import Sampling


class Draw(NamedTuple):
    """Tokens; `logp` and `entropy` (nats) of the full tempered distribution, `logp_sampled` of the truncated one."""

    token: Int[Tensor, "*S"]
    logp: Float[Tensor, "*S"]
    logp_sampled: Float[Tensor, "*S"]
    entropy: Float[Tensor, "*S"]


def draw(logits: Float[Tensor, "B V"], uniform: Float64[Tensor, " B"], settings: Sampling, step: int = 0) -> Draw:
    """The token where the CDF (float64, in order of token id) first exceeds `uniform`; never one of probability 0.

    Raises `GuardStop` on a row whose logits are no distribution, at token `step` (from 0) of its response.
    """
    logp = torch.log_softmax(logits if settings.temperature == 1.0 else logits / settings.temperature, dim=-1)
    full = logp.exp()
    entropy = -(full * logp.masked_fill(logp == -torch.inf, 0.0)).sum(dim=-1)
    cdf = (full.masked_fill(~kept(full, settings), 0.0) if settings.truncates else full).cumsum(-1, dtype=torch.float64)
    total = cdf[:, -1:]
    if not bool((total > 0).all()):  # one logit of nan or +inf makes its whole row nan, or 0 where it is truncated
        raise GuardStop(
            f"the model's logits are not finite at step {step} of a response, for the weights diverged (or overflow in "
            "a narrow dtype): lower descent.lr and resume from the last checkpoint"
        )
    token = torch.searchsorted(cdf, uniform[:, None] * total, right=True)
    taken = logp.gather(1, token)[:, 0]
    sampled = taken - total[:, 0].log().to(taken.dtype) if settings.truncates else taken
    return Draw(token[:, 0], taken, sampled, entropy)


def kept(full: Float[Tensor, "B V"], settings: Sampling) -> Bool[Tensor, "B V"]:
    """The top_k most likely tokens, and of their renormalised shares the smallest set that reaches top_p.

    Equal probabilities go by token id. top_k before top_p is the order of transformers and vLLM.
    """
    ordered, index = full.sort(dim=-1, descending=True, stable=True)
    ordered = ordered.double()
    if settings.top_k > 0:
        ordered[:, settings.top_k :] = 0.0
    before = ordered.cumsum(dim=-1) - ordered
    keep = (before < settings.top_p * ordered.sum(dim=-1, keepdim=True)) & (ordered > 0)
    return torch.zeros_like(keep).scatter(1, index, keep)
