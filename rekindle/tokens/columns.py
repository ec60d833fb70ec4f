"""Columns that need text or token ids: computed on rollouts, before core sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rekindle.core.segments import segments
from rekindle.tokens.rollouts import Rollouts


@dataclass(frozen=True)
class Steps:
    """`segment` [B T]: the number of the reasoning step of each token (-1 off the response).

    A step ends with a token whose text holds one of the task's step delimiters ("\\n" by default).
    """

    name: ClassVar[str] = "segment"

    def __call__(self, rollouts: Rollouts, run: Any) -> Tensor:
        """Int [B T]; each distinct token is decoded once."""
        ends = {i: self._ends(run, i) for i in rollouts.ids[rollouts.mask].unique().tolist()}
        width = max(ends, default=0) + 1
        table = torch.zeros(width, dtype=torch.bool)
        table[[i for i, end in ends.items() if end]] = True
        return segments(rollouts.mask, table[rollouts.ids.clamp(max=width - 1)] & rollouts.mask)

    @staticmethod
    def _ends(run: Any, token: int) -> bool:
        text = run.tokenizer.decode([token])
        return any(delimiter in text for delimiter in run.verifier.step_delimiters)
