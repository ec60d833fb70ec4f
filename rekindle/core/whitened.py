"""Whitening of advantages over the rows of a batch, for methods that compare nothing within a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rekindle.core.advantages import require_finite, spread
from rekindle.core.masked import masked_mean, masked_var
from rekindle.core.types import Batch

EPS = 1e-8  # verl, added to the std


@dataclass(frozen=True)
class RowsWhitened:
    """(score - mean) / (sample std + 1e-8) over the live rows of the batch, every row once whatever its length."""

    needs_group: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T]; all 0 where every live row has the same score."""
        require_finite(batch)
        rows = batch.live_rows
        score = batch.score.where(rows, 0.0)
        constant = not rows.any() or bool(score[rows].max() == score[rows].min())
        whitened = (score - masked_mean(score, rows)) / (masked_var(score, rows, ddof=1).sqrt() + EPS)
        return spread(whitened * (not constant), batch)
