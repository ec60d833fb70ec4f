"""How much of a clipped surrogate comes from right answers, at many clip bounds at once."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def positive_share(
    ratio: Float[Tensor, "*s"], advantage: Float[Tensor, "*s"], bounds: Float64[Tensor, "S 2"], value: bool = False
) -> Float64[Tensor, " S"]:
    """Mass of tokens with A > 0 over that of all, at each pair of bounds (low, high); 1 where there is no mass.

    The mass of a token is |A r| where it is not clipped (r < high if A > 0, r > low if A < 0), else 0; with `value` it
    is that of the clipped surrogate: |A| min(r, high), |A| max(r, low). The second falls as low rises.
    """
    (low, high), up, down = bounds.T, advantage > 0, advantage < 0
    inside, beyond = sums_around(ratio[up], advantage[up], high, right=False)
    under, above = sums_around(ratio[down], -advantage[down], low, right=True)
    plus = inside[0] + float(value) * high * beyond[1]
    minus = above[0] + float(value) * low * under[1]
    return (plus / (plus + minus)).where(plus + minus > 0, 1.0)


def sums_around(
    values: Float[Tensor, " N"], size: Float[Tensor, " N"], bounds: Float64[Tensor, " S"], right: bool
) -> tuple[Float64[Tensor, "2 S"], Float64[Tensor, "2 S"]]:
    """Sums of (value * size, size) below and above each of many bounds, by one sort. right: what is on it is below."""
    values, order = values.double().sort()
    sums = torch.stack([values * size[order], size[order].double()]).cumsum(dim=1)
    sums = torch.nn.functional.pad(sums, (1, 0))
    below = sums[:, torch.searchsorted(values, bounds.contiguous(), right=right)]
    return below, sums[:, -1:] - below
