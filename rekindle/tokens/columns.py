"""Columns that need text or token ids: computed on rollouts, before core sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rekindle.core.segments import segments
from rekindle.tokens.rollouts import Rollouts


@dataclass(frozen=True)
class Steps:
    """`segment` [B T]: the number of the reasoning step of each token (-1 off the response).

    A step ends with a token of `ids`, where there are any; else with a token whose text `ends` accepts, where it is
    given; else with one whose text holds one of the task's step delimiters ("\\n" by default). In this last case a
    token that holds more than that (".\\n") is content as well; the others are nothing but delimiters.
    """

    ids: tuple[int, ...] = ()
    ends: Callable[[str], bool] | None = None
    name: ClassVar[str] = "segment"

    def __call__(self, rollouts: Rollouts, run: Any) -> Tensor:
        """Int [B T]; each distinct token is decoded once."""
        kinds = {i: self._kind(run, i) for i in rollouts.ids[rollouts.mask].unique().tolist()}
        width = max(kinds, default=0) + 1
        table = torch.zeros(2, width, dtype=torch.bool)
        for i, kind in kinds.items():
            table[:, i] = torch.tensor(kind)
        ends, bare = table[:, rollouts.ids.clamp(max=width - 1)] & rollouts.mask
        return segments(rollouts.mask, ends, bare)

    def _kind(self, run: Any, token: int) -> tuple[bool, bool]:
        """Whether a token ends a step, and whether it holds nothing but delimiters."""
        if self.ids:
            return token in self.ids, token in self.ids
        text: str = run.tokenizer.decode([token])
        if self.ends is not None:
            return self.ends(text), self.ends(text)
        left = text
        for delimiter in run.verifier.step_delimiters:
            left = left.replace(delimiter, "")
        return left != text, left != text and not left.strip()


@dataclass(frozen=True)
class AtStep:
    """`step` [B]: the number of the run's step, from 0: what a change over steps is counted by."""

    name: ClassVar[str] = "step"

    def __call__(self, rollouts: Rollouts, run: Any) -> Tensor:
        """Int [B]."""
        return torch.full((len(rollouts),), run.step_index)


@dataclass(frozen=True)
class ForeignEnds:
    """`foreign_end` [B T]: tokens that end a text for the policy and not for its teacher."""

    name: ClassVar[str] = "foreign_end"

    def __call__(self, rollouts: Rollouts, run: Any) -> Tensor:
        """Bool [B T]; none where both end texts alike."""
        return torch.isin(rollouts.ids, torch.tensor(run.foreign_ends, dtype=torch.int64)) & rollouts.mask
