"""Macro actions: runs of tokens that are credited as one (MA-RLHF, Chai et al., arXiv 2410.02743): where they end.

A rule fills the column `macro` [B T]: the number (0, 1, ...) of each live position's macro action, -1 elsewhere. A row
is cut by itself: off live positions nothing counts, neither padding nor a gap. `rekindle.core.macro_gae` credits them;
`rekindle.tokens.trees` has the rule that reads the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rekindle.core.random import uniforms
from rekindle.core.returns import last_live
from rekindle.core.types import LOGP_REF, Batch, Need


def live_place(live: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """How many live positions of the row lie before each live position; -1 elsewhere."""
    return (live.long().cumsum(dim=1) - 1).where(live, -1)


def counted(starts: Bool[Tensor, "B T"], live: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Numbers of the macro actions that begin at `starts`; the first live position begins one in any case."""
    starts = live & (starts | (live_place(live) == 0))
    return (starts.long().cumsum(dim=1) - 1).where(live, -1)


def macro_starts(macro: Int[Tensor, "B T"], live: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """True at the first live position of each macro action; the numbers may skip some, but never fall."""
    highest = macro.where(live, -1).cummax(dim=1).values
    return live & (highest > torch.nn.functional.pad(highest[:, :-1], (1, 0), value=-1))


def last_apart(macro: Int[Tensor, "B T"], live: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The numbers with the last live position of each row as a macro action of its own. None is ever empty."""
    return counted(macro_starts(macro, live) | last_live(live), live)


@dataclass(frozen=True, kw_only=True)
class FixedMacros:
    """A new macro action every `n` live positions; none: the whole response is one. n = 1 is PPO over tokens."""

    n: int | None = 5
    needs: ClassVar[tuple[Need, ...]] = ()

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ValueError(
                f"the length of macro actions is a whole number of tokens from 1 up, or none for the whole response, "
                f"not {self.n}: 5 is usual"
            )

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `macro`."""
        place = live_place(batch.live)
        macro = place.clamp(max=0) if self.n is None else (place // self.n)
        return batch.with_columns(macro=macro.where(batch.live, -1))


@dataclass(frozen=True, kw_only=True)
class RandomMacros:
    """Lengths in random order: each of `lengths`, `repeat` times; when they are used up, the rest is one macro action.

    Each row has an order of its own, by (key, uid): neither batching nor padding changes it.
    """

    lengths: tuple[int, ...] = (1, 2, 3, 5, 10)
    repeat: int = 3
    needs: ClassVar[tuple[Need, ...]] = ()

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"random lengths of macro actions are whole numbers from 1 up, not {self.lengths}")
        if self.repeat < 1:
            raise ValueError(f"each length of macro actions is repeated 1 time or more, not {self.repeat}")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `macro`."""
        every = torch.tensor(self.lengths * self.repeat, device=batch.uid.device)
        # The key is not the sampler's, whose draws chose the tokens.
        order = uniforms(batch.key - 2, batch.uid, len(every)).argsort(dim=1)
        macro = torch.searchsorted(every[order].cumsum(dim=1), live_place(batch.live), right=True)
        return batch.with_columns(macro=macro.where(batch.live, -1))


@dataclass(frozen=True, kw_only=True)
class PerplexityMacros:
    """A macro action lasts while the reference's perplexity of its tokens, exp(-logp_ref), does not rise.

    starts: "at_rise" begins a new one at the token that is harder than the one before it; "before_rise", as official
    code does, at the one before it.
    """

    starts: Literal["at_rise", "before_rise"] = "at_rise"
    needs: ClassVar[tuple[Need, ...]] = (LOGP_REF,)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `macro`."""
        live = batch.live
        order = (~live).long().argsort(dim=1, stable=True)  # live positions side by side, in their order
        hard = (-batch.column("logp_ref")).where(live, -torch.inf).gather(1, order)
        rises = hard[:, 1:] > hard[:, :-1]
        side = (1, 0) if self.starts == "at_rise" else (0, 1)
        rises = torch.nn.functional.pad(rises, side, value=False)
        return batch.with_columns(macro=counted(torch.zeros_like(live).scatter(1, order, rises), live))
