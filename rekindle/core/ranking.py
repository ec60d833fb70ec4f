"""Which tokens of a minibatch rank highest, exactly as many as asked for.

The choice depends on no row order: a `topk` breaks ties as it likes, a threshold keeps them all.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SLACK = 1e-9  # 0.55 * 100 is 55.00000000000001 in floats, whose ceiling is 56


def largest(
    values: Float[Tensor, "B T"], pool: Bool[Tensor, "B T"], uid: Int[Tensor, " B"], count: int
) -> Bool[Tensor, "B T"]:
    """The `count` positions of `pool` with the largest values (all of them where it is smaller).

    Ties go to the lowest uid, then to the earliest position. Values off the pool may be anything.
    """
    rows = uid.argsort()
    inside = pool[rows].flatten().nonzero()[:, 0]
    order = values[rows].flatten()[inside].argsort(descending=True, stable=True)
    chosen = torch.zeros(pool.numel(), dtype=torch.bool, device=pool.device)
    chosen[inside[order[:count]]] = True
    return chosen.view(pool.shape)[rows.argsort()]


def count_up(share: float, pool: Bool[Tensor, "B T"]) -> int:
    """share * size of the pool, rounded up, at least one token; 0 for an empty pool."""
    size = int(pool.sum())
    return min(max(1, math.ceil(share * size - SLACK)), size)


def count_down(share: float, pool: Bool[Tensor, "B T"]) -> int:
    """share * size of the pool, rounded down, at least one token; 0 for an empty pool or a share of 0."""
    size = int(pool.sum())
    return min(max(1, math.floor(share * size + SLACK)), size) if share > 0 else 0


def upper(values: Float[Tensor, " N"], share: float) -> float:
    """The smallest value that at least `share` of the values (one or more) do not exceed: a quantile, none invented."""
    return values.sort().values[count_up(share, torch.ones_like(values, dtype=torch.bool)[None]) - 1].item()


def check_share(what: str, share: float, low: float = 0.0) -> None:
    """ValueError where `share` is not a share from `low` (0 itself is in only if it is `low`) up to 1."""
    if not low <= share <= 1:
        raise ValueError(f"{what} is a share of the tokens from {low:g} to 1, not {share}: percents are divided by 100")
