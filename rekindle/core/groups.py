"""Statistics over groups of rows: by group id, in any row order, for any sizes; only `valid` rows count.

Every function gives the statistic of a row's group back to each row of the group, the rows that do not count included.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def group_index(group: Int[Tensor, " B"]) -> tuple[Int[Tensor, " B"], int]:
    """(index of each row's group in 0 .. P-1, number of groups P)."""
    ids, index = torch.unique(group, return_inverse=True)
    return index, ids.numel()


def group_sum(x: Float[Tensor, " B"], group: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Sum of `x` over the valid rows of each row's group; 0 where there is none."""
    index, groups = group_index(group)
    return x.new_zeros(groups).scatter_add(0, index, x.where(valid, 0.0))[index]


def group_count(group: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Number of valid rows in each row's group."""
    index, groups = group_index(group)
    return torch.zeros(groups, dtype=torch.int64, device=group.device).scatter_add(0, index, valid.long())[index]


def group_mean(x: Float[Tensor, " B"], group: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Mean of `x` over the valid rows of each row's group; 0 where there is none."""
    return group_sum(x, group, valid) / group_count(group, valid).clamp(min=1)


def group_std(
    x: Float[Tensor, " B"], group: Int[Tensor, " B"], valid: Bool[Tensor, " B"], ddof: int = 1
) -> Float[Tensor, " B"]:
    """Standard deviation over the valid rows of each row's group; exactly 0 where constant and for count <= ddof."""
    count = group_count(group, valid)
    spread = group_sum((x - group_mean(x, group, valid)).square(), group, valid)
    std = (spread / (count - ddof).clamp(min=1)).sqrt()
    # Rounding of the mean leaves a spread of 6e-8 in a constant group, which an epsilon would magnify.
    return std.where((count > ddof) & ~group_constant(x, group, valid), 0.0)


def group_min(x: Float[Tensor, " B"], group: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Smallest `x` of the valid rows of each row's group; 0 where there is none."""
    return _extreme(x, group, valid, "amin")


def group_max(x: Float[Tensor, " B"], group: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Largest `x` of the valid rows of each row's group; 0 where there is none."""
    return _extreme(x, group, valid, "amax")


def group_constant(x: Float[Tensor, " B"], group: Int[Tensor, " B"], valid: Bool[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """Whether max == min over the valid rows of each row's group; True for a single row and for none."""
    return group_max(x, group, valid) == group_min(x, group, valid)


def _extreme(
    x: Float[Tensor, " B"], group: Int[Tensor, " B"], valid: Bool[Tensor, " B"], which: Literal["amin", "amax"]
) -> Float[Tensor, " B"]:
    index, groups = group_index(group)
    start = float("inf") if which == "amin" else -float("inf")
    best = x.new_full((groups,), start).scatter_reduce(0, index, x.where(valid, start), which)[index]
    return best.where(group_count(group, valid) > 0, 0.0)
