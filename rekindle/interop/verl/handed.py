"""What verl hands to a policy loss and to an advantage estimator, as a `Batch` and a `Now`.

A policy loss sees log-probs, advantages and a mask of one micro-batch: no group, no score, no entropy, no step. Each
row is therefore a group of its own, and its `uid` is made of the bits of its own log-probs: the same rows draw the same
numbers however they are cut, and other weights draw others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from rekindle.core.random import pack_key
from rekindle.core.types import Batch, Now
from rekindle.tokens.rollouts import PromptRows

_ODD = 0x9E3779B97F4A7C15 - 2**64  # 2^64 over the golden ratio, as a signed number: Knuth's multiplicative hashing


def batch_of(mask: Shaped[Tensor, "B T"], score: Float[Tensor, " B"], group: Int[Tensor, " B"]) -> Batch:
    """A batch whose actions, prompts and successes are not known and stand at 0.

    mask: 1 on the response's tokens, of any number format. A row without any, as verl pads batches with and leaves of a
    rejected response, is not graded: it is in no statistic. uid: the place of the row.
    """
    live = mask.bool()
    rows = torch.arange(len(live), device=live.device)
    return Batch(
        action=torch.zeros_like(live, dtype=torch.int64),
        mask=live,
        uid=rows,
        group=group,
        success=torch.zeros_like(rows, dtype=torch.bool),
        graded=live.any(dim=1),
        score=score,
        prompt=PromptRows(((),) * len(rows)),
        key=pack_key(0, 0, 0).to(live.device),
    )


def loss_batch(
    old_log_prob: Float[Tensor, "B T"],
    log_prob: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    limit: int | None,
) -> tuple[Batch, Now]:
    """(the micro-batch with `logp_old`, `advantage` and, where known, `limit` in tokens; what the policy says of it).

    The entropies of `Now` are 0: a part that would read them is refused when the method is registered.
    """
    live = mask.bool()
    old, advantage = old_log_prob.detach().where(live, 0.0), advantages.detach().where(live, 0.0)
    logp = log_prob.where(live, 0.0)
    rows = torch.arange(len(live), device=live.device)
    batch = batch_of(mask, torch.zeros_like(logp[:, 0]).detach(), rows)
    columns: dict[str, Any] = {"logp_old": old, "advantage": advantage}
    columns |= {} if limit is None else {"limit": torch.full_like(batch.score, float(limit))}
    batch = replace(batch, uid=row_ids(old, logp.detach())).with_columns(**columns)
    return batch, Now(logp=logp, entropy=torch.zeros_like(logp).detach())


def row_ids(*tables: Float[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """One number a row, a hash of the bits of the tables' values [B T] that are not 0 (padding changes nothing)."""
    total = torch.zeros(tables[0].shape[0], dtype=torch.int64, device=tables[0].device)
    for table in tables:
        place = torch.arange(1, table.shape[1] + 1, device=table.device) * 2 + 1
        bits = table.double().contiguous().view(torch.int64)
        total = total * _ODD + (bits.where(table != 0, 0) * (place * _ODD)).sum(dim=1)
    return total


def groups_of(index: Sequence[Any], device: torch.device) -> Int[Tensor, " B"]:
    """verl's `uid` of each row as numbers: rows of one prompt share one, in the order of their first rows."""
    number: dict[Any, int] = {}
    return torch.tensor([number.setdefault(one, len(number)) for one in index], dtype=torch.int64, device=device)
