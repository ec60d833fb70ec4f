"""Sums, means and whitening that never look at a masked position: it may hold inf or nan, in value and in gradient.

Every function replaces masked entries by `torch.where` *before* any arithmetic, for 0 * inf is nan.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def masked_sum(x: Float[Tensor, "*s"], mask: Bool[Tensor, "*s"], dim: int | None = None) -> Tensor:
    """Sum of `x` over True positions, along `dim` or over everything; 0 where there is none."""
    return x.where(mask, 0.0).sum(dim=dim)


def masked_mean(x: Float[Tensor, "*s"], mask: Bool[Tensor, "*s"], dim: int | None = None) -> Tensor:
    """Mean of `x` over True positions, along `dim` or over everything; 0 where there is none."""
    return masked_sum(x, mask, dim) / mask.sum(dim=dim).clamp(min=1)


def masked_var(x: Float[Tensor, "*s"], mask: Bool[Tensor, "*s"], ddof: int = 0) -> Float[Tensor, ""]:
    """Variance of `x` over all True positions, divided by count - ddof; 0 where that is not positive."""
    count = mask.sum()
    spread = masked_sum((x.where(mask, 0.0) - masked_mean(x, mask)).square(), mask)
    return spread.where(count > ddof, 0.0) / (count - ddof).clamp(min=1)


def whiten(x: Float[Tensor, "*s"], mask: Bool[Tensor, "*s"], ddof: int = 0, eps: float = 1e-8) -> Float[Tensor, "*s"]:
    """(x - mean) / sqrt(var + eps) over True positions, 0 elsewhere; all 0 where every value is the same (max == min).

    `eps` is added to the variance, as verl and OpenRLHF do (verl ddof 1, OpenRLHF ddof 0).
    """
    high, low = x.where(mask, -float("inf")), x.where(mask, float("inf"))
    varied = mask.any() and bool(high.max() > low.min())
    z = (x.where(mask, 0.0) - masked_mean(x, mask)) / (masked_var(x, mask, ddof) + eps).sqrt()
    return z.where(mask & varied, 0.0)
