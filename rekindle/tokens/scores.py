"""Log-probs and entropies from hidden states, without logits of more than a chunk of tokens.

The gradient of both has a closed form in the softmax p: d logp = onehot - p and d H = -p (log p + H). So the backward
pass needs the logits of one chunk at a time, recomputed unless all tokens fit into one, and the head's gradient is
added up in place. The entropy's part is computed only where the loss looks at the entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

KEPT, CHUNK = 2**25, 2**24
"""Logits that are kept for the backward pass (128 MiB in float32), and those of a chunk where there are more."""


def chunk_of(vocabulary: int, tokens: int) -> int:
    """Tokens whose logits are computed together: all of them where they may be kept."""
    return max(1, tokens if tokens * vocabulary <= KEPT else CHUNK // vocabulary)


class HeadScores(torch.autograd.Function):
    """(hidden [N D], weight [V D], action [N], factor, chunk) -> (logp [N], entropy [N]) of softmax(factor * W h).

    Under autocast the products are taken in its dtype, all else in float32. Not differentiable twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "N D"],
        weight: Float[Tensor, "V D"],
        action: Int[Tensor, " N"],
        factor: float,
        chunk: int,
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Scores, chunk by chunk; keeps the logits where one chunk holds them all."""
        kind = hidden.device.type
        narrow = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        ctx.set_materialize_grads(False)
        ctx.dtypes, ctx.factor, ctx.chunk = (hidden.dtype, weight.dtype), factor, chunk
        hidden, weight = hidden.to(narrow), weight.to(narrow)
        pieces, logp = [], None
        for part in slices(len(action), chunk):
            logp = _logits(hidden[part], weight, factor)
            entropy, lse = _normalized(logp)
            pieces.append((logp.gather(1, action[part, None])[:, 0], entropy, lse))
        taken, entropy, lse = (torch.cat(column) for column in zip(*pieces, strict=True))
        kept = logp if len(pieces) == 1 and any(ctx.needs_input_grad) else None
        ctx.save_for_backward(hidden, weight, action, lse, entropy, kept)
        return taken, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # as torch documents it
        ctx: Any, by_logp: Tensor | None, by_entropy: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """Gradients for hidden states and head."""
        hidden, weight, action, lse, entropy, kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2] if by_logp is not None or by_entropy is not None else (False, False)
        d_hidden = torch.empty_like(hidden) if wanted[0] else None
        d_weight = torch.zeros_like(weight, dtype=ctx.dtypes[1]) if wanted[1] else None
        for part in slices(len(action), ctx.chunk) if any(wanted) else ():
            fresh = kept is None
            logp = _logits(hidden[part], weight, ctx.factor).sub_(lse[part, None]) if fresh else kept.clone()
            slope = _slope(logp, entropy[part], action[part], _part(by_logp, part), _part(by_entropy, part))
            slope = slope.mul_(ctx.factor).to(weight.dtype)
            if d_hidden is not None:
                torch.mm(slope, weight, out=d_hidden[part])
            if d_weight is not None:
                _add_product(d_weight, slope, hidden[part])
        back = None if d_hidden is None else d_hidden.to(ctx.dtypes[0])
        return back, d_weight, None, None, None


def slices(total: int, chunk: int) -> list[slice]:
    """Slices that cover `total` tokens; one empty slice where there are none."""
    return [slice(start, start + chunk) for start in range(0, max(total, 1), chunk)]


def _part(column: Tensor | None, part: slice) -> Tensor | None:
    return None if column is None else column[part]


def _logits(hidden: Float[Tensor, "N D"], weight: Float[Tensor, "V D"], factor: float) -> Float[Tensor, "N V"]:
    logits = hidden @ weight.T
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits if factor == 1.0 else logits.mul_(factor)


def _blocks(table: Tensor) -> Sequence[Tensor]:
    """Views of an eighth of the rows each: what is computed from a block is as small as that."""
    return table.split(max(1, -(-len(table) // 8)))


def _normalized(logits: Float[Tensor, "N V"]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Turns logits into log-probs in their place; the entropies, and what was subtracted."""
    entropy, lse = [], []
    for block in _blocks(logits):
        lse.append(torch.logsumexp(block, dim=1))
        block.sub_(lse[-1][:, None])
        entropy.append(-block.exp().mul_(block).sum(dim=1))
    return torch.cat(entropy), torch.cat(lse)


def _slope(
    logp: Float[Tensor, "N V"],
    entropy: Float[Tensor, " N"],
    action: Int[Tensor, " N"],
    by_logp: Float[Tensor, " N"] | None,
    by_entropy: Float[Tensor, " N"] | None,
) -> Float[Tensor, "N V"]:
    """d loss / d logits = by_logp * (onehot - p) - by_entropy * p * (log p + H), in the place of `logp`."""
    own = torch.zeros_like(entropy) if by_logp is None else by_logp.to(entropy.dtype)
    if by_entropy is None:
        logp.exp_().mul_(-own[:, None])
    else:
        level = (by_entropy * entropy + own)[:, None]
        for block, by, base in zip(*map(_blocks, (logp, by_entropy[:, None], level)), strict=True):
            share = block.exp()
            block.mul_(by).add_(base).mul_(share).neg_()
    return logp.scatter_add_(1, action[:, None], own[:, None])


def _add_product(total: Float[Tensor, "V D"], slope: Float[Tensor, "N V"], hidden: Float[Tensor, "N D"]) -> None:
    if slope.dtype == total.dtype:
        total.addmm_(slope.T, hidden)
    else:
        total += slope.T @ hidden
