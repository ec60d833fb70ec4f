"""Tokens from logits by inverse CDF, so that a row's token depends on its own uniform and nothing else."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from rekindle.errors import GuardStop
from rekindle.tokens.sampling.base import Sampling

_BLOCK = 128  # tokens whose probabilities are added before they are searched


class Draw(NamedTuple):
    """Tokens; `logp` and `entropy` (nats) of the full tempered distribution, `logp_sampled` of the truncated one."""

    token: Int[Tensor, "*S"]
    logp: Float[Tensor, "*S"]
    logp_sampled: Float[Tensor, "*S"]
    entropy: Float[Tensor, "*S"]


def draw(
    logits: Float[Tensor, "B V"], uniform: Float64[Tensor, " B"], settings: Sampling, step: int | Int[Tensor, " B"] = 0
) -> Draw:
    """The token where the CDF (float64, in order of token id) first exceeds `uniform`; never one of probability 0.

    Raises `GuardStop` on a row whose logits are no distribution, at token `step` (from 0) of its response.
    """
    logp = torch.log_softmax(logits if settings.temperature == 1.0 else logits / settings.temperature, dim=-1)
    full = logp.exp()
    entropy = -(full * logp).sum(dim=-1)
    if bool(entropy.isnan().any()):  # 0 * -inf; the extra passes are for this rare case only
        entropy = -(full * logp.masked_fill(logp == -torch.inf, 0.0)).sum(dim=-1)
    share = full.masked_fill(~kept(full, settings), 0.0) if settings.truncates else full
    upto = _block_sums(share).cumsum(-1)
    total = upto[:, -1]
    good = total > 0  # one logit of nan or +inf makes its whole row nan, or 0 where it is truncated
    if not bool(good.all()):
        where = step if isinstance(step, int) else int(step[~good][0])
        raise GuardStop(
            f"the model's logits are not finite at step {where} of a response, for the weights diverged (or overflow "
            "in a narrow dtype): lower descent.lr and resume from the last checkpoint"
        )
    token = _search(share, upto, uniform * total)
    taken = logp.gather(1, token[:, None])[:, 0]
    sampled = taken - total.log().to(taken.dtype) if settings.truncates else taken
    return Draw(token, taken, sampled, entropy)


def _block_sums(share: Float[Tensor, "B V"]) -> Float64[Tensor, "B N"]:
    """Sums of _BLOCK tokens each, of what is left in the last one: a CDF over these is short."""
    whole = share.shape[1] // _BLOCK * _BLOCK
    sums = share[:, :whole].unflatten(1, (-1, _BLOCK)).sum(-1, dtype=torch.float64) if whole else None
    rest = share[:, whole:].sum(-1, keepdim=True, dtype=torch.float64)
    return rest if sums is None else torch.cat((sums, rest), 1)


def _search(
    share: Float[Tensor, "B V"], upto: Float64[Tensor, "B N"], target: Float64[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """First the block in which the CDF exceeds `target`, then the token in it."""
    block = torch.searchsorted(upto, target[:, None], right=True)
    before = torch.where(block > 0, upto.gather(1, (block - 1).clamp(min=0)), 0.0)
    index = block * _BLOCK + torch.arange(_BLOCK, device=share.device)
    last = share.shape[1] - 1
    inside = share.gather(1, index.clamp(max=last)).double().masked_fill_(index > last, 0.0)
    place = torch.searchsorted(before + inside.cumsum(-1), target[:, None], right=True)
    possible = (inside > 0).cumsum(-1).argmax(-1, keepdim=True)  # the last one, where the two sums round differently
    return (block * _BLOCK + torch.minimum(place, possible))[:, 0]


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
