"""A coefficient of the KL to the reference that follows a target (Ziegler et al., arXiv 1909.08593, as in RL4LMs)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rekindle.core.masked import masked_sum
from rekindle.core.types import Batch, Update

STATE = "kl_control"


def controlled(coef: float, kl: float, target: float, rate: float = 0.1, bound: float = 0.2) -> float:
    """coef * (1 + rate * e), e = (kl - target) / target kept within +-bound: by 2 % a step at the most."""
    return coef * (1 + rate * min(max((kl - target) / target, -bound), bound))


@dataclass(frozen=True, kw_only=True)
class KLCoefficient:
    """Fills `kl_coef` [B], the same in every row: `start` until `FollowKL` moves it."""

    start: float = 0.1

    def __call__(self, batch: Batch, run: Any) -> Batch:
        """The batch with the column; begins `run.memory["kl_control"]`."""
        state = run.memory.setdefault(STATE, {"coef": self.start, "sum": 0.0, "tokens": 0})
        return batch.with_columns(kl_coef=torch.full_like(batch.score, state["coef"]))


@dataclass(frozen=True, kw_only=True)
class FollowKL:
    """Moves the coefficient once a step by the rollouts' mean log pi - log pi_ref a token. target: None leaves it."""

    target: float | None = 0.1
    rate: float = 0.1
    bound: float = 0.2

    def __post_init__(self) -> None:
        if not (self.target is None or self.target > 0):
            raise ValueError(f"the target of a KL is a number above 0 in nats, or none, not {self.target}")

    def __call__(self, run: Any, update: Update) -> None:
        """Adds an update's rows up: every epoch has all of them, so that any number of epochs gives their mean."""
        state, live = run.memory[STATE], update.batch.live
        gap = update.batch.logp_old.where(live, 0.0) - update.batch.column("logp_ref").where(live, 0.0)
        state["sum"] += masked_sum(gap, live).item()
        state["tokens"] += int(live.sum())
        if update.last:
            if state["tokens"] and self.target is not None:
                kl = state["sum"] / state["tokens"]
                state["coef"] = controlled(state["coef"], kl, self.target, self.rate, self.bound)
            state |= {"sum": 0.0, "tokens": 0}


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """Brings the run's frozen copy `name` to the current weights after every `every`-th step (from 1 on); 0: never."""

    name: str
    every: int

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"a copy is refreshed every so many steps, 0 for never, not {self.every}")

    def __call__(self, run: Any, update: Update) -> None:
        """Acts at the step's last update, so that all passes of a step see one copy; a mask that is off has none."""
        due = update.last and self.every and (run.step_index + 1) % self.every == 0
        if due and self.name in run.references:
            run.snapshot(self.name)
