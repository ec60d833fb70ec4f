"""Generalised advantage estimation (Schulman et al., arXiv 1506.02438) over tokens, segments or any other last axis.

A_t = delta_t + gamma * lam * A_{t+1} with delta_t = r_t + gamma * V_{t+1} - V_t; the value after the last one is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.advantages import require_finite
from rekindle.core.masked import whiten
from rekindle.core.returns import last_live
from rekindle.core.types import VALUE_OLD, Batch, Need


def gae(
    reward: Float[Tensor, "B T"], value: Float[Tensor, "B T"], on: Bool[Tensor, "B T"], gamma: float, lam: float
) -> Float[Tensor, "B T"]:
    """Advantages [B T], 0 where `on` is False; such a position passes the next value and advantage on unchanged."""
    reward, value = reward.where(on, 0.0), value.where(on, 0.0)
    out = torch.zeros_like(value)
    after, advantage = torch.zeros_like(value[:, 0]), torch.zeros_like(value[:, 0])
    for t in reversed(range(value.shape[1])):
        here = reward[:, t] + gamma * after - value[:, t] + gamma * lam * advantage
        after, advantage = torch.where(on[:, t], value[:, t], after), torch.where(on[:, t], here, advantage)
        out[:, t] = advantage.where(on[:, t], 0.0)
    return out


def reward_at_end(batch: Batch) -> Float[Tensor, "B T"]:
    """The score of each row at its last live position, 0 elsewhere."""
    return batch.score[:, None].where(last_live(batch.live), 0.0)


def check_discounts(gamma: float, lam: float) -> None:
    """ValueError where one of the two is no number from 0 to 1."""
    for name, number in (("gamma", gamma), ("lam", lam)):
        if not 0 <= number <= 1:
            raise ValueError(f"{name} of generalised advantages is a number from 0 to 1, not {number}")


@dataclass(frozen=True, kw_only=True)
class Returns:
    """Fills `returns` [B T], the targets of the value head: GAE advantage plus value, 0 off live positions.

    by_token: rewards are those of the column `reward` [B T]; else the score at a row's last live position.
    """

    gamma: float = 1.0
    lam: float = 0.95
    by_token: bool = False
    needs: ClassVar[tuple[Need, ...]] = (VALUE_OLD,)
    reads_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_discounts(self.gamma, self.lam)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `returns`; reads `value_old` and the rewards."""
        require_finite(batch)
        value = batch.column("value_old").where(batch.live, 0.0)
        reward = (batch.column("reward") if self.by_token else reward_at_end(batch)).to(value.dtype)
        return batch.with_columns(returns=gae(reward, value, batch.live, self.gamma, self.lam) + value)


@dataclass(frozen=True, kw_only=True)
class OverValue:
    """returns - value_old: what `Returns` found the actions worth beyond the value head's guess.

    whiten: to mean 0 and variance 1 over all live tokens of the batch (all 0 where every value is the same).
    """

    whiten: bool = True
    ddof: int = 1  # verl, masked_whiten
    eps: float = 1e-8  # added to the variance: verl
    needs_group: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (VALUE_OLD,)

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages [B T], 0 off live positions."""
        live = batch.live
        over = batch.column("returns").where(live, 0.0) - batch.column("value_old").where(live, 0.0)
        return whiten(over, live, ddof=self.ddof, eps=self.eps) if self.whiten else over
