"""Generalised advantages over macro actions: the tokens of one share its advantage and its return (arXiv 2410.02743).

Vbar_j, the value of macro action j, is a weighted mean over its tokens, Rbar_j is its reward; Adv_j is `gae` over j in
place of tokens. With one token each, this is PPO over tokens, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rekindle.core.gae import OverValue, check_discounts, gae
from rekindle.core.macro import counted, last_apart, live_place, macro_starts
from rekindle.core.segments import segment_spread, segment_totals
from rekindle.core.types import VALUE_OLD, Batch, Metrics, Need

Sigma = Literal["equal", "unit", "position", "start"]


def sigma_weights(macro: Int[Tensor, "B T"], sigma: Sigma, dtype: torch.dtype) -> Float[Tensor, "B T"]:
    """Weights that sum to 1 over each macro action, 0 where `macro` is -1.

    "equal": the mean. "unit": the last token, "start": the first one alone. "position": as 1, 1/2, 1/3, ...
    """
    live = macro >= 0
    place, ones = live_place(live), live.to(dtype)
    offset = place - place.where(macro_starts(macro, live), 0).cummax(dim=1).values
    size = segment_spread(segment_totals(ones, macro), macro)
    raw = {
        "equal": ones,
        "unit": (offset + 1 == size).to(dtype),
        "position": 1 / (1 + offset).clamp(min=1).to(dtype),
        "start": (offset == 0).to(dtype),
    }[sigma].where(live, 0.0)
    return raw / segment_spread(segment_totals(raw, macro), macro).where(live, 1.0)


@dataclass(frozen=True, kw_only=True)
class MacroReturns:
    """Fills `returns` and `value_macro` [B T], the same for all tokens of a macro action, and numbers `macro` anew.

    sigma: how values are averaged (`sigma_weights`). "start" is the only one whose baseline knows nothing of the tokens
    that it judges. reward: the "sum" of a macro action's token rewards, or the "mean" by the same weights (official
    code; divides a KL in the reward by the length). last_alone: the last token is a macro action of its own; always so
    with "mean", which would else divide the score.
    """

    gamma: float = 1.0
    lam: float = 0.95
    sigma: Sigma = "equal"
    reward: Literal["sum", "mean"] = "sum"
    last_alone: bool = False
    needs: ClassVar[tuple[Need, ...]] = (VALUE_OLD,)

    def __post_init__(self) -> None:
        check_discounts(self.gamma, self.lam)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the three columns; reads `macro`, `reward` and `value_old`."""
        live = batch.live
        value = batch.column("value_old").where(live, 0.0)
        reward = batch.column("reward").where(live, 0.0).to(value.dtype)
        macro = batch.column("macro").where(live, -1)
        if self.last_alone or self.reward == "mean":
            macro = last_apart(macro, live)
        macro = counted(macro_starts(macro, live), live)
        share = sigma_weights(macro, self.sigma, value.dtype)
        values = segment_totals(share * value, macro)
        rewards = segment_totals(reward if self.reward == "sum" else share * reward, macro)
        there = segment_totals(live.to(value.dtype), macro) > 0
        returns = gae(rewards, values, there, self.gamma, self.lam) + values
        spread = {"returns": segment_spread(returns, macro), "value_macro": segment_spread(values, macro)}
        return batch.with_columns(macro=macro, **spread)

    def report(self, batch: Batch) -> Metrics:
        """`macro/tokens`: mean length of a macro action. `macro/by_token`: share of rows in which each is one token."""
        live, macro = batch.live, batch.column("macro")
        tokens, actions = live.sum(dim=1), macro_starts(macro, live).sum(dim=1)
        single = ((tokens == actions) & batch.live_rows).sum().item()
        return {
            "macro/tokens": (float(tokens.sum().item()), float(actions.sum().item())),
            "macro/by_token": (float(single), float(batch.live_rows.sum().item())),
        }


@dataclass(frozen=True, kw_only=True)
class OverMacroValue:
    """returns - value_macro: one advantage a macro action, on each of its tokens. whiten: as `OverValue`."""

    whiten: bool = False
    ddof: int = 1
    eps: float = 1e-8
    needs_group: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T], 0 off live positions."""
        over = OverValue(whiten=self.whiten, ddof=self.ddof, eps=self.eps)
        return over(batch.with_columns(value_old=batch.column("value_macro")))
